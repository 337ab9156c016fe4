"""ROIs are cut as the paper cuts them, checked by hand and by brute force."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.data.extraction import (
    crop_around,
    extract_roi,
    preprocess_film,
    stretch_first_region,
)

GreyImage = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def film() -> GreyImage:
    return np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)


@given(st.integers(-70, 330), st.integers(-70, 330))
def test_each_pixel_of_a_crop_is_the_films_or_background(x: int, y: int) -> None:
    film = np.random.default_rng(1).integers(1, 256, (256, 240), dtype=np.uint8)
    padded = np.zeros((256 + 400, 240 + 400), dtype=np.uint8)
    padded[200:456, 200:440] = film

    assert np.array_equal(crop_around(film, x, y), padded[y + 140 : y + 260, x + 140 : x + 260])


def test_the_centre_of_a_crop_is_row_and_column_60() -> None:
    film = np.zeros((1024, 1024), dtype=np.uint8)
    film[599, 535] = 255

    assert np.argwhere(crop_around(film, 535, 599)).tolist() == [[60, 60]]


def test_a_crop_that_leaves_the_film_is_padded_with_background() -> None:
    """The real case: mdb144 at (233, 994), which is row 30."""
    crop = crop_around(np.full((1024, 1024), 77, dtype=np.uint8), 233, 30)

    assert not crop[:30].any()
    assert (crop[30:] == 77).all()


def test_single_bright_and_dark_pixels_do_not_survive_preprocessing() -> None:
    rows = np.arange(256)
    ramp = np.tile((rows // 2 + 40).astype(np.uint8), (256, 1))
    spotted = ramp.copy()
    spotted[64:192:16, 64:192:16] = 255
    spotted[72:192:16, 72:192:16] = 0

    difference = preprocess_film(spotted).astype(int) - preprocess_film(ramp)

    assert np.abs(difference).max() <= 3


def test_preprocessing_raises_local_contrast_and_fills_the_range(film: GreyImage) -> None:
    flat = (film // 16 + 100).astype(np.uint8)

    equalized = preprocess_film(flat)

    assert equalized.dtype == np.uint8
    assert equalized.shape == flat.shape
    assert (equalized.min(), equalized.max()) == (0, 255)
    assert equalized.std() > 2 * flat.std()


def test_the_clip_limit_is_the_one_of_matlab(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of 128 × 128: MATLAB clips at 64 + round(0.01 · (16384 − 64)) = 227 counts a bin."""
    seen: dict[str, object] = {}

    def remember(image: GreyImage, **settings: object) -> npt.NDArray[np.float64]:
        seen.update(settings)
        return image / 255

    monkeypatch.setattr("skimage.exposure.equalize_adapthist", remember)
    preprocess_film(np.zeros((1024, 1024), dtype=np.uint8))

    assert seen == {"kernel_size": [128, 128], "clip_limit": 227 / 16384, "nbins": 256}


def test_background_beside_tissue_is_cropped_away_and_the_rest_stretched() -> None:
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[:, 60:] = np.arange(100, 160, dtype=np.uint8)

    stretched = stretch_first_region(crop)

    # 60 columns become 120: output column c looks at 59.5 − half a pixel + c / 2 of the ramp.
    expected = 100 + (np.arange(120) + 0.5) / 2 - 0.5
    assert np.abs(stretched[:, 4:-4] - expected[4:-4]).max() <= 0.6
    assert stretched.min() >= 99


def test_specks_under_1500_pixels_do_not_count() -> None:
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[0:38, 0:39] = 200  # 1,482 pixels
    crop[60:120, 40:120] = 100

    assert (stretch_first_region(crop) == 100).all()


def test_a_region_of_1500_pixels_counts() -> None:
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[0:30, 0:50] = 200

    assert (stretch_first_region(crop) == 200).all()


def test_of_two_regions_the_first_is_the_one_further_left() -> None:
    """MATLAB searches column by column, so a lower region comes first if it is further left."""
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[0:50, 60:120] = 50
    crop[70:120, 10:60] = 150

    assert (stretch_first_region(crop) == 150).all()


def test_regions_that_touch_at_a_corner_are_one() -> None:
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[0:60, 0:60] = crop[60:120, 60:120] = 90

    assert np.array_equal(stretch_first_region(crop), crop)


def test_levels_up_to_20_are_background() -> None:
    crop = np.full((120, 120), 20, dtype=np.uint8)
    crop[:, :60] = 21

    assert (stretch_first_region(crop) == 21).all()


def test_a_crop_without_tissue_is_kept() -> None:
    crop = np.full((120, 120), 9, dtype=np.uint8)

    assert np.array_equal(stretch_first_region(crop), crop)


def test_the_stretch_can_be_switched_off() -> None:
    film = np.zeros((256, 256), dtype=np.uint8)
    film[:, 128:] = 90

    kept, stretched = extract_roi(film, 128, 128, bounding_box=False), extract_roi(film, 128, 128)

    assert not kept[:, :60].any()
    assert (kept[:, 60:] == 90).all()
    assert (stretched == 90).all()
