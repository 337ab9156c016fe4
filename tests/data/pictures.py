"""Pictures that several tests of this folder encode and change."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

Picture = npt.NDArray[np.uint8]


def noise(seed: int, side: int = 120) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def encoded(pixels: npt.NDArray[Any], file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(image: Picture) -> Picture:
    """What JPEG compression at quality 75 leaves."""
    return np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG", quality=75))))


def dicom(
    stored: npt.NDArray[Any],
    bits: int = 8,
    syntax: UID = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **fields: Any,
) -> bytes:
    """A mammogram of these stored values, or of a compressed frame; None leaves a field empty."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes() if frame is None else encapsulate([frame])
    dataset["PixelData"].VR = "OB" if stored.dtype == np.uint8 or frame else "OW"
    for name, value in fields.items():
        setattr(dataset, name, value)
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
