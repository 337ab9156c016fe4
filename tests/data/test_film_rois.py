"""Places of normal tissue, and the choice of normal films."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from mammo.data.film_rois import (
    breast_mask,
    choose_normal_films,
    draw_normal_centre,
)

GreyImage = npt.NDArray[np.uint8]


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
