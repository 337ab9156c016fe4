"""The leakage audit on the published archive, against brute force and the authors' lists."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo.core.records import ROI_SIDE_PX
from mammo.data.audit import find_pairs, leakage_summary, overlaps_of, parts_of, with_parts
from mammo.data.rois import Rois
from tests.data.pictures import Picture


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
def published(real_rois: Rois) -> pd.DataFrame:
    """The pairs of the published archive; the search takes about a minute."""
    return with_parts(find_pairs(real_rois.table, real_rois.images), parts_of(real_rois.table))


@pytest.mark.real
@pytest.mark.slow
def test_the_published_archive_leaks_in_three_of_its_five_pairs(
    real_rois: Rois, published: pd.DataFrame
) -> None:
    assert published["mad"].max() < 0.01
    summary = leakage_summary(published, real_rois.table, parts_of(real_rois.table))
    assert summary["pairs_by_kind"] == {"shifted": 4, "stretched": 1}
    assert summary["pairs_by_parts"] == {"test-train": 3, "train-train": 2}
    shifted = published[published["kind"] == "shifted"]
    row_of = {roi_id: row for row, roi_id in enumerate(real_rois.table["roi_id"])}
    rows = [sorted((row_of[a], row_of[b])) for a, b in zip(shifted["a"], shifted["b"], strict=True)]
    assert pairs_that_share_a_window(real_rois.images) == {(a, b) for a, b in rows}


@pytest.mark.real
@pytest.mark.slow
def test_the_shifts_in_the_published_archive_are_those_of_its_lesions(published: pd.DataFrame) -> None:
    """Lesions of one film that are closer than a ROI's side, by the authors' lists beside the archive."""
    lists = [
        Path(os.environ["MAMMO_MIAS_ROIS"]).with_name(f"data_{severity}_labels.txt") for severity in "BM"
    ]
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
        if max(abs(x - x0), abs(y - y0)) < ROI_SIDE_PX
    }
    shifted = published[published["kind"] == "shifted"]
    found = {max((dx, dy), (-dx, -dy)) for dx, dy in zip(shifted["dx_px"], shifted["dy_px"], strict=True)}
    # The pair of mdb226 at the breast's edge was stretched: it lost columns on one side and kept all rows.
    (stretched,) = overlaps_of(published[published["kind"] == "stretched"])
    ((dx, dy),) = expected - found
    assert found < expected
    assert {dy, -dy} >= {stretched.dy_px}
    lost_px = ROI_SIDE_PX - round(ROI_SIDE_PX * stretched.stretch_x)
    assert stretched.dx_px in {side + cut for side in (dx, -dx) for cut in (0, lost_px)}
