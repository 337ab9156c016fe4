"""Coverage by fold: hand-made sets, the promise on simulated folds, and what the verdicts mean."""

import json

import numpy as np
import pytest

from mammo.core.errors import DataError
from mammo.evaluation.conformal import (
    RATES,
    FoldReferral,
    fit_conformal,
    fit_sets,
    judge_fold,
    over_folds,
    verdict,
    with_decision,
)
from mammo.evaluation.intervals import wilson
from mammo.evaluation.metrics import FloatArray, IntArray


def draw(n: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    labels = (rng.random(n) < 0.36).astype(int)
    return labels, rng.beta(1 + 2 * labels, 3 - 2 * labels)


def test_a_fold_is_judged_by_hand_counted_rates() -> None:
    labels = np.array([0, 0, 0, 1])
    sets = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)
    fold = judge_fold("fold 3", 0.9, 65, labels, sets)
    assert (fold.fold, fold.promise, fold.n_calibration) == ("fold 3", 0.9, 65)
    assert fold.rate("coverage") == wilson(3, 4)
    assert fold.rate("coverage_normal") == wilson(2, 3)
    assert fold.rate("coverage_tumor") == wilson(1, 1)
    assert fold.rate("referral_rate") == wilson(2, 4)
    written = json.loads(json.dumps(fold.to_dict(), allow_nan=False))
    assert (written["fold"], written["coverage"]["value"]) == ("fold 3", 0.75)
    assert written["verdict"] == "missed within chance"


@pytest.mark.parametrize(
    ("held", "n", "expected"),
    [(60, 64, "kept"), (54, 60, "kept"), (53, 60, "missed within chance"), (45, 60, "missed")],
)
def test_a_promise_is_missed_only_where_the_whole_interval_lies_below_it(
    held: int, n: int, expected: str
) -> None:
    assert verdict(wilson(held, n), 0.9) == expected


def test_no_judged_roi_gives_no_verdict() -> None:
    fold = judge_fold("empty", 0.9, 10, np.array([], dtype=int), np.zeros((0, 2), dtype=bool))
    assert fold.verdict == "not judged"
    json.dumps(fold.to_dict(), allow_nan=False)


def test_sets_are_fitted_on_validation_alone() -> None:
    rng = np.random.default_rng(7)
    (val_labels, val_scores), (_, scores) = draw(65, rng), draw(64, rng)
    expected = fit_conformal(val_labels, val_scores, alpha=0.2).sets(scores)
    assert (fit_sets(val_labels, val_scores, scores, promise=0.8) == expected).all()


def test_the_promise_is_kept_on_average_over_folds_within_each_class() -> None:
    rng = np.random.default_rng(11)
    folds = []
    for index in range(200):
        labels, scores = draw(64, rng)
        decided = (scores > 0.6).astype(int)  # a poor threshold: sets have to be widened for it
        sets = fit_sets(*draw(65, rng), scores, decided=decided)
        folds.append(judge_fold(f"fold {index}", 0.9, 65, labels, sets))
    summary = over_folds(folds)
    for name in ("coverage", "coverage_normal", "coverage_tumor"):
        assert summary[name].mean > 0.9 - 3 * summary[name].sd / len(folds) ** 0.5
    assert summary["coverage"].n_seeds == 200
    assert {fold.verdict for fold in folds} >= {"kept", "missed within chance"}


def test_a_set_always_holds_the_class_decided_for_and_never_loses_one() -> None:
    sets = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [1, 1]], dtype=bool)
    widened = with_decision(sets, np.array([0, 1, 1, 0, 0]))
    assert widened.astype(int).tolist() == [[1, 0], [1, 1], [0, 1], [1, 1], [1, 1]]


def test_decisions_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match="decisions must be a vector of 0"):
        with_decision(np.ones((2, 2), dtype=bool), np.array([0, 2]))


def test_the_mean_over_folds_is_that_of_the_values() -> None:
    labels = np.array([0, 1])
    folds = [
        judge_fold("a", 0.9, 9, labels, np.array([[1, 0], [0, 1]], dtype=bool)),
        judge_fold("b", 0.9, 9, labels, np.array([[1, 1], [1, 0]], dtype=bool)),
    ]
    summary = over_folds(folds)
    assert list(summary) == list(RATES)
    assert (summary["coverage"].mean, summary["referral_rate"].mean) == (0.75, 0.25)
    assert summary["coverage"].sd == pytest.approx(np.std([1.0, 0.5], ddof=1))


def test_a_fold_without_tumor_rois_leaves_their_coverage_open() -> None:
    fold: FoldReferral = judge_fold("a", 0.9, 9, np.array([0]), np.array([[True, False]]))
    assert np.isnan(over_folds([fold])["coverage_tumor"].mean)
