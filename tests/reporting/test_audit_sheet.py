"""The sheet of pairs that share tissue: order, verdicts, crops and the empty case, read from the drawn figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from mammo.core.errors import NOTICE
from mammo.data.audit_search import Overlap
from mammo.report.audit_sheet import MAX_PAIRS, DrawnPair, pairs_sheet
from tests.reporting.drawn_figures import Gallery, catch_figures

NOTE = "PHANTOM (synthetic) ROIs, published split, 8 ROIs"
FILM = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def drawn(name: str, dx_px: int, dy_px: int, part_a: str | None, part_b: str | None) -> DrawnPair:
    """Two ROIs cut from one film, the second shifted."""
    overlap_px = (120 - abs(dx_px)) * (120 - abs(dy_px))
    overlap = Overlap(f"{name}-a", f"{name}-b", "shifted", dx_px, dy_px, 1.0, 1.0, overlap_px, 0.0, 1.0)
    image_b = FILM[90 + dy_px : 210 + dy_px, 90 + dx_px : 210 + dx_px]
    return DrawnPair(overlap, FILM[90:210, 90:210], image_b, part_a, part_b)


PAIRS = [
    drawn("within", 10, 0, "train", "train"),
    drawn("small leak", 60, 30, "test", "train"),
    drawn("large leak", -20, 7, "train", "val"),
    drawn("unknown", 5, 5, None, None),
]


def rows_of(gallery: Gallery) -> list[str]:
    return [text.split("\n")[0].removeprefix("a: ") for text in titles(gallery) if text.startswith("a: ")]


def titles(gallery: Gallery) -> list[str]:
    return [axes.get_title(loc="left") for axes in gallery[-1].axes]


def test_pairs_across_parts_come_first_the_largest_overlap_leading(tmp_path: Path, gallery: Gallery) -> None:
    pairs_sheet(PAIRS, tmp_path / "pairs.png", NOTE)

    assert rows_of(gallery) == ["large leak-a", "small leak-a", "unknown-a", "within-a"]
    verdicts = [axes.get_ylabel() for axes in gallery[-1].axes if axes.get_ylabel()]
    assert verdicts == ["LEAK", "LEAK", "parts unknown", "same part"]
    assert "Leakage audit: 4 pairs of ROIs share tissue, 2 across parts" in gallery.texts()


def test_the_shared_crops_are_the_same_pixels_and_their_difference_is_nil(
    tmp_path: Path, gallery: Gallery
) -> None:
    pairs_sheet([PAIRS[1]], tmp_path / "pairs.png", NOTE)

    crop_a, crop_b, difference = (np.asarray(axes.images[0].get_array()) for axes in gallery[-1].axes[2:5])
    np.testing.assert_array_equal(crop_a, FILM[120:210, 150:210])
    np.testing.assert_array_equal(crop_a, crop_b)
    assert difference.max() == 0


def test_the_shared_tissue_is_framed_in_both_rois(tmp_path: Path, gallery: Gallery) -> None:
    pairs_sheet([PAIRS[1]], tmp_path / "pairs.png", NOTE)

    frames = [axes.patches[0] for axes in gallery[-1].axes[:2]]
    boxes = [frame.get_bbox() for frame in frames if isinstance(frame, Rectangle)]
    assert [(box.x0, box.y0, box.x1, box.y1) for box in boxes] == [
        (59.5, 29.5, 119.5, 119.5),
        (-0.5, -0.5, 59.5, 89.5),
    ]


def test_no_pairs_are_said_in_words(tmp_path: Path, gallery: Gallery) -> None:
    pairs_sheet([], tmp_path / "pairs.png", NOTE)

    assert "no two ROIs share tissue" in gallery.texts()


@pytest.mark.parametrize("n", [1, 4, MAX_PAIRS + 3])
def test_the_sheet_says_what_it_rests_on_and_no_text_meets_another(
    tmp_path: Path, gallery: Gallery, n: int
) -> None:
    pairs_sheet((PAIRS * n)[:n], tmp_path / "pairs.png", NOTE)

    assert {NOTE, NOTICE} <= set(gallery.texts())
    assert len(rows_of(gallery)) == min(n, MAX_PAIRS)
    assert any("the first" in text for text in gallery.texts()) == (n > MAX_PAIRS)
    assert gallery.overlaps() == []
    assert gallery.outside() == []
