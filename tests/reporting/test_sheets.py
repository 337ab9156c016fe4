"""The sheets of ROIs: order, counts, votes and empty cases, read from the drawn figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from mammo.core.config import VoteConfig
from mammo.core.errors import NOTICE
from mammo.core.records import Label, RoiVote
from mammo.data.patches import grid_corners
from mammo.evaluation.voting import roi_votes
from mammo.report.sheets import VotedRoi, vote_picture, wrong_rois_sheet
from tests.reporting.drawn_figures import Gallery, catch_figures

NOTE = "MIAS ROIs, published split, 64 test ROIs"
CORNERS = grid_corners(72, 12)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def vote(n_tumor: int, n_patches: int = 25) -> RoiVote:
    """A vote in which the first `n_tumor` patches say Tumor."""
    scores = np.where(np.arange(n_patches) < n_tumor, 0.9, 0.125)
    return roi_votes(scores[None], VoteConfig())[0]


def roi(name: str, label: Label, n_tumor: int) -> VotedRoi:
    image = np.random.default_rng(0).integers(0, 256, (120, 120), dtype=np.uint8)
    return VotedRoi(name, image, label, vote(n_tumor))


ROIS = [
    roi("normal-right", Label.NORMAL, 2),
    roi("alarm-weak", Label.NORMAL, 14),
    roi("missed-weak", Label.TUMOR, 12),
    roi("alarm-strong", Label.NORMAL, 25),
    roi("missed-strong", Label.TUMOR, 0),
    roi("tumor-right", Label.TUMOR, 20),
]


def test_only_wrong_rois_are_shown_missed_tumors_first_and_the_surest_errors_leading(
    tmp_path: Path, gallery: Gallery
) -> None:
    wrong_rois_sheet(ROIS, CORNERS, tmp_path / "a.png", NOTE, title="compact-model2")
    titles = [axes.get_title(loc="left") for axes in gallery[-1].axes]
    assert [title.split("\n")[0] for title in titles if "called" in title] == [
        "missed-strong",
        "missed-weak",
        "alarm-strong",
        "alarm-weak",
    ]
    assert "missed-weak\nTumor, called Normal" in titles
    assert "12 of 25 patches\nvoted Tumor" in titles
    assert "compact-model2: 4 of 6 ROIs decided wrongly" in gallery.texts()


@pytest.mark.parametrize("n_wrong", [1, 2, 4, 7])
def test_a_sheet_says_its_data_and_no_text_meets_another(
    n_wrong: int, tmp_path: Path, gallery: Gallery
) -> None:
    wrong = [roi(f"mias_rois/test/Tumor ({i}) with a long name", Label.TUMOR, i) for i in range(n_wrong)]
    wrong_rois_sheet(wrong, CORNERS, tmp_path / "a.png", NOTE)
    assert {NOTE, NOTICE} <= set(gallery.texts())
    assert gallery.overlaps() == []
    assert gallery.outside() == []


@pytest.mark.parametrize(
    ("rois", "reason"),
    [([ROIS[0]], "no ROI was decided wrongly"), ([], "no ROI was judged")],
    ids=["none wrong", "none judged"],
)
def test_a_sheet_without_wrong_rois_says_so(
    rois: list[VotedRoi], reason: str, tmp_path: Path, gallery: Gallery
) -> None:
    wrong_rois_sheet(rois, CORNERS, tmp_path / "a.png", NOTE)
    assert reason in gallery.texts()
    assert {NOTE, NOTICE} <= set(gallery.texts())


def test_a_long_list_of_errors_is_cut_and_says_so(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mammo.report.sheets.MAX_TILES", 2)
    wrong = [roi(f"roi-{i}", Label.TUMOR, 0) for i in range(5)]
    wrong_rois_sheet(wrong, CORNERS, tmp_path / "a.png", NOTE, title="a")
    assert "a: 5 of 5 ROIs decided wrongly, the first 2 shown" in gallery.texts()
    assert sum("called" in text for text in gallery.texts()) == 2


def test_the_vote_map_puts_each_score_where_its_patch_lies(tmp_path: Path, gallery: Gallery) -> None:
    order = np.random.default_rng(1).permutation(25)
    scores = (CORNERS[order, 0] + CORNERS[order, 1] / 12 * 0.01) / 50
    shuffled = roi_votes(scores[None], VoteConfig())[0]
    vote_picture(ROIS[0].image, shuffled, CORNERS[order], 72, tmp_path / "a.png", NOTE)
    drawn = np.asarray(gallery[-1].axes[1].images[0].get_array())
    expected = [[(12 * row + column * 0.01) / 50 for column in range(5)] for row in range(5)]
    assert drawn == pytest.approx(np.array(expected))


def test_the_vote_picture_names_the_decision_and_frames_the_tumor_votes(
    tmp_path: Path, gallery: Gallery
) -> None:
    vote_picture(ROIS[0].image, vote(18), CORNERS, 72, tmp_path / "a.png", NOTE)
    texts = gallery.texts()
    assert (
        f"Called Tumor: 18 of 25 patches voted Tumor, mean score {(18 * 0.9 + 7 * 0.125) / 25:.2f}" in texts
    )
    assert {NOTE, NOTICE} <= set(texts)
    assert texts.count("0.90") == 18
    frames = [patch for patch in gallery[-1].axes[1].patches if isinstance(patch, Rectangle)]
    assert len(frames) == 18
    assert gallery.overlaps() == []
    assert gallery.outside() == []


def test_dots_mark_the_centres_of_the_patches(tmp_path: Path, gallery: Gallery) -> None:
    vote_picture(ROIS[0].image, vote(18), CORNERS, 72, tmp_path / "a.png", NOTE)
    dots = np.asarray(gallery[-1].axes[0].collections[0].get_offsets())
    # Pixels 0 to 71 are centred on 35.5, and pixel 0 is drawn around coordinate 0.
    assert dots[0].tolist() == [35.5, 35.5]
    assert dots[-1].tolist() == [83.5, 83.5]


def test_a_fine_grid_shows_colours_without_numbers(tmp_path: Path, gallery: Gallery) -> None:
    corners = grid_corners(72, 4)
    vote_picture(ROIS[0].image, vote(80, len(corners)), corners, 72, tmp_path / "a.png", NOTE)
    assert "0.90" not in gallery.texts()


def test_a_grid_of_one_patch_is_drawn(tmp_path: Path, gallery: Gallery) -> None:
    vote_picture(ROIS[0].image, vote(1, 1), grid_corners(120, 12), 120, tmp_path / "a.png", NOTE)
    assert "Called Tumor: 1 of 1 patches voted Tumor, mean score 0.90" in gallery.texts()


def test_the_same_sheet_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        wrong_rois_sheet(ROIS, CORNERS, tmp_path / name, NOTE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
