"""Pictures are decoded exactly or refused with a reason; nothing huge is ever decoded."""

import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
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
from mammo.data.decode import (
    GreyImage,
    check_roi_array,
    decode_image,
    decode_roi,
    pixel_spacing_mm,
    read_image,
    read_roi,
)
from tests.data.pictures import encoded, noise


@pytest.fixture
def roi() -> GreyImage:
    return noise(0)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header names a size that its pixels do not fill."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def dicom(
    stored: npt.NDArray[Any],
    bits: int,
    syntax: UID = ExplicitVRLittleEndian,
    encapsulated: bool = False,
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
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if stored.dtype == np.uint8 else "OW"
    for name, value in fields.items():
        setattr(dataset, name, value)
    if encapsulated:
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(96)])
        dataset["PixelData"].VR = "OB"
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "TIFF"])
def test_lossless_8_bit_grey_is_taken_as_it_is(roi: GreyImage, file_format: str) -> None:
    assert np.array_equal(decode_roi(encoded(roi, file_format), "roi"), roi)


def test_a_plain_text_pgm_is_read(roi: GreyImage) -> None:
    text = "P2\n# made by hand\n120 120\n255\n" + "\n".join(" ".join(map(str, row)) for row in roi)

    assert np.array_equal(decode_roi(text.encode(), "roi.pgm"), roi)


def test_a_jpeg_is_read_within_its_loss() -> None:
    ramp = np.tile(np.arange(120, dtype=np.uint8), (120, 1))

    decoded = decode_roi(encoded(ramp, "JPEG", quality=95), "roi.jpg")

    assert np.abs(decoded.astype(int) - ramp).max() <= 4


def test_rgb_with_equal_channels_is_grey(roi: GreyImage) -> None:
    assert np.array_equal(decode_roi(encoded(np.dstack([roi] * 3), "PNG"), "roi"), roi)


def test_a_white_is_zero_tiff_is_shown_bright(roi: GreyImage) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, roi, photometric="miniswhite")

    assert np.array_equal(decode_roi(buffer.getvalue(), "roi.tif"), 255 - roi)


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


def test_something_that_is_no_image_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"notes\.txt: an image must be PNG, PGM .* got bytes that start with b'Dear"
    ):
        decode_roi(b"Dear colleague", "notes.txt")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("empty.png", r"empty\.png: an image file must not be empty"),
        (".", "got a folder; name a file inside it"),
        ("none.png", "does not exist"),
    ],
)
def test_what_is_no_file_of_a_roi_is_refused(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=rule):
        read_roi(tmp_path / name)


def test_a_file_is_read_from_disk(tmp_path: Path, roi: GreyImage) -> None:
    (tmp_path / "roi.png").write_bytes(encoded(roi, "PNG"))
    (tmp_path / "film.png").write_bytes(encoded(roi[:50], "PNG"))

    assert np.array_equal(read_roi(tmp_path / "roi.png"), roi)
    assert np.array_equal(read_image(tmp_path / "film.png"), roi[:50])


def test_pixel_spacing_is_the_detectors_and_else_the_images(roi: GreyImage) -> None:
    both = dicom(roi, 8, ImagerPixelSpacing=[0.07, 0.07], PixelSpacing=[0.065, 0.065])
    assert pixel_spacing_mm(both) == pytest.approx(0.07)
    assert pixel_spacing_mm(dicom(roi, 8, ImagerPixelSpacing=None, PixelSpacing=[0.2, 0.2])) == 0.2
    assert pixel_spacing_mm(dicom(roi, 8)) is None
    assert pixel_spacing_mm(encoded(roi)) is None


@pytest.mark.parametrize("spacing", [[0.1, 0.2], [0, 0], [0.1, 0.1, 0.1]])
def test_a_pixel_spacing_that_is_not_two_equal_lengths_is_refused(
    roi: GreyImage, spacing: list[float]
) -> None:
    with pytest.raises(DataError, match=r"film\.dcm: .*[sS]pacing"):
        pixel_spacing_mm(dicom(roi, 8, PixelSpacing=spacing), "film.dcm")


def palette(roi: GreyImage) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(roi).convert("P").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("encode", "rule"),
    [
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "PNG"), "8-bit grey is required"),
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "TIFF"), "8-bit grey is required"),
        (lambda roi: encoded(roi.astype(np.uint16) * 257, "PPM"), "8-bit grey is required"),
        (lambda roi: encoded(np.dstack([roi] * 2)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi] * 4)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi, roi, 255 - roi])), "got colour pixels"),
        (palette, "got PNG mode P"),
    ],
)
def test_what_is_not_8_bit_grey_is_refused(
    roi: GreyImage, encode: Callable[[GreyImage], bytes], rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        decode_roi(encode(roi), "roi")


def test_16_bit_rgb_is_refused_although_pillow_reads_it_as_8_bit(roi: GreyImage) -> None:
    content = bytearray(encoded(np.dstack([roi] * 3), "PNG"))
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))

    with pytest.raises(DataError, match="8-bit grey is required"):
        decode_roi(bytes(content), "deep")


def test_several_frames_are_refused(roi: GreyImage) -> None:
    frames = [Image.fromarray(roi), Image.fromarray(255 - roi)]
    for file_format in ("TIFF", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="must hold one frame"):
            decode_roi(buffer.getvalue(), "frames")


def test_one_pixel_is_refused() -> None:
    content = encoded(np.zeros((1, 1), dtype=np.uint8), "PNG")
    with pytest.raises(DataError, match="at least 32 pixels on each side, got 1 x 1"):
        decode_image(content, "dot")
    with pytest.raises(DataError, match="must be 120 x 120 pixels, got 1 x 1"):
        decode_roi(content, "dot")


def test_8000_by_8000_is_refused_from_its_header_alone() -> None:
    content = encoded(np.zeros((8000, 8000), dtype=np.uint8), "PNG", compress_level=1)
    tracemalloc.start()
    with pytest.raises(DataError, match="at most 32000000 pixels, got 8000 x 8000"):
        decode_image(content, "huge")
    with pytest.raises(DataError, match="must be 120 x 120 pixels, got 8000 x 8000; crop"):
        decode_roi(content, "huge")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 4 * len(content) + 2**20


def test_a_decompression_bomb_is_refused_without_a_warning() -> None:
    with pytest.raises(DataError, match="got 100000 x 100000"):
        decode_image(png_claiming(100_000, 100_000), "bomb")


def tiff(pixels: GreyImage, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, compression="zlib", **options)
    return buffer.getvalue()


def test_a_tiled_tiff_is_read_and_tiles_far_larger_than_the_picture_are_refused(roi: GreyImage) -> None:
    assert np.array_equal(decode_roi(tiff(roi, tile=(128, 128)), "tiles"), roi)
    wide = np.zeros((40, 1500), dtype=np.uint8)
    assert decode_image(tiff(wide, tile=(16, 1488)), "wide").shape == (40, 1500)
    with pytest.raises(DataError, match="at most 1024 pixels on each side, got 2048; save it without tiles"):
        decode_roi(tiff(roi, tile=(16, 2048)), "bomb")
    with pytest.raises(DataError, match="at most 1024 pixels on each side, got 4096"):
        decode_roi(tiff(roi, tile=(4096, 16)), "bomb")


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


def test_a_film_of_any_reasonable_size_is_an_image() -> None:
    film = np.random.default_rng(1).integers(0, 256, (64, 200), dtype=np.uint8)

    assert np.array_equal(decode_image(encoded(film, "PNG"), "film"), film)


def test_8_bit_dicom_is_taken_as_it_is_and_monochrome1_is_inverted(roi: GreyImage) -> None:
    assert np.array_equal(decode_roi(dicom(roi, 8), "roi.dcm"), roi)
    inverted = dicom(roi, 8, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_roi(inverted, "roi.dcm"), 255 - roi)


def test_deep_dicom_without_a_window_is_stretched_over_its_range() -> None:
    stored = np.full((120, 120), 1000, dtype=np.uint16)
    stored[0, 0], stored[0, 1] = 0, 4000

    decoded = decode_roi(dicom(stored, 12), "roi.dcm")

    assert (decoded[0, 0], decoded[0, 1], decoded[5, 5]) == (0, 255, 64)  # 1000 / 4000 · 255 = 63.75


def test_constant_deep_dicom_is_black() -> None:
    assert not decode_roi(dicom(np.full((120, 120), 7, dtype=np.uint16), 12), "flat.dcm").any()


def test_dicom_window_is_the_standards_formula() -> None:
    stored = np.arange(120 * 120, dtype=np.uint16).reshape(120, 120) % 4096
    centre, width = 2000, 1001

    decoded = decode_roi(dicom(stored, 12, WindowCenter=centre, WindowWidth=width), "roi.dcm")

    # DICOM PS3.3 C.11.2.1.2.1: y = ((x − (c − 0.5)) / (w − 1) + 0.5) · range, clipped.
    expected = 255 * np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    assert np.abs(decoded - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"NumberOfFrames": 3}, "must hold one frame, got 3"),
        ({"PhotometricInterpretation": "RGB"}, "got DICOM RGB"),
        ({"syntax": DeflatedExplicitVRLittleEndian}, "must not be deflated"),
        ({"syntax": JPEG2000Lossless, "encapsulated": True}, r"got JPEG 2000 .*; decompress it"),
    ],
)
def test_dicom_that_is_not_one_plain_grey_frame_is_refused(
    roi: GreyImage, fields: dict[str, Any], rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        decode_roi(dicom(roi, 8, **fields), "roi.dcm")


def test_dicom_of_the_wrong_size_is_refused_before_its_pixels_are_read() -> None:
    content = dicom(np.zeros((2, 2), dtype=np.uint8), 8, Rows=8000, Columns=8000)
    with pytest.raises(DataError, match="got 8000 x 8000"):
        decode_roi(content, "huge.dcm")


def test_truncated_dicom_is_refused(roi: GreyImage) -> None:
    content = dicom(roi, 8)
    for length in (140, 300, len(content) - 5000):
        with pytest.raises(DataError, match="DICOM"):
            decode_roi(content[:length], "half.dcm")


def test_rle_dicom_is_read_and_refused_where_it_would_unpack_to_more_than_its_pixels(roi: GreyImage) -> None:
    dataset = dcmread(io.BytesIO(dicom(roi, 8)))
    dataset.compress(RLELossless)
    assert np.array_equal(decode_roi(saved(dataset), "roi.dcm"), roi)

    zeros = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 2**16  # each pair unpacks to 128 pixels
    dataset.PixelData = encapsulate([zeros])
    with pytest.raises(DataError, match="RLE data of this many pixels must have at most 29824 bytes"):
        decode_roi(saved(dataset), "bomb.dcm")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_a_roi_array_of_whole_grey_levels_is_kept(roi: GreyImage, dtype: str) -> None:
    checked = check_roi_array(roi.astype(dtype), "array")

    assert checked.dtype == np.uint8
    assert np.array_equal(checked, roi)


@pytest.mark.parametrize(
    ("value", "rule"),
    [(-1.0, "0..255"), (256.0, "0..255"), (0.5, "whole numbers"), (np.nan, "finite"), (np.inf, "finite")],
)
def test_a_roi_array_with_an_impossible_grey_level_is_refused(value: float, rule: str) -> None:
    array = np.zeros((120, 120))
    array[3, 4] = value
    with pytest.raises(DataError, match=rule):
        check_roi_array(array, "array")


@pytest.mark.parametrize(
    "array",
    [np.zeros((120, 120, 3)), np.zeros((72, 72)), [[1], [2, 3]], None, np.zeros((120, 120), dtype=bool)],
)
def test_an_array_that_is_no_roi_is_refused(array: Any) -> None:
    with pytest.raises(DataError, match="a ROI"):
        check_roi_array(array, "array")
