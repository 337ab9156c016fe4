"""The picture of an explanation: what it says, where scores stand, what it hatches."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.config import VoteConfig
from mammo.core.errors import NOTICE
from mammo.data.patches import grid_corners
from mammo.evaluation.voting import roi_votes
from mammo.report.canvas import save
from mammo.report.explanations import Subject, explanation_figure
from mammo.serve.explanation import Explanation, mean_over_roi
from tests.reporting.drawn_figures import Gallery, catch_figures

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 120), dtype=np.uint8)


def explained(
    size_px: int = 72, stride_px: int = 12, block: str = "all", threshold: float = 0.5
) -> Explanation:
    corners = grid_corners(size_px, stride_px)
    scores = np.linspace(0.02, 0.98, len(corners))
    vote_map, coverage = mean_over_roi(scores[:, None, None], corners, size_px)
    cams = np.linspace(-2, 1, len(corners))[:, None, None]
    vote = roi_votes(scores[None], VoteConfig(patch_threshold=threshold))[0]
    cam, _ = mean_over_roi(cams, corners, size_px)
    return Explanation(vote, corners, size_px, vote_map, coverage, cam, 3, block, threshold)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def draw(folder: Path, explanation: Explanation, subject: Subject) -> None:
    save(explanation_figure(IMAGE, explanation, subject), folder / "a.png")


def test_the_picture_names_roi_decision_truth_model_and_disclaimer(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained(), Subject("test/Tumor (3)", "mammo-roi v2 (compact-model2)", "Tumor"))
    texts = " ".join(" ".join(gallery.texts()).split())
    assert (
        "test/Tumor (3): called Normal, 12 of 25 patches voted Tumor (share 0.48), mean score 0.50" in texts
    )
    assert "truth: Tumor · model mammo-roi v2 (compact-model2)" in texts
    assert "Grad-CAM of all blocks; its sign fits 3 of 25 scores" in texts
    assert "1 to 25 patches over each pixel" in texts
    assert NOTICE in texts
    assert "PHANTOM" not in texts
    assert gallery.overlaps() == []
    assert gallery.outside() == []


@pytest.mark.parametrize(("size", "stride"), [(72, 12), (40, 48), (120, 12), (72, 4), (56, 32)])
def test_phantoms_are_marked_and_no_text_meets_another(
    size: int, stride: int, tmp_path: Path, gallery: Gallery
) -> None:
    name = "a/very/long/path/to/a/picture of a roi (with brackets).png"
    draw(tmp_path, explained(size, stride), Subject(name, "mammo-roi v10 (mobilenet_v2-model2)", None, True))
    texts = " ".join(gallery.texts())
    assert "PHANTOM (synthetic)" in texts
    assert "truth not known" in texts
    assert gallery.overlaps() == []
    assert gallery.outside() == []


def test_each_score_stands_on_the_centre_of_its_patch_bold_where_it_votes(
    tmp_path: Path, gallery: Gallery
) -> None:
    draw(tmp_path, explained(), Subject("a", "m"))
    written = {text.get_position(): text for text in gallery[-1].axes[1].texts}
    assert len(written) == 25
    assert written[(35.5, 35.5)].get_text() == "0.02"
    assert written[(83.5, 83.5)].get_text() == "0.98"
    assert written[(35.5, 35.5)].get_fontweight() == "normal"
    assert written[(83.5, 83.5)].get_fontweight() == "bold"


def test_a_fine_grid_shows_colours_without_numbers(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained(72, 4), Subject("a", "m"))
    assert len(gallery[-1].axes[1].texts) == 0


def test_the_colours_of_the_vote_map_turn_at_the_patch_threshold(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained(threshold=0.3), Subject("a", "m"))
    norm = gallery[-1].axes[1].images[-1].norm
    assert np.asarray(norm(np.array([0.0, 0.3, 1.0]))).tolist() == [0.0, 0.5, 1.0]
    assert "bold: above 0.30" in " ".join(gallery.texts())


def test_the_colours_of_grad_cam_turn_at_zero(tmp_path: Path, gallery: Gallery) -> None:
    explanation = explained(block="block4")
    draw(tmp_path, explanation, Subject("a", "m"))
    image = gallery[-1].axes[2].images[-1]
    assert np.asarray(image.norm(np.zeros(1))).tolist() == [0.5]
    assert image.norm.vmax == pytest.approx(np.abs(explanation.grad_cam).max())
    assert "Grad-CAM of block4" in " ".join(gallery.texts())


def test_pixels_under_no_patch_are_hatched_and_the_picture_says_so(tmp_path: Path, gallery: Gallery) -> None:
    draw(tmp_path, explained(40, 48), Subject("a", "m"))
    assert "1 patch over each pixel; hatched: no patch" in " ".join(gallery.texts())
    hatches = [hatch for found in gallery[-1].axes[1].collections for hatch in getattr(found, "hatches", [])]
    assert hatches == ["////"]


def test_the_same_explanation_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(explanation_figure(IMAGE, explained(), Subject("a", "m")), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
