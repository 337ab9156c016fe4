"""Explanations: what the picture says, where scores stand, what it hatches, and which ROIs the report explains."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import VoteConfig
from mammo.data.patches import grid_corners
from mammo.evaluation.voting import roi_votes
from mammo.report.canvas import save
from mammo.report.rois import explanation_figure, pick_examples, picture_paths
from mammo.systems.explanation import Explanation, mean_over_roi
from tests.report.drawn_figures import Gallery
from tests.settings import section

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 120), dtype=np.uint8)
ABOUT: dict[str, Any] = {
    "name": "test/Tumor (3)",
    "model": "mammo-roi v2",
    "truth": "Tumor",
    "synthetic": False,
}
ROWS = [
    ("other", "t-sure", "Tumor", "Normal", 0.0, 0.01),
    ("mine", "t-weak", "Tumor", "Tumor", 0.6, 0.55),
    ("mine", "t-sure", "Tumor", "Tumor", 1.0, 0.80),
    ("mine", "t-surer", "Tumor", "Tumor", 1.0, 0.90),
    ("mine", "n-sure", "Normal", "Normal", 0.0, 0.10),
    ("mine", "missed", "Tumor", "Normal", 0.2, 0.30),
    ("mine", "alarm", "Normal", "Tumor", 0.8, 0.60),
    ("mine", "n-near", "Normal", "Normal", 0.48, 0.45),
]
COLUMNS = ["system", "roi_id", "label", "decision", "vote_share", "score"]


def explained(size_px: int = 72, stride_px: int = 12, block: str = "all", threshold: float = 0.5) -> Explanation:
    corners = grid_corners(size_px, stride_px)
    scores = np.linspace(0.02, 0.98, len(corners))
    vote_map, coverage = mean_over_roi(scores[:, None, None], corners, size_px)
    vote = roi_votes(scores[None], section(VoteConfig, patch_threshold=threshold))[0]
    cam, _ = mean_over_roi(np.linspace(-2, 1, len(corners))[:, None, None], corners, size_px)
    voted = ("compact-model2", IMAGE, vote, corners, size_px, threshold)
    return Explanation(*voted, vote_map, coverage, cam, n_agreeing=3, block=block)


def draw(folder: Path, explanation: Explanation, **about: Any) -> None:
    save(explanation_figure(explanation, **(ABOUT | about)), folder / "a.png")


def test_the_picture_names_roi_decision_truth_and_model(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained())
    texts = " ".join(" ".join(gallery.texts()).split())
    for said in (
        "test/Tumor (3): called Normal, 12 of 25 patches voted Tumor (share 0.48), mean score 0.50",
        "Grad-CAM of all blocks; its sign fits 3 of 25 logits",
        "1 to 25 patches over each pixel",
    ):
        assert said in texts
    assert "PHANTOM" not in texts
    assert gallery.faults("truth: Tumor · model mammo-roi v2 (compact-model2)") == []


@pytest.mark.parametrize(("size", "stride"), [(72, 12), (40, 48), (120, 12), (72, 4), (56, 32)])
def test_phantoms_are_marked_and_no_text_meets_another(
    size: int, stride: int, tmp_path: Path, gallery: Gallery
) -> None:
    name = "a/very/long/path/to/a/picture of a roi (with brackets).png"
    draw(tmp_path, explained(size, stride), name=name, truth=None, synthetic=True)
    note = "PHANTOM (synthetic) data, not a patient · truth not known · model mammo-roi v2 (compact-model2)"
    assert gallery.faults(note) == []


def test_each_score_stands_on_the_centre_of_its_patch_bold_where_it_votes(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained())
    written = {text.get_position(): text for text in gallery[-1].axes[1].texts}
    assert len(written) == 25
    first, last = written[(35.5, 35.5)], written[(83.5, 83.5)]
    assert (first.get_text(), first.get_fontweight()) == ("0.02", "normal")
    assert (last.get_text(), last.get_fontweight()) == ("0.98", "bold")
    draw(tmp_path, explained(72, 4))  # too fine a grid for numbers
    assert len(gallery[-1].axes[1].texts) == 0


def test_the_colours_turn_at_the_patch_threshold_and_at_zero(tmp_path: Path, gallery: Gallery) -> None:
    explanation = explained(block="block4", threshold=0.3)
    draw(tmp_path, explanation)
    votes, cam = (axes.images[-1].norm for axes in gallery[-1].axes[1:3])
    assert np.asarray(votes(np.array([0.0, 0.3, 1.0]))).tolist() == [0.0, 0.5, 1.0]
    assert np.asarray(cam(np.zeros(1))).tolist() == [0.5]
    assert cam.vmax == pytest.approx(np.abs(explanation.grad_cam).max())
    texts = " ".join(gallery.texts())
    assert "bold: above 0.30" in texts
    assert "Grad-CAM of block4" in texts


def test_pixels_under_no_patch_are_hatched_and_the_picture_says_so(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained(40, 48))
    assert "1 patch over each pixel; hatched: no patch" in " ".join(gallery.texts())
    hatches = [hatch for found in gallery[-1].axes[1].collections for hatch in getattr(found, "hatches", [])]
    assert hatches == ["////"]


def test_pictures_are_named_after_the_last_parts_and_never_share_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.b.png").touch()
    names = [
        "test/Tumor (3)",
        "x/test/Tumor (3)",
        "test/Tumor 3",
        str(tmp_path / "a.b.png"),
        "..",
        "disc-001",
        "disc-001",
        "disc-001-2",
    ]
    paths = picture_paths(names, Path("out"))
    tumors = ["test-Tumor-3.png", "test-Tumor-3-2.png", "test-Tumor-3-3.png"]
    assert [path.name for path in paths[:3]] == tumors
    assert paths[3].name.endswith("a.b.png")
    assert [path.name for path in paths[5:]] == ["disc-001.png", "disc-001-2.png", "disc-001-2-2.png"]
    assert len(set(paths)) == len(names)
    assert all(path.parent == Path("out") for path in paths)


def test_the_surest_of_each_kind_and_the_nearest_are_picked_each_once() -> None:
    picked = pick_examples(pd.DataFrame(ROWS, columns=COLUMNS), "mine", section(VoteConfig))
    assert [(one.reason, one.roi_id) for one in picked] == [
        ("Surest rightly called Tumor", "t-surer"),
        ("Surest rightly called Normal", "n-sure"),
        ("Surest missed Tumor", "missed"),
        ("Surest false alarm", "alarm"),
        ("Nearest to the threshold", "n-near"),
        ("Nearest to the threshold", "t-weak"),
    ]
    assert [ROWS[one.row][1] for one in picked] == [one.roi_id for one in picked]


def test_distances_are_from_the_threshold_that_decides_and_a_kind_that_does_not_occur_is_left_out() -> None:
    table, vote = (
        pd.DataFrame(ROWS, columns=COLUMNS),
        section(VoteConfig, rule="mean_score", share_threshold=0.9),
    )
    picked = pick_examples(table, "mine", vote)
    assert next(one.roi_id for one in picked if "Tumor" in one.reason) == "t-weak"
    assert next(one.roi_id for one in picked if "Nearest" in one.reason) == "t-surer"
    (only,) = pick_examples(table[2:3], "mine", section(VoteConfig))
    assert only.reason == "Surest rightly called Tumor"
    assert pick_examples(table, "nobody", section(VoteConfig)) == []
