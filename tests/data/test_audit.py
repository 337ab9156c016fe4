"""The leakage audit against overlaps that are planted, so known, and against brute force."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mammo.core.config import IngestConfig
from mammo.data.audit import OVERLAP_SCHEMA, find_pairs
from mammo.data.audit_search import LIMITS, Box, Overlap, aligned_crops, find_overlaps, overlap_boxes
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.film_rois import load_films
from mammo.data.rois import Rois
from tests.data.pictures import Picture, jpeg
from tests.settings import section

SIDE = 120


def film(seed: int, side: int = 400) -> Picture:
    """Tissue-like noise: its power falls with frequency."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    noise = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**1.2
    tissue = np.fft.irfft2(noise, (side, side))
    grey: Picture = (128 + 35 * (tissue - tissue.mean()) / tissue.std()).clip(0, 255).astype(np.uint8)
    return grey


def crop(picture: Picture, top: int, left: int, height: int = SIDE, width: int = SIDE) -> Picture:
    return picture[top : top + height, left : left + width]


def audit(*images: Picture) -> list[Overlap]:
    return find_overlaps(np.stack(images), [f"r{row}" for row in range(len(images))])


def strangers(n: int) -> list[Picture]:
    return [crop(film(1000 + seed, 160), 20, 20) for seed in range(n)]


def test_a_shifted_crop_of_the_same_film_is_found_with_its_shift_and_its_difference() -> None:
    tissue = film(1).clip(0, 240)
    (overlap,) = audit(crop(tissue, 140, 140), *strangers(3), crop(tissue, 210, 74) + np.uint8(7))
    assert overlap.correlation == pytest.approx(1.0)
    assert overlap == Overlap("r0", "r4", "shifted", -66, 70, 1.0, 1.0, 50 * 54, 7.0, overlap.correlation)


def test_copies_without_texture_are_identical_but_empty_pictures_are_not_reported() -> None:
    smooth = np.tile(np.linspace(90, 110, SIDE).astype(np.uint8), (SIDE, 1))
    empty = np.zeros((SIDE, SIDE), np.uint8)
    found = audit(smooth, empty, smooth.copy(), empty.copy())
    assert [(one.a, one.b, one.kind) for one in found] == [("r0", "r2", "identical")]


@pytest.mark.parametrize("width", [100, 90, 63])
@pytest.mark.parametrize("turned", [False, True])
def test_a_crop_that_was_stretched_to_a_square_is_found_with_its_stretch(width: int, *, turned: bool) -> None:
    tissue = film(5)
    narrow = crop(tissue, 150, 110, SIDE, width)
    stretched = np.asarray(Image.fromarray(narrow).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    images = [stretched, *strangers(3), crop(tissue, 110, 90)]
    (overlap,) = audit(*(np.ascontiguousarray(image.T) for image in images) if turned else images)
    along_x, along_y = (overlap.dx_px, overlap.stretch_x), (overlap.dy_px, overlap.stretch_y)
    if turned:
        along_x, along_y = along_y, along_x
    assert (overlap.a, overlap.b, overlap.kind) == ("r4", "r0", "stretched")
    assert (along_x, along_y) == ((20, width / SIDE), (40, 1.0))
    assert overlap.mad < 2


def flat() -> list[Picture]:
    """Bright tissue of two grey levels."""
    rng = np.random.default_rng(0)
    return [(235 + rng.integers(0, 2, (SIDE, SIDE))).astype(np.uint8) for _ in range(3)]


def changed(images: list[Picture], *patches: tuple[slice, slice, int | Picture]) -> list[Picture]:
    for image in images:
        for rows, columns, grey in patches:
            image[rows, columns] = grey
    return images


def parts_in_common() -> list[Picture]:
    first, second = strangers(2)
    first[60:, 60:100] = second[:60, :40] = crop(film(8), 0, 0, 60, 40)
    return [first, second]


ALL, EDGE, BELOW = slice(None), slice(0, 40), slice(60, SIDE)


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda: strangers(12), id="unrelated tissue"),
        pytest.param(flat, id="flat bright tissue"),
        pytest.param(lambda: changed(strangers(2), (ALL, slice(50, SIDE), 255)), id="saturated tissue"),
        pytest.param(lambda: changed(flat(), (ALL, EDGE, 0)), id="a straight edge between flat areas"),
        pytest.param(lambda: changed(strangers(4), (BELOW, ALL, 255), (ALL, EDGE, 0)), id="the straight edge of films"),
        pytest.param(
            lambda: changed(strangers(2), (slice(30, 60), slice(30, 60), crop(film(8), 0, 0, 30, 30))),
            id="a marker that two films share",
        ),
        pytest.param(parts_in_common, id="a match of a part of the overlap"),
    ],
)
def test_what_is_no_overlap_of_tissue_gives_no_alarm(draw: Callable[[], list[Picture]]) -> None:
    assert audit(*draw()) == []


def test_an_overlap_of_faint_tissue_is_found_where_it_is_equal_pixel_by_pixel() -> None:
    faint = 100 + film(14) // 16
    (overlap,) = audit(crop(faint, 100, 100), *strangers(2), crop(faint, 197, 198))
    assert (overlap.dy_px, overlap.dx_px, overlap.overlap_px) == (97, 98, 23 * 22)


@settings(max_examples=15, deadline=None)
@given(corners=st.lists(st.tuples(st.integers(0, 280), st.integers(0, 280)), min_size=4, max_size=7, unique=True))
def test_every_overlap_of_random_crops_is_found_and_nothing_else(corners: list[tuple[int, int]]) -> None:
    tissue = film(9)
    overlaps = audit(*(crop(tissue, *corner) for corner in corners))
    found = {(one.a, one.b): (one.dy_px, one.dx_px) for one in overlaps}
    for (i, (top_a, left_a)), (j, (top_b, left_b)) in combinations(enumerate(corners), 2):
        height, width = SIDE - abs(top_a - top_b), SIDE - abs(left_a - left_b)
        pair = (f"r{i}", f"r{j}")
        if min(height, width) >= LIMITS.side_px and height * width >= LIMITS.area_px:
            assert pair in found
        # Smaller overlaps are found where they are equal and textured, but never at a wrong place.
        if pair in found:
            assert min(height, width) > 0
            assert found[pair] == (top_b - top_a, left_b - left_a)


@pytest.fixture(scope="module")
def phantoms(phantom_folder: Path) -> Rois:
    return load_films(phantom_folder, section(IngestConfig, source="phantom", bounding_box=False))


def same(image: Picture) -> Picture:
    return image


def gamma(image: Picture) -> Picture:
    return np.rint(255 * (image / 255) ** 0.7).astype(np.uint8)


def noisy(image: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [same, gamma, noisy, jpeg])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (-64, 41)])
@pytest.mark.parametrize("turn", [same, np.fliplr, np.flipud])
def test_tissue_of_one_film_is_found_shifted_turned_over_and_changed(
    phantom_folder: Path,
    phantoms: Rois,
    change: Callable[[Picture], Picture],
    turn: Callable[[Picture], Picture],
    dx: int,
    dy: int,
) -> None:
    first = phantoms.table.iloc[0]
    film = preprocess_film(np.asarray(Image.open(phantom_folder / f"{first['film_id']}.pgm")))
    shifted = extract_roi(film, int(first["x_px"]) + dx, int(first["y_px"]) + dy, bounding_box=False)
    found = audit(*phantoms.images[:4], np.ascontiguousarray(change(turn(shifted))))
    (overlap,) = (one for one in found if one.b == "r4")
    kind = "shifted" if dx else "identical" if change is same else "altered"
    kind = {"fliplr": "mirrored", "flipud": "flipped"}.get(turn.__name__, kind)
    assert (overlap.a, overlap.kind, overlap.dx_px, overlap.dy_px) == ("r0", kind, dx, dy)
    assert overlap.overlap_px == (SIDE - abs(dx)) * (SIDE - abs(dy))
    assert (overlap.mad == 0) == (change is same)


def test_phantom_rois_of_different_films_share_no_tissue(phantoms: Rois) -> None:
    pairs = find_pairs(phantoms.table, phantoms.images)
    film_of = phantoms.table.set_index("roi_id")["film_id"]
    assert dict(pairs.dtypes.astype(str)) == OVERLAP_SCHEMA
    assert (pairs["a"].map(film_of) == pairs["b"].map(film_of)).all()


def test_every_step_is_told_and_a_roi_alone_has_no_pairs() -> None:
    told: list[tuple[int, int]] = []
    assert find_overlaps(crop(film(10), 0, 0)[None], ["r0"], progress=lambda *step: told.append(step)) == []
    assert told == [(step, len(told)) for step in range(1, len(told) + 1)]


def test_aligned_crops_show_the_same_pixels() -> None:
    tissue = film(11)
    pictures = [
        crop(tissue, 100, 100),
        crop(tissue, 71, 152),
        crop(tissue, 163, 120)[:, ::-1],
        crop(tissue, 90, 60)[::-1],
    ]
    found = [one for one in audit(*pictures) if one.a in ("r0", "r1")]
    assert [one.kind for one in found] == ["shifted", "mirrored", "flipped", "mirrored", "flipped"]
    for overlap in found:
        both = pictures[int(overlap.a[1])], pictures[int(overlap.b[1])]
        first, second = aligned_crops(*both, overlap)
        assert first.size == overlap.overlap_px
        np.testing.assert_array_equal(first, second)
        boxes = overlap_boxes((SIDE, SIDE), (SIDE, SIDE), overlap)
        in_a, in_b = (cut(image, box) for image, box in zip(both, boxes, strict=True))
        np.testing.assert_array_equal(in_a, first)
        turned = {"mirrored": in_b[:, ::-1], "flipped": in_b[::-1]}.get(overlap.kind, in_b)
        np.testing.assert_array_equal(turned, second)


def cut(image: Picture, box: Box) -> Picture:
    return image[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]


def test_the_frames_of_a_stretched_overlap_lie_where_its_record_says() -> None:
    overlap = Overlap("a", "b", "stretched", 20, -40, 0.75, 1.0, 9600, 0.0, 1.0)
    boxes = overlap_boxes((SIDE, SIDE), (SIDE, SIDE), overlap)
    assert boxes == (Box(20, 0, 110, 80), Box(0, 40, 120, 120))
