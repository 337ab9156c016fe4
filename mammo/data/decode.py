"""One picture, decoded safely: PNG, PGM, TIFF or DICOM bytes to the grey levels that were saved.

What would change them is refused: lossy pictures (JPEG moves votes), an orientation other than upright.
An ICC profile is ignored: it says how to show grey levels, not what they are.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from mammo.core.errors import DataError, MammoError
from mammo.core.records import MIN_PATCH_PX, ROI_SIDE_PX

GreyImage = npt.NDArray[np.uint8]
SizeCheck = Callable[[int, int, str], None]
"""Of width, height and name; `DataError` for a size that is not wanted."""

PIXEL_MM: Final = 0.2
"""Side of a pixel of mini-MIAS, to which other films are brought where their header tells theirs."""

MAX_PIXELS: Final = 32_000_000
"""The largest full-field digital mammograms have about 28 million pixels."""

MAX_TILE_PX: Final = 1024
"""Of a TIFF whose sides are smaller: a decoder fills whole tiles, however little of them the picture needs."""

MAX_FILE_BYTES: Final = 64 * 2**20
MAX_ROI_BYTES: Final = 2**19
"""The 14,400 grey levels of a ROI with a generous header; a parser of millions of empty parts takes seconds."""

MAX_CHUNKS: Final = 10_000
"""Of a PNG; writers put 8 KiB or more of a large picture into a chunk."""

PHANTOM_ROI: Final = Path(__file__).with_name("phantom_roi.png")
"""A synthetic ROI with a spiculated lesion: the reference that a version is checked on, and an example to try."""

_JPEG: Final = b"\xff\xd8\xff"

_PILLOW_FORMATS: Final[dict[bytes, tuple[str, Callable[..., ImageFile]]]] = {
    b"\x89PNG\r\n\x1a\n": ("PNG", PngImageFile),
    b"II*\0": ("TIFF", TiffImageFile),
    b"MM\0*": ("TIFF", TiffImageFile),
    b"P2": ("PGM", PpmImageFile),
    b"P5": ("PGM", PpmImageFile),
}
"""How a file begins, and what opens it, by its header alone: the size is checked before a pixel is decoded."""

_DICOM_MARK: Final = slice(128, 132)


class Picture(NamedTuple):
    """Grey levels of shape (height, width), and the side of a pixel in mm, None where the file does not tell it."""

    grey: GreyImage
    spacing_mm: float | None = None


def decode_picture(content: bytes, name: str) -> Picture:
    """Decode a grey picture of any reasonable size.

    Args:
        content: a PNG, PGM (P2, P5), TIFF or DICOM file. 8-bit grey is taken as it is, RGB with three
            equal channels counts as grey, DICOM is shown in 8 bits as `mammo.data.dicom` says.
        name: what the messages call the picture.

    Raises:
        DataError: the content is empty, damaged, no picture of these formats, smaller than 32 pixels
            on a side, larger than `MAX_PIXELS`, in colour, with alpha, not 8-bit, of several frames,
            lossy or turned, or its pixels are not square.
    """
    return _decode(content, name, check_image_size)


def decode_image(content: bytes, name: str) -> GreyImage:
    """The grey levels of `decode_picture`."""
    return decode_picture(content, name).grey


def decode_roi(content: bytes, name: str) -> GreyImage:
    """Decode a ROI as `decode_image` does; its shape must be (120, 120).

    Raises:
        DataError: as `decode_image`, or the picture is not 120 × 120 pixels, larger than `MAX_ROI_BYTES`, or tells
            another size of its pixels than `PIXEL_MM`.
    """
    if len(content) > MAX_ROI_BYTES:
        raise DataError(
            f"{name}: a ROI's file must have at most {MAX_ROI_BYTES} bytes, got more; save its "
            f"{ROI_SIDE_PX} x {ROI_SIDE_PX} pixels alone; of a film, name the ROI's place with `mammo predict FILM "
            "--at X,Y`"
        )
    grey, spacing_mm = _decode(content, name, _check_roi_size)
    check_roi_spacing(spacing_mm, name)
    return grey


def read_roi(path: Path) -> GreyImage:
    """Read a ROI's file, shape (120, 120); `DataError` where it cannot be read or `decode_roi` refuses it."""
    return decode_roi(read_picture(path), str(path))


def check_roi_array(pixels: Any, name: str) -> GreyImage:
    """Check that rows of pixels are a ROI's grey levels and return them as uint8, shape (120, 120).

    Raises:
        DataError: the shape is not (120, 120), or a value is not a whole number in 0..255.
    """
    try:
        values = np.stack([np.asarray(row) for row in pixels])
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: a ROI must be equally long rows of numbers ({error}); send 120 of 120") from error
    if values.shape != (ROI_SIDE_PX, ROI_SIDE_PX):
        raise DataError(
            f"{name}: a ROI array must have the shape ({ROI_SIDE_PX}, {ROI_SIDE_PX}), got {values.shape}; "
            "crop it around the region and drop colour or batch axes"
        )
    if values.dtype.kind not in "iuf":
        raise DataError(f"{name}: a ROI array must hold numbers, got {values.dtype}; convert it to uint8")
    if not ((values >= 0) & (values <= 255) & (values == np.rint(values))).all():
        raise DataError(
            f"{name}: grey levels must be whole numbers in 0..255, got values from {values.min()} to {values.max()}; "
            "rescale to 8 bits and round"
        )
    return values.astype(np.uint8)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture's file; `DataError` where the path is missing, a folder, too large or unreadable."""
    try:
        if path.is_dir():
            raise DataError(f"{path}: a picture must be one image file, got a folder; name a file inside it")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise DataError(f"{path}: a picture's file must have at most {MAX_FILE_BYTES} bytes, got {size}; crop it")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; check the path of the picture") from error
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({why}); check the path and its permissions") from error


def check_image_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is too small to hold a patch or larger than any mammogram (`DataError`)."""
    if min(width, height) < MIN_PATCH_PX:
        raise DataError(
            f"{name}: an image must be at least {MIN_PATCH_PX} pixels on each side, got {width} x {height}; "
            "send the uncropped image"
        )
    if width * height > MAX_PIXELS:
        raise DataError(f"{name}: an image must have at most {MAX_PIXELS} pixels, got {width} x {height}; crop it")


def _check_roi_size(width: int, height: int, name: str) -> None:
    if (width, height) != (ROI_SIDE_PX, ROI_SIDE_PX):
        raise DataError(
            f"{name}: a ROI must be {ROI_SIDE_PX} x {ROI_SIDE_PX} pixels, got {width} x {height}; "
            "of a film, name the ROI's place with `mammo predict FILM --at X,Y`, which cuts it as in training"
        )


def check_roi_spacing(spacing_mm: float | None, name: str) -> None:
    """Refuse a ROI whose pixels are known to have another side than `PIXEL_MM` (`DataError`)."""
    if spacing_mm is not None and abs(spacing_mm / PIXEL_MM - 1) > 0.01:
        raise DataError(
            f"{name}: pixels of a ROI must be {PIXEL_MM} mm wide, got {spacing_mm:g} mm; give its film and the ROI's "
            "place, which is cut at that size"
        )


def _decode(content: bytes, name: str, check_size: SizeCheck) -> Picture:
    if not content:
        raise DataError(f"{name}: an image file must not be empty, got 0 bytes; export it again")
    if content[_DICOM_MARK] == b"DICM":
        from mammo.data.dicom import decode_dicom

        with _damage_refused(name, "DICOM"):
            return Picture(*decode_dicom(content, name, check_size))
    for beginning, (title, open_format) in _PILLOW_FORMATS.items():
        if content.startswith(beginning):
            with _damage_refused(name, title):
                return Picture(_decode_with_pillow(content, name, title, open_format, check_size))
    if content.startswith(_JPEG):
        raise _lossy(name, "JPEG")
    raise DataError(
        f"{name}: an image must be PNG, PGM (P2 or P5), TIFF or DICOM, got bytes that start with "
        f"{content[:8]!r}; convert it to PNG"
    )


def _lossy(name: str, title: str) -> DataError:
    return DataError(
        f"{name}: an image must be lossless, got {title}, whose compression moves grey levels and with them votes; "
        "save the original picture as PNG"
    )


@contextmanager
def _damage_refused(name: str, title: str) -> Iterator[None]:
    # What the decoders warn about is harmless or raises soon after.
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom|mammo\.data\.(decode|dicom))\b")
    try:
        yield
    except (MammoError, MemoryError):
        raise
    except Exception as error:  # Pillow and pydicom raise of every kind for damaged content
        raise DataError(
            f"{name}: is not a whole {title} file ({error}); it is truncated or damaged, export it again"
        ) from error


def _decode_with_pillow(
    content: bytes, name: str, title: str, open_format: Callable[..., ImageFile], check_size: SizeCheck
) -> GreyImage:
    if title == "PNG":
        _check_chunks(content, name)
    with open_format(BytesIO(content)) as image:
        check_size(image.width, image.height, name)
        if isinstance(image, TiffImageFile):
            limit = max(MAX_TILE_PX, image.width, image.height)
            if (side := max(image.tag_v2.get(tag, 0) for tag in (TILEWIDTH, TILELENGTH))) > limit:
                raise DataError(
                    f"{name}: tiles of a TIFF of this size must have at most {limit} pixels on each side, got "
                    f"{side}; save it without tiles"
                )
        _check_grey(image, content, name, title)
        pixels = np.array(image)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise DataError(f"{name}: a mammogram must be grey, got colour pixels; convert it to 8-bit grey")
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels


def _check_chunks(content: bytes, name: str) -> None:
    position = len(b"\x89PNG\r\n\x1a\n")
    for _ in range(MAX_CHUNKS):
        if position >= len(content):
            return
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    raise DataError(f"{name}: a PNG must have at most {MAX_CHUNKS} chunks, got more; save it again")


def _check_grey(image: ImageFile, content: bytes, name: str, title: str) -> None:
    """Refuse what is not one frame of 8-bit grey, or RGB that may turn out to be grey."""
    remedy = "convert it to 8-bit grey"
    if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise _lossy(name, f"{title} compressed as {image.info['compression']}")
    if getattr(image, "is_animated", False):
        raise DataError(f"{name}: must hold one frame, got a {title} of several; save the frame you mean")
    if "A" in image.getbands() or "transparency" in image.info:
        raise DataError(f"{name}: must not have an alpha channel, got {title} mode {image.mode}; {remedy}")
    # Pillow reads 16-bit RGB PNG as 8-bit without a word; byte 24 is the bit depth in its header.
    if image.mode.startswith(("I", "F")) or (title == "PNG" and content[24] == 16):
        raise DataError(f"{name}: 8-bit grey is required, got {title} with more bits a pixel; {remedy}")
    if image.mode not in ("L", "RGB"):
        raise DataError(f"{name}: 8-bit grey is required, got {title} mode {image.mode}; {remedy}")
    # Pillow turns TIFF and no PNG by this tag, and browsers turn both.
    orientation = image.getexif().get(Base.Orientation, 1)
    if orientation != 1:
        raise DataError(
            f"{name}: the tag Orientation must be 1 (upright), got {orientation} in {title}; turn the pixels "
            "themselves and save without the tag"
        )
