"""Means over runs and their intervals, against scikit-learn and brute force."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from mammo.core.errors import DataError
from mammo.evaluation.repeated import METRICS, Runs, auc_within_folds, difference, estimate, run_values

HOW: dict[str, Any] = {"n_bootstrap": 300, "seed": 0, "confidence": 0.95}


def some_runs(n_runs: int = 3, n: int = 60, n_folds: int = 4, seed: int = 0, lift: float = 0.2) -> Runs:
    rng = np.random.default_rng(seed)
    ids = np.array([f"r{i:03}" for i in range(n)])
    labels = np.arange(n, dtype=np.int64) % 3 % 2
    scores = np.clip(rng.normal(0.4 + lift * labels, 0.2, (n_runs, n)), 0, 1).round(2)
    return Runs(
        ids,
        labels,
        np.array([f"g{i // 2:03}" for i in range(n)]),
        np.stack([rng.permutation(n) % n_folds for _ in range(n_runs)]),
        scores,
        scores.round(1),
        (scores > 0.5).astype(np.int64),
    )


def brute_auc(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    won = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in np.flatnonzero(labels == 1)
        for j in np.flatnonzero(labels == 0)
        if folds[i] == folds[j]
    ]
    return float(np.mean(won))


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("accuracy", accuracy_score),
        ("recall", recall_score),
        ("precision", precision_score),
        ("balanced_accuracy", balanced_accuracy_score),
    ],
)
def test_a_cell_is_the_mean_of_scikit_learns_metric_over_the_runs(metric: str, score: object) -> None:
    assert callable(score)
    runs = some_runs()
    of_runs = [score(runs.labels, decided) for decided in runs.decisions]
    found = estimate(runs, metric, **HOW)
    assert found.estimate.value == pytest.approx(np.mean(of_runs))
    assert found.sd_runs == pytest.approx(np.std(of_runs, ddof=1))
    assert found.n_runs == 3


def test_an_auc_counts_the_pairs_of_one_fold_alone() -> None:
    runs = some_runs()
    expected = [brute_auc(runs.labels, runs.scores[r], runs.folds[r]) for r in range(3)]
    assert estimate(runs, "auc_score", **HOW).estimate.value == pytest.approx(np.mean(expected))


def test_with_one_fold_it_is_scikit_learns_auc() -> None:
    runs = some_runs(n_folds=1)
    ones = np.ones((1, len(runs.labels)))
    for run in range(3):
        found = auc_within_folds(runs.labels, runs.scores[run], runs.folds[run], ones)[0]
        assert found == pytest.approx(roc_auc_score(runs.labels, runs.scores[run]))


def test_a_weight_of_two_is_a_roi_that_is_there_twice() -> None:
    runs = some_runs(n_runs=1)
    weights = np.random.default_rng(1).integers(0, 3, (1, 60)).astype(float)
    rows = np.repeat(np.arange(60), weights[0].astype(int))
    expected = brute_auc(runs.labels[rows], runs.scores[0][rows], runs.folds[0][rows])
    assert run_values(runs, "auc_score", weights)[0, 0] == pytest.approx(expected)


def test_a_fold_of_one_class_gives_no_pairs_and_no_pairs_no_auc() -> None:
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.9, 0.2])
    ones = np.ones((1, 3))
    assert auc_within_folds(labels, scores, np.array([0, 0, 1]), ones)[0] == 1.0
    assert np.isnan(auc_within_folds(labels, scores, np.array([0, 1, 1]), ones)[0])


def test_intervals_hold_the_value_and_shrink_with_more_rois() -> None:
    few, many = (estimate(some_runs(n=n), "accuracy", **HOW).estimate for n in (60, 600))
    assert few.ci_low < few.value < few.ci_high
    assert many.ci_high - many.ci_low < (few.ci_high - few.ci_low) / 2
    assert (few.n, few.n_groups) == (60, 30)


def test_a_metric_that_is_undefined_in_a_run_is_undefined_in_the_mean() -> None:
    runs = some_runs(n_runs=2)
    runs.decisions[1] = 0
    assert np.isnan(estimate(runs, "precision", **HOW).estimate.value)


def test_the_same_judgements_do_not_differ() -> None:
    runs = some_runs()
    for metric in METRICS:
        assert difference(runs, runs, metric, **HOW).estimate.value == 0


def test_a_difference_is_paired_its_interval_is_narrower_than_that_of_independent_rois() -> None:
    a = some_runs(n=300)
    worse = a.decisions.copy()
    worse[:, ::20] = 1 - a.labels[::20]
    b = Runs(a.roi_ids, a.labels, a.groups, a.folds, a.scores, a.shares, worse)
    paired = difference(a, b, "accuracy", **HOW).estimate
    alone = estimate(a, "accuracy", **HOW).estimate
    assert paired.value == pytest.approx(np.mean(a.decisions == a.labels) - np.mean(worse == a.labels))
    assert paired.ci_low > 0
    assert paired.ci_high - paired.ci_low < alone.ci_high - alone.ci_low


def test_sets_of_different_rois_differ_by_the_difference_of_their_values() -> None:
    runs = some_runs()
    part = runs.only(runs.roi_ids[10:40])
    gap = difference(part, runs, "recall", **HOW).estimate
    values = [estimate(one, "recall", **HOW).estimate.value for one in (part, runs)]
    assert gap.value == pytest.approx(values[0] - values[1])
    assert (gap.n, gap.n_groups) == (60, 30)
    assert gap.ci_low < gap.value < gap.ci_high


def test_runs_that_disagree_about_a_roi_are_refused() -> None:
    runs = some_runs()
    other = Runs(
        runs.roi_ids, 1 - runs.labels, runs.groups, runs.folds, runs.scores, runs.shares, runs.decisions
    )
    with pytest.raises(DataError, match="must agree"):
        difference(runs, other, "accuracy", **HOW)


def lucky(offsets: list[float], n: int = 400) -> Runs:
    """Runs whose accuracies differ by luck alone: each is right on its own share of the ROIs."""
    base = some_runs(n_runs=len(offsets), n=n)
    wrong = np.stack([np.random.default_rng(r).random(n) < o for r, o in enumerate(offsets)])
    decisions = np.where(wrong, 1 - base.labels, base.labels)
    return Runs(base.roi_ids, base.labels, base.groups, base.folds, base.scores, base.shares, decisions)


def test_the_luck_of_training_is_in_the_interval() -> None:
    steady, shaky = lucky([0.3, 0.3, 0.3, 0.3]), lucky([0.1, 0.5, 0.2, 0.4])
    widths = [
        (one := estimate(runs, "accuracy", **HOW).estimate).ci_high - one.ci_low for runs in (steady, shaky)
    ]
    assert widths[1] > 2 * widths[0]


def test_two_runs_whose_effects_have_opposite_signs_show_no_effect() -> None:
    a, b = lucky([0.1, 0.3]), lucky([0.35, 0.2])
    found = difference(a, b, "accuracy", **HOW)
    assert found.estimate.value > 0.02
    assert found.estimate.ci_low < 0 < found.estimate.ci_high
    assert found.estimate.method == "BCa bootstrap of groups and runs"


def test_where_runs_alone_vary_the_interval_is_two_standard_errors_of_their_mean() -> None:
    right = np.random.default_rng(0).normal(0.7, 0.1, 30)
    runs = lucky((1 - right).tolist(), n=4000)
    found = estimate(runs, "accuracy", n_bootstrap=2000, seed=0, confidence=0.95)
    width = found.estimate.ci_high - found.estimate.ci_low
    assert width == pytest.approx(2 * 1.96 * right.std(ddof=1) / np.sqrt(30), rel=0.15)


def test_a_run_that_a_resample_did_not_draw_may_be_undefined_there() -> None:
    n = 40
    labels, decisions = np.arange(n, dtype=np.int64) % 2, np.zeros((2, n), dtype=np.int64)
    decisions[0, 1], decisions[1] = 1, labels
    ids = np.array([f"r{i:02}" for i in range(n)])
    shares = decisions.astype(float)
    runs = Runs(ids, labels, ids, np.zeros((2, n), dtype=np.int64), shares, shares, decisions)
    found = estimate(runs, "precision", n_bootstrap=2000, seed=0, confidence=0.95)
    # The first run calls a single ROI Tumor, which (1 - 1/40)^40 of the resamples miss; one run of two is drawn.
    assert found.estimate.n_undefined / 2000 == pytest.approx((1 - 1 / n) ** n / 2, abs=0.03)
