"""Pictures are decoded exactly or refused with a reason; nothing huge is ever decoded."""

import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from mammo.core.errors import DataError
from mammo.data.decode import GreyImage, check_roi_array, decode_image, decode_roi, read_roi
from tests.data.pictures import encoded, noise


@pytest.fixture
def roi() -> GreyImage:
    return noise(0)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tiff(pixels: GreyImage, **options: Any) -> bytes:
    return written(lambda buffer: tifffile.imwrite(buffer, pixels, **options))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header names a size that its pixels do not fill."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def dicom(
    stored: npt.NDArray[Any],
    bits: int = 8,
    syntax: UID = ExplicitVRLittleEndian,
    encapsulated: bytes | None = None,
    **fields: Any,
) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        DigitalMammographyXRayImageStorageForPresentation
    )
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.PixelData = encapsulate([encapsulated]) if encapsulated else stored.tobytes()
    dataset["PixelData"].VR = "OB" if encapsulated or stored.dtype == np.uint8 else "OW"
    for name, value in fields.items():
        setattr(dataset, name, value)
    return written(lambda buffer: dataset.save_as(buffer, enforce_file_format=True))


def rle(stored: GreyImage) -> bytes:
    dataset = dcmread(io.BytesIO(dicom(stored)))
    dataset.compress(RLELossless)
    return written(dataset.save_as)


@pytest.mark.parametrize(
    "encode",
    [
        *(partial(encoded, file_format=name) for name in ("PNG", "PPM", "TIFF")),
        lambda roi: b"P2\n# made by hand\n120 120\n255\n" + " ".join(map(str, roi.ravel())).encode(),
        lambda roi: encoded(np.dstack([roi] * 3)),
        lambda roi: tiff(255 - roi, photometric="miniswhite"),
        lambda roi: tiff(roi, compression="zlib", tile=(128, 128)),
        dicom,
        lambda roi: dicom(255 - roi, PhotometricInterpretation="MONOCHROME1"),
        rle,
    ],
)
def test_lossless_8_bit_grey_is_taken_as_it_is(
    tmp_path: Path, roi: GreyImage, encode: Callable[[GreyImage], bytes]
) -> None:
    (tmp_path / "roi").write_bytes(encode(roi))
    assert np.array_equal(read_roi(tmp_path / "roi"), roi)


def test_a_jpeg_is_read_within_its_loss() -> None:
    ramp = np.tile(np.arange(120, dtype=np.uint8), (120, 1))
    decoded = decode_roi(encoded(ramp, "JPEG", quality=95), "roi.jpg")
    assert np.abs(decoded.astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "TIFF", "JPEG"])
def test_a_truncated_image_is_refused(roi: GreyImage, file_format: str) -> None:
    content = encoded(roi, file_format)
    for length in (len(content) // 2, 12):
        with pytest.raises(DataError, match="truncated or damaged"):
            decode_roi(content[:length], "half")


@given(st.integers(0, 2**31), st.sampled_from(["PNG", "PPM", "TIFF", "JPEG"]))
def test_damaged_bytes_give_pixels_or_a_data_error(seed: int, file_format: str) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(encoded(rng.integers(0, 256, (120, 120), dtype=np.uint8), file_format))
    for position in rng.integers(0, min(len(content), 400), 4):
        content[position] = rng.integers(0, 256)
    with contextlib.suppress(DataError):
        assert decode_roi(bytes(content), "damaged").shape == (120, 120)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("empty.png", r"empty\.png: an image file must not be empty"),
        ("notes.txt", r"notes\.txt: an image must be PNG, PGM .* got bytes that start with b'Dear"),
        (".", "got a folder; name a file inside it"),
        ("none.png", "does not exist"),
    ],
)
def test_what_is_no_file_of_a_roi_is_refused(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("Dear colleague")
    with pytest.raises(DataError, match=rule):
        read_roi(tmp_path / name)


def deep_rgb(roi: GreyImage) -> bytes:
    """16-bit RGB, which Pillow reads as 8-bit."""
    content = bytearray(encoded(np.dstack([roi] * 3), "PNG"))
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def frames(roi: GreyImage, file_format: str) -> bytes:
    first, second = Image.fromarray(roi), Image.fromarray(255 - roi)
    return written(lambda buffer: first.save(buffer, file_format, save_all=True, append_images=[second]))


@pytest.mark.parametrize(
    ("encode", "rule"),
    [
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "PNG"), "8-bit grey is required"),
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "TIFF"), "8-bit grey is required"),
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "PPM"), "8-bit grey is required"),
        (deep_rgb, "8-bit grey is required"),
        (lambda roi: encoded(np.dstack([roi] * 2)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi] * 4)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi, roi, 255 - roi])), "got colour pixels"),
        (lambda roi: written(lambda to: Image.fromarray(roi).convert("P").save(to, "PNG")), "got PNG mode P"),
        (partial(frames, file_format="TIFF"), "must hold one frame"),
        (partial(frames, file_format="PNG"), "must hold one frame"),
        (lambda roi: dicom(roi, NumberOfFrames=3), "must hold one frame, got 3"),
        (lambda roi: dicom(roi, PhotometricInterpretation="RGB"), "got DICOM RGB"),
        (lambda roi: dicom(roi, syntax=DeflatedExplicitVRLittleEndian), "must not be deflated"),
        (
            lambda roi: dicom(roi, syntax=JPEG2000Lossless, encapsulated=b"\xff\x4f\xff\x51" + bytes(96)),
            r"got JPEG 2000 .*; decompress it",
        ),
        (lambda roi: dicom(roi[:2, :2], Rows=8000, Columns=8000), "got 8000 x 8000"),
        # Each pair of bytes unpacks to 128 pixels.
        (
            lambda roi: dicom(
                roi,
                syntax=RLELossless,
                encapsulated=struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 2**16,
            ),
            "RLE data of this many pixels must have at most 29824 bytes",
        ),
    ],
)
def test_what_is_not_one_frame_of_8_bit_grey_is_refused(
    roi: GreyImage, encode: Callable[[GreyImage], bytes], rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        decode_roi(encode(roi), "roi")


def test_one_pixel_is_refused() -> None:
    content = encoded(np.zeros((1, 1), dtype=np.uint8), "PNG")
    with pytest.raises(DataError, match="at least 32 pixels on each side, got 1 x 1"):
        decode_image(content, "dot")
    with pytest.raises(DataError, match="must be 120 x 120 pixels, got 1 x 1"):
        decode_roi(content, "dot")


def test_huge_pictures_are_refused_from_their_headers_alone() -> None:
    content = encoded(np.zeros((8000, 8000), dtype=np.uint8), "PNG", compress_level=1)
    tracemalloc.start()
    with pytest.raises(DataError, match="at most 32000000 pixels, got 8000 x 8000"):
        decode_image(content, "huge")
    with pytest.raises(DataError, match="must be 120 x 120 pixels, got 8000 x 8000; crop"):
        decode_roi(content, "huge")
    with pytest.raises(DataError, match="got 100000 x 100000"):
        decode_image(png_claiming(100_000, 100_000), "bomb")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * len(content) + 2**20


def test_a_wide_tiff_is_read_and_tiles_far_larger_than_the_picture_are_refused(roi: GreyImage) -> None:
    wide = np.tile(roi, 12)[:40]
    assert np.array_equal(decode_image(tiff(wide, compression="zlib", tile=(16, 1440)), "wide"), wide)
    for tile, side_px in (((16, 2048), 2048), ((4096, 16), 4096)):
        rule = f"at most 1024 pixels on each side, got {side_px}; save it without tiles"
        with pytest.raises(DataError, match=rule):
            decode_roi(tiff(roi, compression="zlib", tile=tile), "bomb")


def test_a_tiff_whose_pixels_lie_beyond_any_file_is_refused() -> None:
    entries = [(256, 4, 120), (257, 4, 120), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 16, 0), (277, 3, 1), (278, 4, 120), (279, 4, 14400)]
    end = 8 + 2 + 12 * len(entries) + 4
    content = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, value in entries:
        content += struct.pack("<HHII", tag, kind, 1, end if kind == 16 else value)
    content += struct.pack("<IQ", 0, 2**64 - 1) + bytes(14400)
    with pytest.raises(DataError, match="is not a whole TIFF file"):
        decode_roi(content, "far")


def test_deep_dicom_without_a_window_is_stretched_over_its_range() -> None:
    stored = np.full((120, 120), 1000, dtype=np.uint16)
    assert not decode_roi(dicom(stored, 12), "flat.dcm").any()
    stored[0, 0], stored[0, 1] = 0, 4000
    decoded = decode_roi(dicom(stored, 12), "roi.dcm")
    assert (decoded[0, 0], decoded[0, 1], decoded[5, 5]) == (0, 255, 64)  # 1000 / 4000 · 255 = 63.75


def test_dicom_window_is_the_standards_formula() -> None:
    stored = np.arange(120 * 120, dtype=np.uint16).reshape(120, 120) % 4096
    centre, width = 2000, 1001
    decoded = decode_roi(dicom(stored, 12, WindowCenter=centre, WindowWidth=width), "roi.dcm")
    # DICOM PS3.3 C.11.2.1.2.1: y = ((x − (c − 0.5)) / (w − 1) + 0.5) · range, clipped.
    expected = 255 * np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    assert np.abs(decoded - expected).max() <= 0.5 + 1e-6


def test_truncated_dicom_is_refused(roi: GreyImage) -> None:
    content = dicom(roi)
    for length in (140, 300, len(content) - 5000):
        with pytest.raises(DataError, match="DICOM"):
            decode_roi(content[:length], "half.dcm")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_a_roi_array_of_whole_grey_levels_is_kept(roi: GreyImage, dtype: str) -> None:
    checked = check_roi_array(roi.astype(dtype), "array")
    assert checked.dtype == np.uint8
    assert np.array_equal(checked, roi)


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.full((120, 120), -1.0), "0..255"),
        (np.full((120, 120), 256.0), "0..255"),
        (np.full((120, 120), 0.5), "whole numbers"),
        (np.full((120, 120), np.nan), "finite"),
        (np.full((120, 120), np.inf), "finite"),
        (np.zeros((120, 120, 3)), "a ROI"),
        (np.zeros((72, 72)), "a ROI"),
        ([[1], [2, 3]], "a ROI"),
        (None, "a ROI"),
        (np.zeros((120, 120), dtype=bool), "a ROI"),
    ],
)
def test_an_array_that_is_no_roi_is_refused(array: Any, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        check_roi_array(array, "array")
