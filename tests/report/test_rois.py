"""The sheets of ROIs and of pairs: order, counts, votes and empty cases, read from the drawn figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from mammo.core.config import VoteConfig
from mammo.core.records import Label
from mammo.data.audit import pairs_table
from mammo.data.audit_search import Overlap
from mammo.data.patches import grid_corners
from mammo.evaluation.voting import RoiVote, roi_votes
from mammo.report.audit import MAX_PAIRS, pairs_sheet
from mammo.report.rois import MAX_TILES, VotedRoi, vote_picture, wrong_rois_sheet
from tests.report.drawn_figures import Gallery
from tests.settings import section

NOTE = "MIAS ROIs, published split, 64 test ROIs"
CORNERS = grid_corners(72, 12)
FILM = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
IMAGE = FILM[90:210, 90:210]


def vote(n_tumor: int, n_patches: int = 25) -> RoiVote:
    """A vote in which the first `n_tumor` patches say Tumor."""
    scores = np.where(np.arange(n_patches) < n_tumor, 0.9, 0.125)
    return roi_votes(scores[None], section(VoteConfig))[0]


def roi(name: str, label: Label, n_tumor: int) -> VotedRoi:
    return VotedRoi(name, IMAGE, label, vote(n_tumor))


def pair(name: str, dx_px: int, dy_px: int, part_a: str, part_b: str) -> pd.DataFrame:
    """Two ROIs cut from one film (`IMAGES`), the second shifted."""
    overlap_px = (120 - abs(dx_px)) * (120 - abs(dy_px))
    overlap = Overlap(f"{name}-a", f"{name}-b", "shifted", dx_px, dy_px, 1.0, 1.0, overlap_px, 0.0, 1.0)
    return pairs_table([overlap]).assign(split_a=part_a, split_b=part_b)


ROIS = [
    roi("normal-right", Label.NORMAL, 2),
    roi("alarm-weak", Label.NORMAL, 14),
    roi("missed-weak", Label.TUMOR, 12),
    roi("alarm-strong", Label.NORMAL, 25),
    roi("missed-strong", Label.TUMOR, 0),
    roi("tumor-right", Label.TUMOR, 20),
]
PLACED = {
    "within": (10, 0, "train", "train"),
    "small leak": (60, 30, "test", "train"),
    "large leak": (-20, 7, "train", "val"),
    "another within": (5, 5, "val", "val"),
}
PAIRS = [pair(name, *placed) for name, placed in PLACED.items()]
IMAGES = dict.fromkeys([f"{name}-a" for name in PLACED], IMAGE) | {
    f"{name}-b": FILM[90 + dy : 210 + dy, 90 + dx : 210 + dx] for name, (dx, dy, _, _) in PLACED.items()
}


def wrong(n: int, path: Path, title: str = "a") -> None:
    rois = [roi(f"mias_rois/test/Tumor ({i}) with a long name", Label.TUMOR, i % 12) for i in range(n)]
    wrong_rois_sheet(rois, CORNERS, path, NOTE, title=title)


def pairs(n: int, path: Path) -> None:
    pairs_sheet(pd.concat([pairs_table([]), *(PAIRS * n)[:n]]), IMAGES, path, NOTE)


def one_vote(path: Path, size_px: int = 72, stride_px: int = 12) -> None:
    corners = grid_corners(size_px, stride_px)
    vote_picture(IMAGE, vote(len(corners) * 3 // 4, len(corners)), corners, size_px, path, NOTE)


def titles(gallery: Gallery) -> list[str]:
    return [axes.get_title(loc="left") for axes in gallery[-1].axes]


Draw = Callable[[Path], None]
EVERY_SHEET: dict[str, tuple[Draw, str]] = {
    "one wrong": (lambda path: wrong(1, path), "a: 1 of 1 ROIs decided wrongly"),
    "two wrong": (lambda path: wrong(2, path), "a: 2 of 2 ROIs decided wrongly"),
    "seven wrong": (lambda path: wrong(7, path), "a: 7 of 7 ROIs decided wrongly"),
    "too many wrong": (
        lambda path: wrong(MAX_TILES + 1, path),
        "a: 25 of 25 ROIs decided wrongly, the first 24 shown",
    ),
    "none wrong": (
        lambda path: wrong_rois_sheet(ROIS[:1], CORNERS, path, NOTE, title="a"),
        "no ROI was decided wrongly",
    ),
    "one pair": (
        lambda path: pairs(1, path),
        "Leakage audit: 1 pair of ROIs shares tissue, 0 across parts",
    ),
    "four pairs": (
        lambda path: pairs(4, path),
        "Leakage audit: 4 pairs of ROIs share tissue, 2 across parts",
    ),
    "too many pairs": (
        lambda path: pairs(MAX_PAIRS + 3, path),
        "Leakage audit: 23 pairs of ROIs share tissue, 12 across parts; the first 20 shown",
    ),
    "no pair": (lambda path: pairs(0, path), "no two ROIs share tissue"),
    "vote": (one_vote, "Called Tumor: 18 of 25 patches voted Tumor, mean score 0.68"),
    "vote of one patch": (
        lambda path: vote_picture(IMAGE, vote(1, 1), grid_corners(120, 12), 120, path, NOTE),
        "Called Tumor: 1 of 1 patches voted Tumor, mean score 0.90",
    ),
}


@pytest.mark.parametrize(("draw", "said"), EVERY_SHEET.values(), ids=EVERY_SHEET)
def test_every_sheet_says_its_data_and_its_numbers_and_no_text_meets_another(
    draw: Draw, said: str, tmp_path: Path, gallery: Gallery
) -> None:
    draw(tmp_path / "a.png")
    assert said in " ".join(gallery.texts()).replace("\n", " ")
    assert gallery.faults(NOTE) == []


def test_only_wrong_rois_are_shown_missed_tumors_first_and_the_surest_errors_leading(
    tmp_path: Path, gallery: Gallery
) -> None:
    wrong_rois_sheet(ROIS, CORNERS, tmp_path / "a.png", NOTE, title="compact-model2")
    assert [title.split("\n")[0] for title in titles(gallery) if "called" in title] == [
        "missed-strong",
        "missed-weak",
        "alarm-strong",
        "alarm-weak",
    ]
    assert {"missed-weak\nTumor, called Normal", "12 of 25 patches\nvoted Tumor"} <= set(titles(gallery))
    assert "compact-model2: 4 of 6 ROIs decided wrongly" in gallery.texts()


def test_the_vote_map_puts_each_score_where_its_patch_lies(tmp_path: Path, gallery: Gallery) -> None:
    order = np.random.default_rng(1).permutation(25)
    scores = (CORNERS[order, 0] + CORNERS[order, 1] / 12 * 0.01) / 50
    shuffled = roi_votes(scores[None], section(VoteConfig))[0]
    vote_picture(IMAGE, shuffled, CORNERS[order], 72, tmp_path / "a.png", NOTE)
    drawn = np.asarray(gallery[-1].axes[1].images[0].get_array())
    expected = [[(12 * row + column * 0.01) / 50 for column in range(5)] for row in range(5)]
    assert drawn == pytest.approx(np.array(expected))


def test_the_vote_picture_frames_the_tumor_votes_and_dots_the_centres(tmp_path: Path, gallery: Gallery) -> None:
    one_vote(tmp_path / "a.png")
    left, right = gallery[-1].axes[:2]
    assert gallery.texts().count("0.90") == 18
    assert len([patch for patch in right.patches if isinstance(patch, Rectangle)]) == 18
    dots = np.asarray(left.collections[0].get_offsets())
    # Pixels 0 to 71 are centred on 35.5, and pixel 0 is drawn around coordinate 0.
    assert (dots[0].tolist(), dots[-1].tolist()) == ([35.5, 35.5], [83.5, 83.5])
    frames = {patch.get_bbox().bounds for patch in left.patches if isinstance(patch, Rectangle)}
    assert frames == {(-0.5, -0.5, 72, 72)}
    one_vote(tmp_path / "a.png", 72, 4)
    assert "0.90" not in gallery.texts()  # a fine grid has colours without numbers


def test_pairs_across_parts_come_first_the_largest_overlap_leading(tmp_path: Path, gallery: Gallery) -> None:
    pairs(4, tmp_path / "a.png")
    first = [title.split("\n")[0] for title in titles(gallery) if title.startswith("a: ")]
    assert first == ["a: large leak-a", "a: small leak-a", "a: another within-a", "a: within-a"]
    verdicts = [axes.get_ylabel() for axes in gallery[-1].axes if axes.get_ylabel()]
    assert verdicts == ["LEAK", "LEAK", "same part", "same part"]


def test_the_shared_tissue_is_framed_and_the_difference_of_the_same_pixels_is_nil(
    tmp_path: Path, gallery: Gallery
) -> None:
    pairs_sheet(PAIRS[1], IMAGES, tmp_path / "a.png", NOTE)
    frames = [axes.patches[0] for axes in gallery[-1].axes[:2]]
    boxes = [list(frame.get_bbox().extents) for frame in frames if isinstance(frame, Rectangle)]
    assert boxes == [[59.5, 29.5, 119.5, 119.5], [-0.5, -0.5, 59.5, 89.5]]
    crop_a, crop_b, difference = (np.asarray(axes.images[0].get_array()) for axes in gallery[-1].axes[2:5])
    np.testing.assert_array_equal(crop_a, FILM[120:210, 150:210])
    np.testing.assert_array_equal(crop_a, crop_b)
    assert difference.max() == 0
