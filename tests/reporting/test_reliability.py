"""The reliability diagram: what it shows is read from the drawn figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mammo.core.errors import NOTICE, DataError
from mammo.report.reliability import Calibrated, reliability_diagram
from tests.reporting.drawn_figures import Gallery, catch_figures

NOTE = "PHANTOM (synthetic), grouped split, 40 test ROIs"
LABELS = np.array([0] * 25 + [1] * 15)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def systems(n: int) -> list[Calibrated]:
    rng = np.random.default_rng(0)
    raw = [np.clip(rng.normal(0.3 + 0.3 * LABELS, 0.2), 0, 1) for _ in range(n)]
    return [Calibrated(f"compact-model{i}", scores, scores**0.7) for i, scores in enumerate(raw)]


@pytest.mark.parametrize(
    ("n", "settings"),
    [(0, {}), (1, {}), (3, {}), (4, {}), (3, {"binning": "equal_width", "n_bins": 20})],
    ids=["none", "one", "three", "four", "many bins"],
)
def test_it_says_its_data_and_its_limits_and_no_text_meets_another(
    n: int, settings: dict[str, Any], tmp_path: Path, gallery: Gallery
) -> None:
    reliability_diagram(LABELS, systems(n), tmp_path / "a.png", NOTE, **settings)
    assert NOTE in gallery.texts()
    assert NOTICE in gallery.texts()
    assert gallery.overlaps() == []
    assert gallery.outside() == []
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300


def test_it_names_its_bins_their_numbers_and_hand_computed_scores(tmp_path: Path, gallery: Gallery) -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.2, 0.2, 0.6, 0.6])
    calibrated = np.array([0.1, 0.1, 0.9, 0.9])
    system = Calibrated("compact-model1", scores, calibrated)
    reliability_diagram(labels, [system], tmp_path / "a.png", NOTE, n_bins=2)
    texts = gallery.texts()
    assert "Reliability, 2 bins of equal mass" in texts
    # Brier (0.04 + 0.04 + 0.16 + 0.16) / 4; gaps 0.2 and 0.4. Calibrated: 0.01 and 0.1.
    assert "raw: Brier 0.100, calibration error 0.300" in texts
    assert "calibrated: Brier 0.010, calibration error 0.100" in texts
    assert "mean score of the bin\nROIs per bin: 2, 2" in texts


def test_kinds_with_different_bins_have_a_line_each(tmp_path: Path, gallery: Gallery) -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    system = Calibrated("compact-model1", scores, scores / 2)
    settings: dict[str, Any] = {"binning": "equal_width", "n_bins": 2}
    reliability_diagram(labels, [system], tmp_path / "a.png", NOTE, **settings)
    expected = "mean score of the bin\nROIs per bin, raw: 2, 2\nROIs per bin, calibrated: 4"
    assert expected in gallery.texts()


def test_no_roi_leaves_an_empty_panel_that_says_so(tmp_path: Path, gallery: Gallery) -> None:
    nothing = np.array([])
    reliability_diagram(LABELS[:0], [Calibrated("floor", nothing, nothing)], tmp_path / "a.png", NOTE)
    assert "no ROI was scored" in gallery.texts()


def test_scores_of_other_rois_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one value for each of the 40 ROIs"):
        reliability_diagram(LABELS, [Calibrated("a", np.ones(3), np.ones(3))], tmp_path / "a.png", NOTE)
    assert list(tmp_path.iterdir()) == []
