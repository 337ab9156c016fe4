"""Coverage against the promise, as table and picture."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.errors import NOTICE
from mammo.evaluation.conformal import RATES, FoldReferral, judge_fold
from mammo.evaluation.intervals import wilson
from mammo.report.referral import referral_picture, referral_summary, referral_table
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
        made.append(
            judge_fold(f"compact-model2, repeat 0, fold {index}", 0.9, 65, labels, sets, confidence=0.95)
        )
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
    fold = judge_fold(
        "all Normal", 0.9, 9, np.zeros(4, dtype=int), np.ones((4, 2), dtype=bool), confidence=0.95
    )
    referral_picture([fold], tmp_path / "a.png", NOTE)
    assert "all Normal" in gallery.texts()


def test_the_table_sets_hand_counted_rates_beside_the_promise() -> None:
    labels = np.array([0, 0, 0, 1])
    sets = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)
    rows = referral_table([judge_fold("fold 0", 0.9, 65, labels, sets, confidence=0.95)])
    assert rows[2].startswith("| fold 0 | 65 | 0.90 | 0.750 (0.301 to 0.954), n = 4 | 0.667 (")
    assert rows[2].endswith("| missed within chance |")
    assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_the_summary_gives_mean_and_spread_over_the_folds() -> None:
    labels = np.array([0, 1])
    two = [
        judge_fold("a", 0.9, 9, labels, np.array([[1, 0], [0, 1]], dtype=bool), confidence=0.95),
        judge_fold("b", 0.9, 9, labels, np.array([[1, 1], [1, 0]], dtype=bool), confidence=0.95),
    ]
    over_runs = {name: wilson(3, 4, 0.95).to_dict() for name in RATES}
    assert referral_summary(two, over_runs) == (
        "Mean over the runs with its interval, ± the standard deviation over 2 folds, at a promised coverage of 0.90: "
        "coverage 0.750 (0.301 to 0.954) ± 0.354, coverage of Normal 0.750 (0.301 to 0.954) ± 0.000, coverage of Tumor "
        "0.750 (0.301 to 0.954) ± 0.707, referral rate 0.750 (0.301 to 0.954) ± 0.354."
    )
