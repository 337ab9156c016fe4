"""The leakage audit against overlaps that are planted, so known, and against brute force."""

import os
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mammo.core.config import IngestConfig
from mammo.data.archive import load_mias_rois
from mammo.data.audit import find_pairs, leakage_summary, overlaps_of, parts_of, with_parts
from mammo.data.audit_search import (
    LACK_OF_DETAIL,
    LIMITS,
    Box,
    Overlap,
    aligned_crops,
    detail_ratio,
    find_overlaps,
    overlap_boxes,
)
from mammo.data.rois import RoiSet
from tests.data.pictures import Picture, jpeg

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


def darker(image: Picture) -> Picture:
    return (0.8 * image + 12).astype(np.uint8)


@pytest.mark.parametrize(
    ("dy", "dx"), [(0, 37), (58, 0), (-31, 44), (70, -66), (-80, -80), (1, 0), (95, -15)]
)
def test_a_shifted_crop_of_the_same_film_is_found_with_its_shift(dy: int, dx: int) -> None:
    tissue = film(1)
    found = audit(crop(tissue, 140, 140), *strangers(3), crop(tissue, 140 + dy, 140 + dx))
    (overlap,) = found
    assert asdict(overlap) == {
        "a": "r0",
        "b": "r4",
        "kind": "shifted",
        "dx_px": dx,
        "dy_px": dy,
        "stretch_x": 1.0,
        "stretch_y": 1.0,
        "overlap_px": (SIDE - abs(dy)) * (SIDE - abs(dx)),
        "mad": 0.0,
        "correlation": pytest.approx(1.0),
    }


@pytest.mark.parametrize("change", [darker, jpeg])
def test_a_shift_is_found_through_changed_grey_values(change: Callable[[Picture], Picture]) -> None:
    tissue = film(2)
    (overlap,) = audit(crop(tissue, 100, 100), *strangers(2), change(crop(tissue, 147, 69)))
    assert (overlap.kind, overlap.dy_px, overlap.dx_px) == ("shifted", 47, -31)
    assert overlap.mad > 0


def test_the_mean_absolute_difference_is_that_of_the_overlap() -> None:
    tissue = film(3).clip(0, 240)
    (overlap,) = audit(crop(tissue, 100, 100), crop(tissue, 130, 100) + np.uint8(7))
    assert overlap.mad == 7.0


def test_copies_are_identical_or_altered() -> None:
    first, second = strangers(2)
    found = audit(first, second, first.copy(), darker(second))
    assert [(one.a, one.b, one.kind, one.overlap_px) for one in found] == [
        ("r0", "r2", "identical", SIDE * SIDE),
        ("r1", "r3", "altered", SIDE * SIDE),
    ]


def test_copies_without_texture_are_identical_but_empty_pictures_are_not_reported() -> None:
    smooth = np.tile(np.linspace(90, 110, SIDE).astype(np.uint8), (SIDE, 1))
    empty = np.zeros((SIDE, SIDE), np.uint8)
    found = audit(smooth, empty, smooth.copy(), empty.copy())
    assert [(one.a, one.b, one.kind) for one in found] == [("r0", "r2", "identical")]


def test_a_mirrored_overlap_is_found_and_its_pixels_lie_where_the_record_says() -> None:
    tissue = film(4)
    a, b = crop(tissue, 100, 100), crop(tissue, 82, 141)[:, ::-1]
    (overlap,) = audit(a, *strangers(2), b)
    assert (overlap.kind, overlap.mad) == ("mirrored", 0.0)
    flipped = b[:, ::-1]
    for row, column in ((20, 3), (70, 60), (119, 78)):
        assert flipped[row, column] == a[row + overlap.dy_px, column + overlap.dx_px]


def test_a_flipped_copy_is_found_through_changed_grey_values() -> None:
    tissue = film(4)
    (overlap,) = audit(crop(tissue, 100, 100), *strangers(2), darker(crop(tissue, 82, 141)[::-1]))
    assert (overlap.kind, overlap.dy_px, overlap.dx_px) == ("flipped", -18, 41)


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


def test_unrelated_tissue_gives_no_alarm() -> None:
    assert audit(*strangers(12)) == []


def test_flat_bright_tissue_gives_no_alarm() -> None:
    rng = np.random.default_rng(0)
    flat = [(235 + rng.integers(0, 2, (SIDE, SIDE))).astype(np.uint8) for _ in range(3)]
    saturated = [crop(film(seed), 0, 0) | np.uint8(0) for seed in (6, 7)]
    for image in saturated:
        image[:, 50:] = 255
    assert audit(*flat, *saturated) == []


def test_the_straight_edge_of_films_gives_no_alarm_in_tissue_or_between_flat_areas() -> None:
    rng = np.random.default_rng(1)
    flat = [(235 + rng.integers(0, 2, (SIDE, SIDE))).astype(np.uint8) for _ in range(3)]
    textured = strangers(4)
    for image in textured:
        image[60:, 40:] = 255
    for images in (flat, textured):
        for image in images:
            image[:, :40] = 0
        assert audit(*images) == []


def test_an_overlap_of_faint_tissue_is_found_where_it_is_equal_pixel_by_pixel() -> None:
    faint = 100 + film(14) // 16
    (overlap,) = audit(crop(faint, 100, 100), *strangers(2), crop(faint, 197, 198))
    assert (overlap.dy_px, overlap.dx_px, overlap.overlap_px) == (97, 98, 23 * 22)


def test_a_marker_that_two_films_share_is_no_overlap_of_tissue() -> None:
    images = strangers(2)
    for image in images:
        image[30:60, 30:60] = crop(film(8), 0, 0, 30, 30)
    assert audit(*images) == []


def test_a_match_of_a_part_of_the_overlap_is_no_overlap() -> None:
    first, second = strangers(2)
    first[60:, 60:100] = crop(film(8), 0, 0, 60, 40)
    second[:60, :40] = crop(film(8), 0, 0, 60, 40)
    assert audit(first, second) == []


@settings(max_examples=15, deadline=None)
@given(
    corners=st.lists(st.tuples(st.integers(0, 280), st.integers(0, 280)), min_size=4, max_size=7, unique=True)
)
def test_every_overlap_of_random_crops_is_found_and_nothing_else(corners: list[tuple[int, int]]) -> None:
    tissue = film(9)
    found = {
        (one.a, one.b): (one.dy_px, one.dx_px)
        for one in audit(*(crop(tissue, *corner) for corner in corners))
    }
    for (i, (top_a, left_a)), (j, (top_b, left_b)) in combinations(enumerate(corners), 2):
        height, width = SIDE - abs(top_a - top_b), SIDE - abs(left_a - left_b)
        pair = (f"r{i}", f"r{j}")
        if min(height, width) >= LIMITS.side_px and height * width >= LIMITS.area_px:
            assert pair in found
        # Smaller overlaps are found where they are equal and textured, but never at a wrong place.
        if pair in found:
            assert min(height, width) > 0
            assert found[pair] == (top_b - top_a, left_b - left_a)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    tissue = film(10)
    images = np.stack([crop(tissue, 30 * step, 20 * step) for step in range(8)])
    ids = [f"r{row}" for row in range(8)]
    assert find_overlaps(images, ids, n_threads=1) == find_overlaps(images, ids, n_threads=4)


def test_one_roi_overlaps_with_nothing() -> None:
    assert audit(strangers(1)[0]) == []


def test_aligned_crops_show_the_same_pixels() -> None:
    tissue = film(11)
    pictures = [
        crop(tissue, 100, 100),
        crop(tissue, 71, 152),
        crop(tissue, 163, 120)[:, ::-1],
        crop(tissue, 90, 60)[::-1],
    ]
    found = [one for one in audit(*pictures) if one.a in ("r0", "r1")]
    kinds = ["shifted", "mirrored", "flipped", "mirrored", "flipped"]
    assert [one.kind for one in found] == kinds
    for overlap in found:
        image_a, image_b = pictures[int(overlap.a[1])], pictures[int(overlap.b[1])]
        first, second = aligned_crops(image_a, image_b, overlap)
        assert first.size == overlap.overlap_px
        np.testing.assert_array_equal(first, second)
        in_a, in_b = (cut(*both) for both in zip((image_a, image_b), boxes(overlap), strict=True))
        np.testing.assert_array_equal(in_a, first)
        turned = {"mirrored": in_b[:, ::-1], "flipped": in_b[::-1]}.get(overlap.kind, in_b)
        np.testing.assert_array_equal(turned, second)


def boxes(overlap: Overlap) -> tuple[Box, Box]:
    return overlap_boxes((SIDE, SIDE), (SIDE, SIDE), overlap)


def cut(image: Picture, box: Box) -> Picture:
    return image[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]


def test_the_frames_of_a_stretched_overlap_lie_where_its_record_says() -> None:
    overlap = Overlap("a", "b", "stretched", 20, -40, 0.75, 1.0, 9600, 0.0, 1.0)
    assert boxes(overlap) == (Box(20, 0, 110, 80), Box(0, 40, 120, 120))


def test_only_the_axis_of_a_stretch_lacks_fine_detail() -> None:
    narrow = Image.fromarray(crop(film(12), 0, 0, SIDE, 96))
    stretched = np.asarray(narrow.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    assert detail_ratio(stretched) < -LACK_OF_DETAIL
    assert detail_ratio(stretched.T) > LACK_OF_DETAIL
    assert abs(detail_ratio(crop(film(12), 0, 0))) < LACK_OF_DETAIL


def test_progress_is_told_of_every_step_of_the_search() -> None:
    told: list[tuple[int, int]] = []
    find_overlaps(np.stack(strangers(2)), ["a", "b"], progress=lambda done, total: told.append((done, total)))
    assert told == [(step, len(told)) for step in range(1, len(told) + 1)]


def pairs_that_share_a_window(images: Picture, side: int = 12) -> set[tuple[int, int]]:
    """Brute force: pairs of images in which the same textured window occurs, pixel by pixel."""
    key = np.random.default_rng(0).integers(1, 2**63, (side, side), dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    owners: dict[int, set[int]] = {}
    for row, of_image in enumerate(windows):
        textured = of_image.std(axis=(2, 3)) > 2
        for value in (of_image[textured].astype(np.uint64) * key).sum(axis=(1, 2)).tolist():
            owners.setdefault(value, set()).add(row)
    return {both for rows in owners.values() if len(rows) > 1 for both in combinations(sorted(rows), 2)}


@pytest.fixture(scope="module")
def archive() -> Path:
    path = os.environ.get("MAMMO_MIAS_ROIS")
    if path is None:
        pytest.skip("MAMMO_MIAS_ROIS does not name the ROI archive")
    return Path(path)


@pytest.fixture(scope="module")
def published(archive: Path) -> tuple[RoiSet, pd.DataFrame]:
    """The published archive and its pairs; the search takes about a minute."""
    rois_of_archive = load_mias_rois(archive, IngestConfig())
    pairs = find_pairs(rois_of_archive.table, rois_of_archive.images)
    return rois_of_archive, with_parts(pairs, parts_of(rois_of_archive.table))


@pytest.mark.real
@pytest.mark.slow
def test_the_published_archive_leaks_in_three_of_its_five_pairs(
    published: tuple[RoiSet, pd.DataFrame],
) -> None:
    archived, pairs = published
    assert pairs["mad"].max() < 0.01
    summary = leakage_summary(pairs, archived.table, parts_of(archived.table))
    assert summary["pairs_by_kind"] == {"shifted": 4, "stretched": 1}
    assert summary["pairs_by_parts"] == {"test-train": 3, "train-train": 2}
    shifted = pairs[pairs["kind"] == "shifted"]
    row_of = {roi_id: row for row, roi_id in enumerate(archived.table["roi_id"])}
    rows = [sorted((row_of[a], row_of[b])) for a, b in zip(shifted["a"], shifted["b"], strict=True)]
    assert pairs_that_share_a_window(archived.images) == {(a, b) for a, b in rows}


@pytest.mark.real
@pytest.mark.slow
def test_the_shifts_in_the_published_archive_are_those_of_its_lesions(
    archive: Path, published: tuple[RoiSet, pd.DataFrame]
) -> None:
    """Lesions of one film that are closer than a ROI's side, by the authors' lists beside the archive."""
    lists = [archive.with_name(f"data_{severity}_labels.txt") for severity in "BM"]
    if not all(path.is_file() for path in lists):
        pytest.skip("the lists of lesions do not lie beside the archive")
    lesions: dict[str, list[tuple[int, int]]] = {}
    for line in "\n".join(path.read_text() for path in lists).splitlines():
        fields = line.split()
        if len(fields) == 7:
            # The lists count rows from the film's lower edge.
            lesions.setdefault(fields[0], []).append((int(fields[4]), -int(fields[5])))
    expected = {
        max((x - x0, y - y0), (x0 - x, y0 - y))
        for places in lesions.values()
        for (x0, y0), (x, y) in combinations(places, 2)
        if max(abs(x - x0), abs(y - y0)) < SIDE
    }
    pairs = published[1]
    shifted = pairs[pairs["kind"] == "shifted"]
    found = {max((dx, dy), (-dx, -dy)) for dx, dy in zip(shifted["dx_px"], shifted["dy_px"], strict=True)}
    # The pair of mdb226 at the breast's edge was stretched: it lost columns on one side and kept all rows.
    (stretched,) = overlaps_of(pairs[pairs["kind"] == "stretched"])
    ((dx, dy),) = expected - found
    assert found < expected
    assert {dy, -dy} >= {stretched.dy_px}
    lost_px = SIDE - round(SIDE * stretched.stretch_x)
    assert stretched.dx_px in {side + cut for side in (dx, -dx) for cut in (0, lost_px)}
