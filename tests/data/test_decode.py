"""Pictures are decoded exactly or refused with a reason; nothing huge is ever decoded."""

import contextlib
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mammo.core.errors import DataError
from mammo.data.decode import GreyImage, check_roi_array, decode_image, decode_picture, decode_roi, read_roi
from tests.data.pictures import encoded, noise


@pytest.fixture
def roi() -> GreyImage:
    return noise(0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header names a size that its pixels do not fill."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(pixels: GreyImage, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def plain_pgm(pixels: GreyImage) -> bytes:
    return ("P2\n# made by hand\n120 120\n255\n" + "\n".join(" ".join(map(str, row)) for row in pixels)).encode()


def turned(pixels: GreyImage, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(pixels, kind, exif=exif)


@pytest.mark.parametrize(
    "encode",
    [
        lambda roi: encoded(roi, "PNG"),
        lambda roi: encoded(roi, "PPM"),
        lambda roi: encoded(roi, "TIFF"),
        plain_pgm,
        lambda roi: encoded(np.dstack([roi] * 3), "PNG"),
        lambda roi: encoded(roi, "PNG", icc_profile=b"any profile"),
        lambda roi: tiff(roi, compression="zlib", tile=(128, 128)),
        lambda roi: tiff(255 - roi, photometric="miniswhite"),
    ],
)
def test_lossless_8_bit_grey_is_taken_as_it_is(roi: GreyImage, encode: Callable[[GreyImage], bytes]) -> None:
    assert np.array_equal(decode_roi(encode(roi), "roi"), roi)


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "TIFF"])
def test_a_truncated_image_is_refused(roi: GreyImage, file_format: str) -> None:
    content = encoded(roi, file_format)
    for length in (len(content) // 2, 12):
        with pytest.raises(DataError, match="truncated or damaged"):
            decode_roi(content[:length], "half")


@given(st.integers(0, 2**31), st.sampled_from(["PNG", "PPM", "TIFF"]))
def test_damaged_bytes_give_pixels_or_a_data_error(seed: int, file_format: str) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(encoded(noise(seed), file_format))
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
def test_what_is_no_file_of_a_picture_is_refused(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("Dear colleague")
    with pytest.raises(DataError, match=rule):
        read_roi(tmp_path / name)


def test_a_roi_is_read_from_disk_and_a_picture_may_have_any_size(tmp_path: Path, roi: GreyImage) -> None:
    (tmp_path / "roi.png").write_bytes(encoded(roi, "PNG"))

    assert np.array_equal(read_roi(tmp_path / "roi.png"), roi)
    assert np.array_equal(decode_image(encoded(roi[:50], "PNG"), "film"), roi[:50])
    assert decode_picture(encoded(roi, "PNG"), "film").spacing_mm is None


def palette(roi: GreyImage) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(roi).convert("P").save(buffer, "PNG")
    return buffer.getvalue()


def several(roi: GreyImage, kind: str) -> bytes:
    return encoded(roi, kind, save_all=True, append_images=[Image.fromarray(255 - roi)])


def deep(roi: GreyImage, kind: str) -> bytes:
    return encoded(roi.astype(np.uint16) * 257, kind)


def deep_rgb(roi: GreyImage) -> bytes:
    """A header of 16 bits a channel, which Pillow reads as 8."""
    content = bytearray(encoded(np.dstack([roi] * 3), "PNG"))
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    ("encode", "rule"),
    [
        *((partial(deep, kind=kind), "8-bit grey is required") for kind in ("PNG", "TIFF", "PPM")),
        (deep_rgb, "8-bit grey is required"),
        (lambda roi: encoded(np.dstack([roi] * 2)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi] * 4)), "must not have an alpha channel"),
        (lambda roi: encoded(np.dstack([roi, roi, 255 - roi])), "got colour pixels"),
        (palette, "got PNG mode P"),
        *((partial(several, kind=kind), "must hold one frame") for kind in ("TIFF", "PNG")),
        (lambda roi: encoded(roi, "JPEG"), "must be lossless, got JPEG, .* votes; save the original picture"),
        (lambda roi: encoded(roi, "TIFF", compression="jpeg"), "lossless, got TIFF compressed as jpeg"),
        *((partial(turned, kind=k), f"Orientation must be 1 .*, got 6 in {k}; turn") for k in ("PNG", "TIFF")),
    ],
)
def test_what_is_not_one_upright_lossless_picture_of_8_bit_grey_is_refused(
    roi: GreyImage, encode: Callable[[GreyImage], bytes], rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        decode_roi(encode(roi), "roi")


def test_8000_by_8000_is_refused_from_its_header_alone() -> None:
    content = encoded(np.zeros((8000, 8000), dtype=np.uint8), "PNG", compress_level=1)
    tracemalloc.start()
    with pytest.raises(DataError, match="at most 32000000 pixels, got 8000 x 8000"):
        decode_image(content, "huge")
    with pytest.raises(DataError, match="must be 120 x 120 pixels, got 8000 x 8000; of a film"):
        decode_roi(content, "huge")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 4 * len(content) + 2**20


@pytest.mark.parametrize(("side", "rule"), [(1, "at least 32 pixels on each side, got 1 x 1"), (100_000, "at most")])
def test_a_picture_of_an_impossible_size_is_refused_without_a_warning(side: int, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        decode_image(png_claiming(side, side), "bomb")


def test_a_million_empty_chunks_are_refused_at_once(roi: GreyImage) -> None:
    whole = encoded(roi)
    content = whole[:33] + chunk(b"teSt", b"") * 1_000_000 + whole[33:]  # behind the header
    start = time.process_time()
    with pytest.raises(DataError, match="at most 10000 chunks, got more; save it again"):
        decode_image(content, "chunks")
    with pytest.raises(DataError, match=r"at most 524288 bytes, got more; save its 120 x 120 pixels alone"):
        decode_roi(content, "chunks")

    assert time.process_time() - start < 1


def test_tiles_far_larger_than_the_picture_are_refused(roi: GreyImage) -> None:
    wide = np.zeros((40, 1500), dtype=np.uint8)
    assert decode_image(tiff(wide, compression="zlib", tile=(16, 1488)), "wide").shape == (40, 1500)
    for tile, side in (((16, 2048), 2048), ((4096, 16), 4096)):
        with pytest.raises(DataError, match=f"at most 1024 pixels on each side, got {side}; save it without"):
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


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_a_roi_array_of_whole_grey_levels_is_kept(roi: GreyImage, dtype: str) -> None:
    checked = check_roi_array(roi.astype(dtype), "array")
    assert checked.dtype == np.uint8
    assert np.array_equal(checked, roi)


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.full((120, 120), -1.0), r"0\.\.255"),
        (np.full((120, 120), 256.0), r"0\.\.255"),
        (np.full((120, 120), 0.5), "whole numbers"),
        (np.full((120, 120), np.nan), r"whole numbers in 0\.\.255, got values from nan to nan"),
        (np.zeros((120, 120, 3)), "the shape"),
        (np.zeros((72, 72)), "the shape"),
        ([[1], [2, 3]], "equally long rows"),
        (None, "equally long rows"),
        (np.zeros((120, 120), dtype=bool), "numbers"),
    ],
)
def test_an_array_that_is_no_roi_is_refused(array: Any, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        check_roi_array(array, "array")
