"""Coverage against the promise, as a picture."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.errors import NOTICE
from mammo.evaluation.conformal import FoldReferral, judge_fold
from mammo.report.referral import referral_picture
from tests.reporting.drawn_figures import Gallery, catch_figures

NOTE = "MIAS ROIs, grouped cv split, 326 ROIs"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def folds(n: int, n_rois: int = 40) -> list[FoldReferral]:
    rng = np.random.default_rng(3)
    made = []
    for index in range(n):
        labels = np.arange(n_rois) % 2
        sets = (rng.random((n_rois, 2)) < 0.3) | (labels[:, None] == [0, 1])
        made.append(judge_fold(f"compact-model2, repeat 0, fold {index}", 0.9, 65, labels, sets))
    return made


@pytest.mark.parametrize("n", [0, 1, 3, 10])
def test_the_picture_says_its_data_and_its_limits_and_no_text_meets_another(
    n: int, tmp_path: Path, gallery: Gallery
) -> None:
    referral_picture(folds(n), tmp_path / "a.png", NOTE)
    assert {NOTE, NOTICE} <= set(gallery.texts())
    assert gallery.overlaps() == []
    assert gallery.outside() == []
    assert {fold.fold for fold in folds(n)} <= set(gallery.texts())


def test_the_promise_is_drawn_where_it_is(tmp_path: Path, gallery: Gallery) -> None:
    referral_picture(folds(2), tmp_path / "a.png", NOTE)
    coverage = gallery[-1].axes[0]
    segments = [s for c in coverage.collections for s in getattr(c, "get_segments", list)()]
    assert sum(bool((np.asarray(s)[:, 0] == 0.9).all()) for s in segments) == 2


def test_a_class_without_rois_is_left_out(tmp_path: Path, gallery: Gallery) -> None:
    fold = judge_fold("all Normal", 0.9, 9, np.zeros(4, dtype=int), np.ones((4, 2), dtype=bool))
    referral_picture([fold], tmp_path / "a.png", NOTE)
    assert "all Normal" in gallery.texts()
