"""One DICOM frame as a viewer shows it, in grey levels from 0 (black) to 255.

Stored values pass the modality transform (PS3.3 C.11.1), then the VOI transform (C.11.2): the first lookup
table, which was made for this image, else the first window, else the identity over the range of the bits
stored; empty elements count as absent. MONOCHROME1 is inverted, and padding is black. Lossy compression
inside DICOM is accepted, as it is clinical practice.
"""

import struct
from collections.abc import Callable
from io import BytesIO
from itertools import count
from math import inf, isclose, isfinite
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, RLELossless

from mammo.core.errors import DataError

MAX_ELEMENTS: Final = 5_000
"""Elements and items of sequences; a mammogram has a few hundred. The parser takes up to 40 µs for each."""

_ITEMS: Final = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"

_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_RLE_HEADERS: Final = 1024
"""Bytes of offset table, item tags and segment header, generously."""

_REQUIRED: Final = ("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit")

_FRAME_HEADERS: Final = {*range(0xC0, 0xD0), 0xDE, 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG and JPEG-LS markers that tell the size of what follows."""

_USED: Final = 1 / 8
"""Of the possible range. Deep grey levels that fill less are held in more bits than they have, as 12 in 16;
the flattest ROI of the archive fills 35 of 256 levels."""

Values = npt.NDArray[np.int_]
Levels = npt.NDArray[np.float64]
"""0 (the range's lowest value) to 1 (its highest)."""


def decode_dicom(
    content: bytes, name: str, check_size: Callable[[int, int, str], None]
) -> tuple[npt.NDArray[np.uint8], float | None]:
    """Decode one grey frame, shape (Rows, Columns), and the distance of neighbouring pixels' centres in mm.

    The distance is None where the file does not tell it. Imager Pixel Spacing (at the detector) comes before Nominal
    Scanned Pixel Spacing (of a digitised film) and Pixel Spacing.

    Raises:
        DataError: `check_size` refuses width and height, or this is not one grey frame for presentation of 8 to 16
            bits, or its elements are missing or contradict each other.
        Exception: whatever pydicom raises, where the file is damaged.
    """
    dataset = _parse(content, name)
    _check_header(dataset, name, check_size)
    stored = pixel_array(dataset, decoding_plugin=_checked_plugin(dataset, name))
    # Every value that the bits can hold, where a stored value, also a negative one, finds itself as an index.
    size = 2**dataset.BitsStored
    values = np.arange(size)
    if dataset.get("PixelRepresentation"):
        values[size // 2 :] -= size
    padding = _padding(values, dataset)
    seen = np.zeros(size, dtype=bool)
    seen[stored] = True
    levels = _displayed(values, seen & ~padding, dataset, name)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        levels = 1 - levels
    grey: npt.NDArray[np.uint8] = np.rint(255 * np.where(padding, 0, levels)).astype(np.uint8)[stored]
    return grey, _spacing_mm(dataset, name)


def _spacing_mm(dataset: Dataset, name: str) -> float | None:
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacing"):
        if spacing := dataset.get(keyword):
            sides = [float(side) for side in np.atleast_1d(spacing)]
            if len(sides) != 2 or not 0.001 <= sides[0] <= 10 or not isclose(*sides, rel_tol=1e-3):
                raise DataError(
                    f"{name}: DICOM {keyword} must be two equal numbers of 0.001 to 10 mm, got {spacing}; correct "
                    "it, or resample the image to square pixels"
                )
            return sides[0]
    return None


def _parse(content: bytes, name: str) -> Dataset:
    if _DEFLATED in content:
        raise DataError(f"{name}: DICOM must not be deflated, as its size cannot be told first; inflate it")
    found = count(1 + sum(map(content.count, _ITEMS)))

    def stop(*_: object) -> bool:
        if next(found) > MAX_ELEMENTS:
            raise DataError(f"{name}: DICOM must have at most {MAX_ELEMENTS} elements, got more; export it again")
        return False

    return read_partial(BytesIO(content), stop_when=stop)


def _check_header(dataset: Dataset, name: str, check_size: Callable[[int, int, str], None]) -> None:
    if not dataset.get("PixelData"):
        raise DataError(f"{name}: a DICOM file must hold an image, got none; send the image object")
    if missing := [keyword for keyword in _REQUIRED if dataset.get(keyword) in (None, "")]:
        raise DataError(f"{name}: DICOM {missing[0]} must have a value, got none; export the image again")
    check_size(int(dataset.Columns), int(dataset.Rows), name)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"{name}: must hold one frame, got {frames} in the DICOM file; export one frame")
    kind = dataset.PhotometricInterpretation
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{name}: a mammogram must be grey, got DICOM {kind}; convert it to MONOCHROME2")
    shape = dataset.get("PresentationLUTShape")
    if shape and shape != ("INVERSE" if kind == "MONOCHROME1" else "IDENTITY"):
        raise DataError(
            f"{name}: DICOM PresentationLUTShape must be INVERSE with MONOCHROME1 and IDENTITY with "
            f"MONOCHROME2, got {shape} with {kind}; correct the wrong one"
        )
    intent = dataset.get("PresentationIntentType")
    if intent == "FOR PROCESSING" or "For Processing" in UID(dataset.get("SOPClassUID") or "").name:
        raise DataError(
            f"{name}: a DICOM mammogram must be FOR PRESENTATION, got the detector's raw values (FOR "
            "PROCESSING), which no model here has seen; export the image FOR PRESENTATION"
        )
    allocated, bits, high_bit = dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit
    if allocated not in (8, 16) or not 8 <= bits <= allocated or high_bit != bits - 1:
        raise DataError(
            f"{name}: DICOM must have 8 to 16 BitsStored in 8 or 16 BitsAllocated and a HighBit one below "
            f"BitsStored, got {bits}, {allocated} and {high_bit}; export it again"
        )


def _checked_plugin(dataset: Dataset, name: str) -> str:
    """What decodes the pixels, after a look at the size of what it would unpack."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return ""
    if syntax == RLELossless:
        # RLE can be longer than what it packs by 1 in 128 at most; a decoder would unpack all that is there.
        limit = 2 * dataset.Rows * dataset.Columns * (dataset.BitsAllocated // 8) + _RLE_HEADERS
        if len(dataset.PixelData) > limit:
            raise DataError(
                f"{name}: the RLE data of this many pixels must have at most {limit} bytes, got "
                f"{len(dataset.PixelData)}; export it again"
            )
        return "pydicom"
    try:
        plugins = get_decoder(syntax).available_plugins
    except NotImplementedError as error:
        raise DataError(
            f"{name}: DICOM must be uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000, got {syntax.name}; "
            "decompress it, for example with gdcmconv"
        ) from error
    if "pylibjpeg" not in plugins:  # Pillow decodes lossy JPEG to other levels, so it never steps in
        raise DataError(
            f"{name}: DICOM in {syntax.name} needs the extra `dicom`, got an installation without it; "
            "pip install '.[dicom]' in the project's folder, or decompress the file, for example with gdcmconv"
        )
    wanted = dataset.Columns, dataset.Rows, 1
    found = _codestream_size(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    if found != wanted:
        raise DataError(
            f"{name}: compressed pixels must have the columns, rows and channels of the DICOM header, {wanted}, "
            f"got {found}; export it again"
        )
    return "pylibjpeg"


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """Width, height and channels by the header of JPEG 2000 (SIZ), or of JPEG and JPEG-LS (SOF)."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        return right - left, bottom - top, struct.unpack_from(">H", frame, 40)[0]
    at = 2
    while True:
        marker, length = struct.unpack_from(">xBH", frame, at)
        if marker in _FRAME_HEADERS:
            height, width, channels = struct.unpack_from(">HHB", frame, at + 5)
            return width, height, channels
        at += 2 + length


def _padding(values: Values, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Which values are background that was filled in (C.7.5.1.1.2)."""
    first, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if first is None:
        return np.zeros(len(values), dtype=bool)
    # Writers give the bits of a negative value as an unsigned number, and the other way round.
    low = values.min()
    ends = (np.array([first, first if limit is None else limit]) - low) % 2**dataset.BitsAllocated + low
    padded: npt.NDArray[np.bool_] = (values >= ends.min()) & (values <= ends.max())
    return padded


def _displayed(stored: Values, seen: npt.NDArray[np.bool_], dataset: Dataset, name: str) -> Levels:
    """Levels of all values that can be stored; `seen` are those of the image."""
    low, high, values = float(stored.min()), float(stored.max()), stored.astype(np.float64)
    if tables := dataset.get("ModalityLUTSequence"):
        levels, high = _looked_up(values, tables[0], low < 0, dataset, name)
        values, low = levels * high, 0.0
    else:
        slope, intercept = (_first(dataset, f"Rescale{part}") for part in ("Slope", "Intercept"))
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        low, high = sorted((low * slope + intercept, high * slope + intercept))
        if not (low < high and isfinite(high - low)):
            raise DataError(
                f"{name}: DICOM RescaleSlope and RescaleIntercept must keep values apart and finite, got "
                f"{slope:g} and {intercept:g}; export it again"
            )
        values = values * slope + intercept
    centre, width = (_first(dataset, f"Window{part}") for part in ("Center", "Width"))
    if tables := dataset.get("VOILUTSequence"):
        levels, _ = _looked_up(values, tables[0], low < 0, dataset, name)
        used, bits = levels, "LUTDescriptor"
    elif centre is not None or width is not None:
        return _windowed(values, centre, width, dataset.get("VOILUTFunction") or "LINEAR", name)
    else:
        levels = np.interp(values, (low, high), (0, 1))
        if dataset.BitsStored == 8:
            return levels
        used, bits = levels[seen], "BitsStored without a window"
    if (share := used.max(initial=0) - used.min(initial=1)) < _USED:
        raise DataError(
            f"{name}: DICOM values must use {_USED:.1%} of the range of {bits}, got {max(share, 0):.1%}; correct the "
            "bits, or set WindowCenter and WindowWidth"
        )
    return levels


def _first(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)


def _windowed(values: Levels, centre: float | None, width: float | None, function: str, name: str) -> Levels:
    least = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}.get(function)
    if least is None:
        raise DataError(
            f"{name}: DICOM VOILUTFunction must be LINEAR, LINEAR_EXACT or SIGMOID, got {function}; correct it"
        )
    if centre is None or width is None or not isfinite(centre) or not max(least, 1e-9) <= width < inf:
        raise DataError(
            f"{name}: DICOM WindowCenter and WindowWidth must be a number and a positive number (at least 1 if "
            f"LINEAR), got {centre} and {width}; correct or remove both"
        )
    # A data set without a rescale: pydicom takes the ends of its output from there, so that a negative slope, which
    # the values have passed, would turn them a second time.
    view = Dataset()
    view.PhotometricInterpretation, view.BitsStored, view.PixelRepresentation = "MONOCHROME2", 16, 0
    view.WindowCenter, view.WindowWidth, view.VOILUTFunction = centre, width, function
    return apply_windowing(values, view) / (2**16 - 1)


def _looked_up(values: Levels, item: Dataset, signed: bool, dataset: Dataset, name: str) -> tuple[Levels, float]:
    """Levels by a table (C.11.1.1, C.11.2.1.1), and the highest value that its entries can have.

    pydicom counts a table's index in the type of its entries or of the pixels, which wraps where the
    table is longer, and cannot read tables of 12 bits or of packed bytes.
    """
    entries, first, bits = item.LUTDescriptor
    entries = entries % 2**16 or 2**16
    if signed and first >= 2**15:
        first -= 2**16
    table = np.atleast_1d(item.LUTData)
    if isinstance(item.LUTData, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(item.LUTData, f"{order}u2").astype("<u2")
        if len(table) < entries:
            table = table.view(np.uint8)
    table, highest = table[:entries], 2.0**bits - 1
    if not 8 <= bits <= 16 or len(table) < entries or table.max() > highest:
        raise DataError(
            f"{name}: a DICOM LUTDescriptor must tell LUTData's length and its 8 to 16 bits, got {entries} entries "
            f"of {bits} bits for {len(table)} up to {table.max(initial=0)}; correct it"
        )
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return table[index] / highest, highest
