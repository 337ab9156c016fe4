"""ROIs are cut as the paper cuts them, and normal ones are drawn by a seed inside the breast."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.data.extraction import (
    breast_mask,
    choose_normal_films,
    crop_around,
    draw_normal_centre,
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


Regions = list[tuple[tuple[slice, slice], int]]
LEFT, RIGHT = slice(0, 60), slice(60, 120)


@pytest.mark.parametrize(
    ("regions", "background", "stretched"),
    [
        pytest.param(
            [((slice(38), slice(39)), 200), ((RIGHT, slice(40, 120)), 100)],
            0,
            100,
            id="1482 pixels are a speck",
        ),
        pytest.param([((slice(30), slice(50)), 200)], 0, 200, id="1500 pixels are a region"),
        pytest.param(
            [((slice(50), RIGHT), 50), ((slice(70, 120), slice(10, 60)), 150)],
            0,
            150,
            id="the first region is the one further left, as MATLAB searches column by column",
        ),
        pytest.param([((slice(None), LEFT), 21)], 20, 21, id="levels up to 20 are background"),
        pytest.param([((LEFT, LEFT), 90), ((RIGHT, RIGHT), 90)], 0, None, id="touching corners join regions"),
        pytest.param([], 9, None, id="without tissue nothing is cut"),
    ],
)
def test_the_first_region_of_tissue_is_stretched(
    regions: Regions, background: int, stretched: int | None
) -> None:
    crop = np.full((120, 120), background, dtype=np.uint8)
    for place, level in regions:
        crop[place] = level

    assert np.array_equal(
        stretch_first_region(crop), crop if stretched is None else np.full_like(crop, stretched)
    )


def test_the_stretch_can_be_switched_off() -> None:
    film = np.zeros((256, 256), dtype=np.uint8)
    film[:, 128:] = 90

    kept, stretched = extract_roi(film, 128, 128, bounding_box=False), extract_roi(film, 128, 128)

    assert not kept[:, :60].any()
    assert (kept[:, 60:] == 90).all()
    assert (stretched == 90).all()


def half_disc_film(seed: int = 0) -> tuple[GreyImage, npt.NDArray[np.bool_]]:
    """A breast with its chest wall at the left border, noise around it, and a bright label far away."""
    rows, columns = np.mgrid[:1024, :1024]
    breast = np.hypot(rows - 500, columns) < 420
    film = np.random.default_rng(seed).integers(0, 15, (1024, 1024), dtype=np.uint8)
    film[breast] = 130
    film[40:120, 850:980] = 250
    return film, breast


def test_the_whole_crop_of_every_draw_is_inside_the_breast() -> None:
    film, breast = half_disc_film()
    for seed in range(40):
        centre = draw_normal_centre(film, 7, seed)
        assert centre is not None
        x, y = centre
        assert x >= 60
        assert breast[y - 60 : y + 60, x - 60 : x + 60].all()


def test_draws_differ_between_seeds_and_films_and_repeat_with_both() -> None:
    film, _ = half_disc_film()

    draws = [draw_normal_centre(film, number, seed) for number in (1, 2) for seed in (0, 1)]

    assert len(set(draws)) == 4
    assert draw_normal_centre(film, 1, 0) == draws[0]


def test_draws_spread_over_the_breast() -> None:
    film, _ = half_disc_film()
    draws = np.array([draw_normal_centre(film, number, 0) for number in range(60)])

    assert (draws.max(axis=0) - draws.min(axis=0) > 150).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_the_corner_of_the_pectoral_muscle_is_left_out(flipped: bool) -> None:
    film, _ = half_disc_film()
    film = np.ascontiguousarray(film[:, ::-1]) if flipped else film
    for number in range(40):
        centre = draw_normal_centre(film, number, 0)
        assert centre is not None
        x, y = (1023 - centre[0], centre[1]) if flipped else centre
        # The triangle from the breast's top (row 80), 0.45 of its height down and 0.5 of its width along.
        corner_x, corner_y = x - 60, y - 60
        assert corner_x / (0.5 * 420) + (corner_y - 80) / (0.45 * 840) >= 0.95


def test_the_label_and_the_noise_are_no_breast() -> None:
    film, breast = half_disc_film()
    found = breast_mask(film)

    assert not found[:40, 200:].any()
    assert (found != breast[::4, ::4]).mean() < 0.01


def test_dark_holes_are_part_of_the_breast() -> None:
    film, breast = half_disc_film()
    film[480:520, 100:140] = 3

    assert (breast_mask(film) != breast[::4, ::4]).mean() < 0.01


@pytest.mark.parametrize("width", [0, 100])
def test_a_film_without_room_gives_no_centre(width: int) -> None:
    film = np.zeros((1024, 1024), dtype=np.uint8)
    film[:, :width] = 130

    assert draw_normal_centre(film, 1, 0) is None


def test_tissues_of_the_chosen_films_are_those_of_the_lesions() -> None:
    normal_tissues = {f"mdb{number:03d}": "FGD"[number % 3] for number in range(1, 91)}

    chosen = choose_normal_films(normal_tissues, ["F"] * 10 + ["G"] * 5 + ["D"] * 5, seed=0)

    # 90 normal films: 45 should be fatty but only 30 are; 22.5 rounds to 22 (to even) each for the others.
    assert Counter(normal_tissues[film] for film in chosen) == {"F": 30, "G": 22, "D": 22}
    assert chosen == sorted(chosen)


def test_the_choice_depends_on_the_seed_alone() -> None:
    tissues = {f"mdb{number:03d}": "G" if number % 2 else "F" for number in range(1, 61)}
    backwards = dict(reversed(tissues.items()))

    choices = [choose_normal_films(tissues, ["G"], seed) for seed in (0, 1)]

    assert choices[0] == choose_normal_films(backwards, ["G"], 0)
    assert len(choices[0]) == 30
    assert choose_normal_films(tissues, ["G", "F", "D"], 0) != choose_normal_films(
        tissues, ["G", "F", "D"], 1
    )


def test_without_lesions_there_is_nothing_to_match() -> None:
    assert choose_normal_films({"mdb001": "F"}, [], seed=0) == []
