"""Decoding a DICOM mammogram into 8-bit grey."""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from mammo.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

GreyImage = npt.NDArray[np.uint8]
SizeCheck = Callable[[int, int, str], None]
"""Takes width, height and name; raises `DataError` for a size that is not wanted."""

_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_BROKEN: Final = (
    OSError,
    EOFError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    TypeError,
    RuntimeError,
    struct.error,
)
"""What pydicom raises for damaged content, beside its own exceptions."""

_RLE_HEADERS: Final = 1024
"""Bytes of offset table, item tags and segment header, generously."""

_SMALL, _LARGE = -(2**30), 2**30
"""Stored values beyond any window or lookup table."""


def decode_dicom(content: bytes, name: str, check_size: SizeCheck) -> GreyImage:
    """Decode one uncompressed or RLE-compressed grey frame, shape (Rows, Columns), as a viewer shows it.

    The file's own window or VOI lookup table maps its stored values to 0..255 (DICOM PS3.3, C.11.2).
    Without one, values of up to 8 bits are kept and deeper ones are stretched from their minimum to
    their maximum. MONOCHROME1 is inverted, so that dense tissue is always bright.

    Raises:
        DataError: the file is damaged, compressed otherwise, in colour, of several frames, or
            `check_size` refuses its size.
    """
    from pydicom import dcmread
    from pydicom.errors import BytesLengthException, InvalidDicomError

    if _DEFLATED in content:
        raise DataError(f"{name}: DICOM must not be deflated, as its size cannot be told first; inflate it")
    try:
        dataset = dcmread(BytesIO(content))
        _check_header(dataset, name, check_size)
        stored = dataset.pixel_array
        grey = _displayed(stored, dataset)
    except (*_BROKEN, InvalidDicomError, BytesLengthException) as error:
        raise DataError(
            f"{name}: is not a whole DICOM file ({error}); it is truncated or damaged, export it again"
        ) from error
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
    if syntax.is_encapsulated:
        _check_rle_size(dataset, name)


def _check_rle_size(dataset: "Dataset", name: str) -> None:
    """RLE can be longer than what it packs by 1 in 128 at most; a decoder would unpack all that is there."""
    raw = int(dataset.Rows) * int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)
    limit, found = 2 * raw + _RLE_HEADERS, len(dataset.PixelData)
    if found > limit:
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
