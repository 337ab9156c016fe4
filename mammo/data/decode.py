"""One picture, decoded safely: PNG, PGM, TIFF, JPEG or DICOM bytes to grey levels."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from mammo.core.errors import DataError
from mammo.core.records import MIN_PATCH_PX, ROI_SIDE_PX

if TYPE_CHECKING:
    from pydicom import Dataset


GreyImage = npt.NDArray[np.uint8]
SizeCheck = Callable[[int, int, str], None]
"""Takes width, height and name; raises `DataError` for a size that is not wanted."""

MAX_PIXELS: Final = 32_000_000
"""The largest full-field digital mammograms have about 28 million pixels."""

MAX_TILE_PX: Final = 1024
"""Of a TIFF whose sides are smaller: a decoder fills whole tiles, however little of them the picture needs."""

MAX_FILE_BYTES: Final = 64 * 2**20

_PILLOW_FORMATS: Final[dict[bytes, tuple[str, Callable[..., ImageFile]]]] = {
    b"\x89PNG\r\n\x1a\n": ("PNG", PngImageFile),
    b"\xff\xd8\xff": ("JPEG", JpegImageFile),
    b"II*\0": ("TIFF", TiffImageFile),
    b"MM\0*": ("TIFF", TiffImageFile),
    b"P2": ("PGM", PpmImageFile),
    b"P5": ("PGM", PpmImageFile),
}
"""How a file begins, and what opens it, by its header alone: the size is checked before a pixel is decoded."""

_DICOM_MARK: Final = slice(128, 132)
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_RLE_HEADERS: Final = 1024
"""Bytes of offset table, item tags and segment header, generously."""

_SMALL, _LARGE = -(2**30), 2**30
"""Stored values beyond any window or lookup table."""

_BROKEN: Final = (
    *(OSError, EOFError, SyntaxError, ValueError, AttributeError, LookupError, ArithmeticError, TypeError),
    *(RuntimeError, struct.error, zlib.error),
)
"""What Pillow and pydicom raise for damaged content."""


def decode_image(content: bytes, name: str) -> GreyImage:
    """Decode a grey picture of any reasonable size.

    Args:
        content: a PNG, PGM (P2, P5), TIFF, JPEG or DICOM file. 8-bit grey is taken as it is, RGB with
            three equal channels counts as grey, DICOM is windowed to 8 bits.
        name: what the messages call the picture.

    Returns:
        Grey levels of shape (height, width).

    Raises:
        DataError: the content is empty, damaged, no picture of these formats, smaller than 32 pixels
            on a side, larger than `MAX_PIXELS`, in colour, with alpha, not 8-bit, or of several frames.
    """
    return _decode(content, name, _check_image_size)


def decode_roi(content: bytes, name: str) -> GreyImage:
    """Decode a ROI as `decode_image` does; its shape must be (120, 120).

    Raises:
        DataError: as `decode_image`, or the picture is not 120 × 120 pixels.
    """
    return _decode(content, name, _check_roi_size)


def read_roi(path: Path) -> GreyImage:
    """Read a ROI, shape (120, 120), from a file.

    Raises:
        DataError: the path is missing, a folder or unreadable, or `decode_roi` refuses its content.
    """
    return decode_roi(read_picture(path), str(path))


def read_image(path: Path) -> GreyImage:
    """Read a picture of any reasonable size, shape (height, width), from a file.

    Raises:
        DataError: the path is missing, a folder or unreadable, or `decode_image` refuses its content.
    """
    return decode_image(read_picture(path), str(path))


def pixel_spacing_mm(content: bytes, name: str = "DICOM") -> float | None:
    """Distance of neighbouring pixels' centres in mm; None where the file is not DICOM or does not tell.

    Imager Pixel Spacing (at the detector) comes before Nominal Scanned Pixel Spacing (of a digitised
    film) and Pixel Spacing.

    Raises:
        DataError: the file is damaged, or a spacing is not two equal positive numbers.
    """
    if content[_DICOM_MARK] != b"DICM":
        return None
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException

    try:
        header = dcmread(BytesIO(content), stop_before_pixels=True)
        for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacing"):
            if spacing := header.get(keyword):
                rows_mm, columns_mm = map(float, spacing)
                if not (0 < rows_mm < np.inf and isclose(rows_mm, columns_mm, rel_tol=1e-3)):
                    raise DataError(
                        f"{name}: {keyword} must be two equal positive numbers, got {rows_mm:g} and "
                        f"{columns_mm:g} mm; resample the image to square pixels"
                    )
                return rows_mm
    except (*_BROKEN, BytesLengthException) as error:
        raise DataError(f"{name}: its pixel spacing cannot be read ({error}); export it again") from error
    return None


def check_roi_array(array: Any, name: str) -> GreyImage:
    """Check that an array is a ROI's grey levels and return them as uint8, shape (120, 120).

    Raises:
        DataError: the shape is not (120, 120), or a value is not a whole number in 0..255.
    """
    try:
        values = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{name}: a ROI must be a rectangular array of numbers ({error})") from error
    if values.shape != (ROI_SIDE_PX, ROI_SIDE_PX):
        raise DataError(
            f"{name}: a ROI array must have the shape ({ROI_SIDE_PX}, {ROI_SIDE_PX}), got {values.shape}; "
            "crop it around the region and drop colour or batch axes"
        )
    if values.dtype.kind not in "iuf":
        raise DataError(f"{name}: a ROI array must hold numbers, got {values.dtype}; convert it to uint8")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{name}: a ROI array must be finite, got NaN or infinity; fill or drop those pixels")
    low, high = values.min(), values.max()
    if low < 0 or high > 255 or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        raise DataError(
            f"{name}: grey levels must be whole numbers in 0..255, got values from {low} to {high}; "
            "rescale to 8 bits and round"
        )
    return values.astype(np.uint8)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        DataError: the path is missing, a folder, too large or unreadable.
    """
    if path.is_dir():
        raise DataError(f"{path}: a picture must be one image file, got a folder; name a file inside it")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: a picture's file must have at most {MAX_FILE_BYTES} bytes, got {size}; crop it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; check the path of the picture") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _check_image_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_PATCH_PX:
        raise DataError(
            f"{name}: an image must be at least {MIN_PATCH_PX} pixels on each side, got {width} x {height}; "
            "send the uncropped image"
        )
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: an image must have at most {MAX_PIXELS} pixels, got {width} x {height}; crop it"
        )


def _check_roi_size(width: int, height: int, name: str) -> None:
    if (width, height) != (ROI_SIDE_PX, ROI_SIDE_PX):
        raise DataError(
            f"{name}: a ROI must be {ROI_SIDE_PX} x {ROI_SIDE_PX} pixels, got {width} x {height}; "
            "of a film, name the ROI's place with `mammo predict FILM --at X,Y`, which cuts it as in training"
        )


def _decode(content: bytes, name: str, check_size: SizeCheck) -> GreyImage:
    if not content:
        raise DataError(f"{name}: an image file must not be empty, got 0 bytes; export it again")
    known = [known for beginning, known in _PILLOW_FORMATS.items() if content.startswith(beginning)]
    is_dicom = content[_DICOM_MARK] == b"DICM"
    if not known and not is_dicom:
        raise DataError(
            f"{name}: an image must be PNG, PGM (P2 or P5), TIFF, JPEG or DICOM, got bytes that start with "
            f"{content[:8]!r}; convert it to PNG"
        )
    title = "DICOM" if is_dicom else known[0][0]
    # What the decoders warn about is harmless or raises soon after.
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom|mammo\.data\.decode)\b")
    try:
        if is_dicom:
            return _decode_dicom(content, name, check_size)
        return _decode_with_pillow(content, name, *known[0], check_size)
    except _BROKEN as error:
        raise DataError(
            f"{name}: is not a whole {title} file ({error}); it is truncated or damaged, export it again"
        ) from error


def _decode_with_pillow(
    content: bytes, name: str, title: str, open_format: Callable[..., ImageFile], check_size: SizeCheck
) -> GreyImage:
    with open_format(BytesIO(content)) as image:
        check_size(image.width, image.height, name)
        if isinstance(image, TiffImageFile):
            limit = max(MAX_TILE_PX, image.width, image.height)
            side = max(image.tag_v2.get(tag, 0) for tag in (TILEWIDTH, TILELENGTH))
            if side > limit:
                raise DataError(
                    f"{name}: tiles of a TIFF of this size must have at most {limit} pixels on each side, got "
                    f"{side}; save it without tiles"
                )
        _check_grey(image, content, name, title)
        pixels = np.array(image)
    if pixels.ndim == 2:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise DataError(f"{name}: a mammogram must be grey, got colour pixels; convert it to 8-bit grey")
    return np.ascontiguousarray(pixels[..., 0])


def _check_grey(image: ImageFile, content: bytes, name: str, title: str) -> None:
    """Refuse what is not one frame of 8-bit grey, or RGB that may turn out to be grey."""
    remedy = "convert it to 8-bit grey"
    if getattr(image, "is_animated", False):
        raise DataError(f"{name}: must hold one frame, got a {title} of several; save the frame you mean")
    if "A" in image.getbands() or "transparency" in image.info:
        raise DataError(f"{name}: must not have an alpha channel, got {title} mode {image.mode}; {remedy}")
    # Pillow reads 16-bit RGB PNG as 8-bit without a word; byte 24 is the bit depth in its header.
    if image.mode.startswith(("I", "F")) or (title == "PNG" and content[24] == 16):
        raise DataError(f"{name}: 8-bit grey is required, got {title} with more bits a pixel; {remedy}")
    if image.mode not in ("L", "RGB"):
        raise DataError(f"{name}: 8-bit grey is required, got {title} mode {image.mode}; {remedy}")


def _decode_dicom(content: bytes, name: str, check_size: SizeCheck) -> GreyImage:
    """Decode one uncompressed or RLE-compressed grey frame, shape (Rows, Columns), as a viewer shows it.

    The file's own window or VOI lookup table maps its stored values to 0..255 (DICOM PS3.3, C.11.2).
    Without one, values of up to 8 bits are kept and deeper ones are stretched from their minimum to
    their maximum. MONOCHROME1 is inverted, so that dense tissue is always bright.
    """
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException, InvalidDicomError

    if _DEFLATED in content:
        raise DataError(f"{name}: DICOM must not be deflated, as its size cannot be told first; inflate it")
    try:
        dataset = dcmread(BytesIO(content))
        _check_header(dataset, name, check_size)
        grey = _displayed(dataset.pixel_array, dataset)
    except (InvalidDicomError, BytesLengthException) as error:
        raise ValueError(error) from error
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def _check_header(dataset: "Dataset", name: str, check_size: SizeCheck) -> None:
    if "PixelData" not in dataset:
        raise DataError(f"{name}: a DICOM file must hold an image, got none; send the image object")
    check_size(int(dataset.Columns), int(dataset.Rows), name)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"{name}: must hold one frame, got {frames} in the DICOM file; export one frame")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(
            f"{name}: a mammogram must be grey, got DICOM {dataset.PhotometricInterpretation}; "
            "convert it to MONOCHROME2"
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax.name != "RLE Lossless":
        raise DataError(
            f"{name}: DICOM must be uncompressed or RLE, got {syntax.name}; decompress it, for example with "
            "dcmdjpeg or gdcmconv"
        )
    # RLE can be longer than what it packs by 1 in 128 at most; a decoder would unpack all that is there.
    raw = int(dataset.Rows) * int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)
    limit, found = 2 * raw + _RLE_HEADERS, len(dataset.PixelData)
    if syntax.is_encapsulated and found > limit:
        raise DataError(
            f"{name}: the RLE data of this many pixels must have at most {limit} bytes, got {found}; export it again"
        )


def _displayed(stored: npt.NDArray[np.integer], dataset: "Dataset") -> GreyImage:
    """Stored values → 0..255 by the file's own window or table, else by their range."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(stored, dataset)
    if "WindowCenter" in dataset or "VOILUTSequence" in dataset:
        # A window or table flattens everything beyond its ends: these two are its darkest and brightest.
        ends = apply_voi_lut(np.array([_SMALL, _LARGE]), dataset)
        low, high = float(ends.min()), float(ends.max())
        values = apply_voi_lut(values, dataset)
    elif dataset.BitsStored <= 8 and stored.min() >= 0:
        return stored.astype(np.uint8)
    else:
        low, high = float(values.min()), float(values.max())
    scale = 255 / (high - low) if high > low else 0.0
    grey: GreyImage = np.rint((np.clip(values, low, high) - low) * scale).astype(np.uint8)
    return grey
