"""A DICOM frame is shown as the standard says, to the level, or refused by the element that is wrong."""

import contextlib
import io
import os
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForProcessing,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from mammo.core.errors import DataError
from mammo.data.decode import decode_image, decode_picture, decode_roi
from mammo.data.extraction import read_film
from tests.data.pictures import dicom, encoded, noise, saved

REAL_CROPS = Path(os.environ.get("MAMMO_MIAS_ROIS", "not given")).with_name("dicom")


def table(first: int, bits: int, entries: Any, packed: bool = False, vr: str = "OW") -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    stored = np.asarray(entries, dtype=np.uint8 if packed else "<u2")
    item.LUTData = stored.tobytes() if vr == "OW" else stored.tolist()
    item["LUTData"].VR = vr
    return Sequence([item])


def window(centre: Any, width: Any, **fields: Any) -> dict[str, Any]:
    return {"WindowCenter": centre, "WindowWidth": width, **fields}


def rescale(slope: Any, intercept: Any, **fields: Any) -> dict[str, Any]:
    return {"RescaleSlope": slope, "RescaleIntercept": intercept, **fields}


def mono1(**fields: Any) -> dict[str, Any]:
    return {"PhotometricInterpretation": "MONOCHROME1", **fields}


def voi(*args: Any, **fields: Any) -> dict[str, Any]:
    return {"VOILUTSequence": table(*args), **fields}


SHALLOW = np.arange(4096) // 16
INVERTED = {"ModalityLUTSequence": table(0, 8, np.arange(255, -1, -1))}
STEPS = {"ModalityLUTSequence": table(0, 12, [0, 1000, 3000, 4000])}
EDGE = [0, 1000, 4095]


# Every level is worked out by hand from PS3.3 C.11.1 and C.11.2; 12 bits end at 4095, where 1000 is level 62.3.
@pytest.mark.parametrize(
    ("stored", "bits", "fields", "levels"),
    [
        ([0, 100, 255], 8, {}, [0, 100, 255]),
        ([0, 512, 1023], 10, {}, [0, 128, 255]),
        (EDGE, 12, {}, [0, 62, 255]),
        ([0, 25700, 65535], 16, {}, [0, 100, 255]),
        ([-2048, 0, 2047], 12, {}, [0, 128, 255]),
        ([-32768, 0, 32767], 16, {}, [0, 128, 255]),
        ([0xF000, 0xF000 + 1000, 4095], 12, {}, [0, 62, 255]),  # bits above the stored ones say nothing
        (EDGE, 12, window(None, None), [0, 62, 255]),
        (EDGE, 12, rescale(None, None), [0, 62, 255]),
        (EDGE, 12, rescale(2, -500), [0, 62, 255]),
        (EDGE, 12, rescale(-1, 4095), [255, 193, 0]),
        ([0, 100, 255], 8, rescale(-1, 255), [255, 155, 0]),
        # y = (x - (c - 0.5)) / (w - 1) + 0.5
        ([1000, 1600, 2000, 3000], 12, window(2000, 1001), [0, 26, 128, 255]),
        ([1999, 2000], 12, window(2000, 1), [0, 255]),
        ([1600, 3000], 12, window([2000, 9], [1001, 9]), [26, 255]),
        (EDGE, 12, rescale(-1, 4095, **window(2048, 4096)), [255, 193, 0]),
        ([0, 50, 100], 8, rescale(10, 100, **window(600.5, 1001)), [0, 128, 255]),
        # y = (x - c) / w + 0.5
        ([1000, 1700, 2100, 3000], 12, window(2000, 1000, VOILUTFunction="LINEAR_EXACT"), [0, 51, 153, 255]),
        # y = 1 / (1 + exp(-4 (x - c) / w)), and 1 / (1 + 1 / e) = 0.7311
        ([1750, 2250], 12, window(2000, 1000, VOILUTFunction="SIGMOID"), [69, 186]),
        ([0, 1000, 1001, 1002, 4095], 12, voi(1000, 8, [9, 85, 170, 255]), [9, 9, 85, 170, 255]),
        (EDGE, 12, voi(0, 8, SHALLOW), [0, 62, 255]),
        (EDGE, 12, voi(0, 8, SHALLOW, True), [0, 62, 255]),
        (EDGE, 12, voi(0, 12, np.arange(4096), False, "US"), [0, 62, 255]),
        (EDGE, 12, voi(0, 16, 16 * np.arange(4096)), [0, 62, 255]),
        ([1, 1001, 4095], 12, voi(1, 12, np.arange(4095)), [0, 62, 255]),
        ([-9, -2, -1, 9], 12, voi(-2, 8, [7, 85, 255]), [7, 7, 85, 255]),
        (EDGE, 12, voi(0, 8, SHALLOW, **window(9, 2)), [0, 62, 255]),
        (EDGE, 12, {"VOILUTSequence": Sequence([])}, [0, 62, 255]),
        ([0, 100, 255], 8, INVERTED, [255, 155, 0]),
        ([0, 1, 2, 7], 8, {**STEPS, **window(2000.5, 4001)}, [0, 64, 191, 255]),
        (EDGE, 12, mono1(), [255, 193, 0]),
        (EDGE, 12, mono1(PresentationLUTShape="INVERSE"), [255, 193, 0]),
        (EDGE, 12, mono1(**window(None, None)), [255, 193, 0]),
        (EDGE, 12, {"PixelPaddingValue": 4095}, [0, 62, 0]),
        (
            [3000, 1000, 4095, 0],
            12,
            {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 2500},
            [0, 62, 0, 0],
        ),
        (EDGE, 12, mono1(PixelPaddingValue=0), [0, 193, 0]),
        ([-2048, 0, 2047], 12, mono1(PixelPaddingValue=-2048), [0, 127, 0]),
    ],
)
def test_stored_values_become_the_levels_that_the_standard_says(
    stored: list[int], bits: int, fields: dict[str, Any], levels: list[int]
) -> None:
    dtype = np.uint8 if bits == 8 else np.int16 if min(stored) < 0 else np.uint16
    content = dicom(np.resize(np.array(stored, dtype=dtype), (40, 40)), bits, **fields)

    assert decode_image(content, "film.dcm").ravel()[: len(stored)].tolist() == levels


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"NumberOfFrames": 3}, "must hold one frame, got 3"),
        ({"PhotometricInterpretation": "RGB"}, "must be grey, got DICOM RGB"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation must have a value, got none"),
        ({"BitsStored": None}, "BitsStored must have a value, got none"),
        ({"Rows": 8000, "Columns": 8000}, "got 8000 x 8000"),
        ({"PixelData": None}, "must hold an image, got none"),
        ({"HighBit": 15}, "HighBit one below BitsStored, got 12, 16 and 15; export"),
        ({"BitsStored": 7, "HighBit": 6}, "8 to 16 BitsStored .*, got 7, 16 and 6"),
        ({"PresentationLUTShape": "INVERSE"}, "IDENTITY with MONOCHROME2, got INVERSE with MONOCHROME2"),
        (
            mono1(PresentationLUTShape="IDENTITY"),
            "INVERSE with MONOCHROME1 .*, got IDENTITY with MONOCHROME1",
        ),
        ({"PresentationIntentType": "FOR PROCESSING"}, "must be FOR PRESENTATION, got .*; export"),
        (
            {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing},
            "must be FOR PRESENTATION, got .*",
        ),
        ({"syntax": DeflatedExplicitVRLittleEndian}, "must not be deflated"),
        ({"syntax": MPEG2MPML, "frame": b"film"}, "must be uncompressed, RLE, .* got MPEG2 .*; decompress"),
        (rescale("1e308", "1e308"), r"keep values apart and finite, got 1e\+308 and 1e\+308"),
        (rescale(0, 5), "RescaleSlope .* keep values apart .*, got 0 and 5"),
        (window(100, 0), "WindowWidth must be .*, got 100.0 and 0.0; correct or remove"),
        ({"WindowCenter": 100}, "WindowWidth must be .*, got 100.0 and None; correct or remove"),
        (window(100, 0.5), "at least 1 if LINEAR.*, got 100.0 and 0.5"),
        (window(100, 9, VOILUTFunction="CUBIC"), "LINEAR, LINEAR_EXACT or SIGMOID, got CUBIC"),
        (
            {"BitsStored": 16, "HighBit": 15},
            "use 12.5% of the range of BitsStored without .*, got 6.1%; .* set Win",
        ),
        ({"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 5}, "use 12.5% .* without a window, got 0.0%"),
        (voi(0, 16, np.arange(4096)), "use 12.5% of the range of LUTDescriptor, got 6.2%; correct the bits"),
        (voi(0, 8, np.arange(4096)), "LUTDescriptor .* got 4096 entries of 8 bits for 4096 up to 4095"),
        ({"ModalityLUTSequence": table(0, 4, np.arange(16))}, "LUTDescriptor .* got 16 entries of 4 bits"),
    ],
)
def test_a_frame_that_cannot_be_shown_right_is_refused_by_name(fields: dict[str, Any], rule: str) -> None:
    stored = np.resize(np.array([5, 4000], dtype=np.uint16), (120, 120))
    with pytest.raises(DataError, match=rf"^roi\.dcm: .*{rule}"):
        decode_roi(dicom(stored, 12, **fields), "roi.dcm")


def test_a_table_shorter_than_its_descriptor_is_refused() -> None:
    short = table(0, 12, np.arange(4096))
    short[0].LUTData = short[0].LUTData[:200]
    with pytest.raises(DataError, match="LUTDescriptor must tell LUTData's length"):
        decode_roi(dicom(noise(0), VOILUTSequence=short), "roi.dcm")


def test_truncated_dicom_is_refused() -> None:
    content = dicom(noise(0))
    for length in (140, 300, len(content) - 5000):
        with pytest.raises(DataError, match="DICOM"):
            decode_roi(content[:length], "half.dcm")


@given(st.integers(0, 2**31), st.sampled_from([{}, window(100, 50), voi(0, 8, np.arange(256)), INVERTED]))
def test_damaged_bytes_give_levels_or_a_data_error(seed: int, fields: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(dicom(noise(0), **fields))
    for position in rng.integers(128, 1500, 4):
        content[position] = rng.integers(0, 256)
    with contextlib.suppress(DataError):
        assert decode_roi(bytes(content), "damaged.dcm").shape == (120, 120)


@pytest.mark.parametrize("content", [b"\x09\x00\x00\x10LO\x00\x00", b"\xfe\xff\x00\xe0\x00\x00\x00\x00"])
def test_a_million_empty_elements_or_items_are_refused_at_once(content: bytes) -> None:
    whole = dicom(noise(0))
    at = whole.index(b"\x08\x00\x16\x00UI")
    start = time.process_time()
    with pytest.raises(DataError, match="at most 5000 elements, got more; export it again"):
        decode_image(whole[:at] + content * 1_500_000 + whole[at:], "many.dcm")

    assert time.process_time() - start < 1


def test_rle_that_would_unpack_to_more_than_its_pixels_is_refused() -> None:
    dataset = dcmread(io.BytesIO(dicom(noise(0))))
    dataset.compress(RLELossless)
    assert np.array_equal(decode_roi(saved(dataset), "roi.dcm"), noise(0))

    zeros = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 2**16  # each pair unpacks to 128 pixels
    dataset.PixelData = encapsulate([zeros])
    with pytest.raises(DataError, match="RLE data of this many pixels must have at most 29824 bytes"):
        decode_roi(saved(dataset), "bomb.dcm")


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless"])
def test_the_same_picture_in_another_encoding_gives_the_same_levels(kind: str) -> None:
    plain, other = (
        Path(str(get_testdata_file(f"MR_small{suffix}.dcm", download=False))) for suffix in ("", f"_{kind}")
    )
    # Signed values; centre 600, width 1600.
    stored = np.array(dcmread(plain).pixel_array, dtype=float)
    expected = 255 * np.clip((stored - 599.5) / 1599 + 0.5, 0, 1)

    assert np.abs(decode_image(other.read_bytes(), kind) - expected).max() <= 0.5 + 1e-9


def test_lossy_jpeg_dicom_is_near_its_original() -> None:
    ramp = np.tile(np.arange(120, dtype=np.uint8), (120, 1))
    content = dicom(ramp, syntax=JPEGBaseline8Bit, frame=encoded(ramp, "JPEG", quality=95))

    assert np.abs(decode_roi(content, "roi.dcm").astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("file_format", ["JPEG", "JPEG2000"])
def test_compressed_pixels_of_another_size_than_the_header_says_are_never_decoded(file_format: str) -> None:
    options = {"no_jp2": True} if file_format == "JPEG2000" else {}
    frame = encoded(noise(0, side=300), file_format, **options)
    syntax = JPEG2000Lossless if options else JPEGBaseline8Bit
    with pytest.raises(DataError, match=r"\(120, 120, 1\), got \(300, 300, 1\); export it again"):
        decode_roi(dicom(noise(0), syntax=syntax, frame=frame), "bomb.dcm")
    with pytest.raises(DataError, match="truncated or damaged"):
        decode_roi(dicom(noise(0), syntax=syntax, frame=frame[:10]), "half.dcm")


def test_compressed_dicom_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_alone = SimpleNamespace(available_plugins=("pillow",))
    monkeypatch.setattr("mammo.data.dicom.get_decoder", lambda syntax: pillow_alone)
    with pytest.raises(DataError, match=r"JPEG 2000 .* needs the extra `dicom`, .*; pip install '\.\[dicom\]'"):
        decode_roi(dicom(noise(0), syntax=JPEG2000Lossless, frame=b"any"), "roi.dcm")


@pytest.mark.real
@pytest.mark.skipif(not REAL_CROPS.is_dir(), reason="needs the folder dicom beside the archive: MAMMO_MIAS_ROIS")
@pytest.mark.parametrize(("name", "shape"), [("cbis_crop_1.dcm", (249, 265)), ("cbis_crop_2.dcm", (265, 249))])
def test_a_real_crop_of_16_bits_is_shown_over_their_range(name: str, shape: tuple[int, int]) -> None:
    content = (REAL_CROPS / name).read_bytes()
    stored = np.frombuffer(content[-2 * shape[0] * shape[1] :], dtype="<u2").reshape(shape)

    assert np.array_equal(decode_image(content, name), np.rint(stored / 257))


def spacing_of(**fields: Any) -> float | None:
    return decode_picture(dicom(noise(0, 150), **fields), "film.dcm").spacing_mm


def test_pixel_spacing_is_the_detectors_and_else_the_images() -> None:
    both = {"ImagerPixelSpacing": [0.07, 0.07], "PixelSpacing": [0.065, 0.065]}
    assert spacing_of(**both) == pytest.approx(0.07)
    assert spacing_of(ImagerPixelSpacing=None, PixelSpacing=[0.2, 0.2]) == 0.2
    assert spacing_of() is None


@pytest.mark.parametrize("spacing", [[0.1, 0.2], [0, 0], [0.1, 0.1, 0.1], 0.1, ["1e308"] * 2, ["1e-320"] * 2])
def test_a_pixel_spacing_that_is_not_two_equal_lengths_of_pixels_is_refused(spacing: Any) -> None:
    with pytest.raises(DataError, match=r"film\.dcm: DICOM PixelSpacing must be two equal numbers of 0\.001 to 10 mm"):
        spacing_of(PixelSpacing=spacing)


def test_a_roi_of_other_pixels_than_mini_mias_is_refused_and_one_that_tells_none_is_not() -> None:
    told: list[dict[str, Any]] = [{}, {"PixelSpacing": [0.2, 0.2]}, {"ImagerPixelSpacing": [0.201, 0.201]}]
    for fields in told:
        assert np.array_equal(decode_roi(dicom(noise(0), **fields), "roi.dcm"), noise(0))
    with pytest.raises(DataError, match=r"roi\.dcm: pixels of a ROI must be 0\.2 mm wide, got 0\.1 mm; give its film"):
        decode_roi(dicom(noise(0), ImagerPixelSpacing=[0.1, 0.1]), "roi.dcm")


@pytest.mark.parametrize(("spacing", "size"), [(0.001, "2 x 2"), (10, "15000 x 15000")])
def test_a_film_that_its_spacing_would_bring_to_an_impossible_size_is_refused_before(spacing: float, size: str) -> None:
    rule = rf"film\.dcm, brought from {spacing:g} to 0\.2 mm a pixel: an image must .*, got {size}"
    with pytest.raises(DataError, match=rule):
        read_film(dicom(noise(0, 300), PixelSpacing=[spacing, spacing]), "film.dcm")
