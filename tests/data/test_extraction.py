"""ROIs are cut as the paper cuts them, checked by hand, by brute force and against the authors' own ROIs."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import median_filter

from mammo.data.extraction import adapthisteq, extract_roi, first_region, preprocess_film, resize_bicubic
from mammo.data.film_rois import breast_mask, choose_normal_films, draw_normal_centre

GreyImage = npt.NDArray[np.uint8]


def matlabs_map(tile: GreyImage) -> list[int]:
    """The mapping of one tile, loop by loop as MATLAB's documentation and code describe it."""
    n_bins, n_pixels = 256, tile.size
    least = -(-n_pixels // n_bins)
    limit = least + int(0.01 * (n_pixels - least) + 0.5)
    counts = [int((tile == level).sum()) for level in range(n_bins)]
    excess = sum(max(count - limit, 0) for count in counts)
    share = excess // n_bins
    for level, count in enumerate(counts):
        if count > limit:
            counts[level] = limit
        elif count > limit - share:
            excess -= limit - count
            counts[level] = limit
        else:
            excess -= share
            counts[level] += share
    first = 0
    while excess:
        step = max(n_bins // excess, 1)
        for level in range(first, n_bins, step):
            if counts[level] < limit:
                counts[level] += 1
                excess -= 1
                if not excess:
                    break
        first = (first + 1) % n_bins
    total, mapped = 0, []
    for count in counts:
        total += count
        mapped.append(int(min(total * 255 / n_pixels, 255) + 0.5))
    return mapped


@pytest.mark.parametrize("contrast", [1, 4, 16])
def test_equalisation_is_that_of_matlabs_loops(contrast: int) -> None:
    image = (np.random.default_rng(1).integers(0, 256, (256, 128)) // contrast + 40).clip(0, 255).astype(np.uint8)
    height, width = 32, 16
    maps = [
        [
            matlabs_map(image[row * height : (row + 1) * height, column * width : (column + 1) * width])
            for column in range(8)
        ]
        for row in range(8)
    ]
    expected = np.empty(image.shape, dtype=np.uint8)
    for y in range(image.shape[0]):
        above, down = divmod(y - height // 2, height)
        for x in range(image.shape[1]):
            before, right = divmod(x - width // 2, width)
            total = 0
            for row, row_weight in ((above, height - down), (above + 1, down)):
                for column, weight in ((before, width - right), (before + 1, right)):
                    tile = maps[min(max(row, 0), 7)][min(max(column, 0), 7)]
                    total += row_weight * weight * tile[image[y, x]]
            expected[y, x] = int(total / (height * width) + 0.5)

    assert np.array_equal(adapthisteq(image), expected)


def test_films_of_any_size_keep_their_size_and_a_padded_one_its_middle() -> None:
    image = np.random.default_rng(2).integers(0, 256, (250, 131), dtype=np.uint8)

    padded = np.pad(image, [(3, 3), (6, 7)], mode="symmetric")

    assert np.array_equal(adapthisteq(image), adapthisteq(padded)[3:-3, 6:-7])


@pytest.mark.parametrize("shape", [(16, 16), (61, 48), (250, 131)])
def test_the_median_before_is_that_of_scipy_with_zeros_beyond_the_border(shape: tuple[int, int]) -> None:
    film = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    expected = adapthisteq(median_filter(film, size=3, mode="constant"))
    assert np.array_equal(preprocess_film(film), expected)


@given(st.integers(-70, 330), st.integers(-70, 330))
def test_each_pixel_of_a_plain_crop_is_the_films_or_background(x: int, y: int) -> None:
    film = np.random.default_rng(1).integers(1, 256, (256, 240), dtype=np.uint8)
    padded = np.zeros((256 + 400, 240 + 400), dtype=np.uint8)
    padded[200:456, 200:440] = film

    expected = padded[y + 139 : y + 259, x + 139 : x + 259]

    assert np.array_equal(extract_roi(film, x, y, bounding_box=False), expected)


def test_the_centre_counted_from_1_is_row_and_column_60() -> None:
    film = np.zeros((1024, 1024), dtype=np.uint8)
    film[599, 535] = 255

    assert np.argwhere(extract_roi(film, 536, 600)).tolist() == [[60, 60]]


def framed(rows: slice, columns: slice, level: int = 200) -> GreyImage:
    crop = np.zeros((120, 120), dtype=np.uint8)
    crop[rows, columns] = level
    return crop


@pytest.mark.parametrize(
    ("crop", "region"),
    [
        (framed(slice(0, 50), slice(20, 70)), (slice(0, 51), slice(20, 71))),
        (framed(slice(0, 38), slice(0, 39)), None),  # 1,482 pixels are a speck
        (framed(slice(0, 30), slice(0, 50)), (slice(0, 31), slice(0, 51))),  # 1,500 are a region
        (framed(slice(0, 60), slice(0, 60), 20), None),  # up to 20 it is background
        (framed(slice(0, 60), slice(0, 60), 21), (slice(0, 61), slice(0, 61))),
        (
            np.maximum(framed(slice(0, 50), slice(60, 110)), framed(slice(70, 119), slice(10, 60))),
            (slice(70, 120), slice(10, 61)),  # the one further left, though lower
        ),
        (
            np.maximum(framed(slice(0, 60), slice(0, 60)), framed(slice(60, 119), slice(60, 119))),
            (slice(0, 120), slice(0, 120)),  # a corner joins
        ),
    ],
)
def test_the_first_region_and_one_row_and_column_more(crop: GreyImage, region: tuple[slice, slice] | None) -> None:
    assert first_region(crop) == region


def test_a_crop_at_the_films_edge_is_stretched_from_what_lies_inside() -> None:
    """The real case: mdb144 at (233, 994), which is row 30."""
    film = np.tile(np.arange(100, 100 + 128, dtype=np.uint8)[:, None], (1, 128))

    roi = extract_roi(film, 64, 31)

    assert roi.shape == (120, 120)
    # Rows 0 to 89 become 120: a ramp of three quarters.
    expected = 100 + (np.arange(120) + 0.5) * 90 / 120 - 0.5
    assert np.abs(roi[3:-3, 60] - expected[3:-3]).max() <= 0.51


def test_a_crop_without_tissue_is_kept() -> None:
    film = np.full((128, 128), 9, dtype=np.uint8)

    assert (extract_roi(film, 64, 64) == 9).all()


@given(st.integers(30, 120), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_enlarging_one_axis_is_pillows_bicubic_but_for_rounding(side: int, axis: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(90, 110, (side, 120), dtype=np.uint8)
    image = image.T if axis else image

    ours = resize_bicubic(image).astype(int)
    pillows = np.asarray(Image.fromarray(image).resize((120, 120), Image.Resampling.BICUBIC)).astype(int)

    # Beyond the border MATLAB repeats the last pixel, Pillow leaves it out.
    assert np.abs(ours - pillows)[8:-8, 8:-8].max() <= 1


def half_disc_film(seed: int = 0) -> tuple[GreyImage, npt.NDArray[np.bool_]]:
    """A breast with its chest wall at the left border, noise around it, and a bright label far away."""
    rows, columns = np.mgrid[:1024, :1024]
    breast = np.hypot(rows - 500, columns) < 420
    film = np.random.default_rng(seed).integers(0, 15, (1024, 1024), dtype=np.uint8)
    film[breast] = 130
    film[40:120, 850:980] = 250
    return film, breast


@pytest.mark.parametrize("flipped", [False, True])
def test_every_draw_lies_in_the_breast_and_outside_the_corner_of_the_pectoral_muscle(flipped: bool) -> None:
    film, breast = half_disc_film()
    film = np.ascontiguousarray(film[:, ::-1]) if flipped else film
    for number, seed in ((number, number % 3) for number in range(80)):
        centre = draw_normal_centre(film, number, seed)
        assert centre is not None
        x, y = (1023 - centre[0], centre[1]) if flipped else centre
        # Mirrored, the crop's 60 pixels to the left of its centre are those to its right.
        left = x - 59 if flipped else x - 60
        assert left >= 0
        assert breast[y - 60 : y + 60, left : left + 120].all()
        # The triangle from the breast's top (row 80), 0.45 of its height down and 0.5 of its width along.
        corner_x, corner_y = x - 60, y - 60
        assert corner_x / (0.5 * 420) + (corner_y - 80) / (0.45 * 840) >= 0.95


def test_draws_differ_between_seeds_and_films_and_repeat_with_both() -> None:
    film, _ = half_disc_film()

    draws = [draw_normal_centre(film, number, seed) for number in (1, 2) for seed in (0, 1)]

    assert len(set(draws)) == 4
    assert draw_normal_centre(film, 1, 0) == draws[0]


def test_draws_spread_over_the_breast() -> None:
    film, _ = half_disc_film()
    draws = np.array([draw_normal_centre(film, number, 0) for number in range(60)])

    assert (draws.max(axis=0) - draws.min(axis=0) > 150).all()


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
    assert choose_normal_films(tissues, ["G", "F", "D"], 0) != choose_normal_films(tissues, ["G", "F", "D"], 1)


def test_without_lesions_there_is_nothing_to_match() -> None:
    assert choose_normal_films({"mdb001": "F"}, [], seed=0) == []
