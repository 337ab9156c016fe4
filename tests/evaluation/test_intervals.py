"""Intervals against published values, SciPy, closed forms and simulated coverage."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from mammo.evaluation.intervals import (
    Estimate,
    basic,
    bootstrap,
    estimate,
    over_seeds,
    percent,
    summarise,
    wilson,
)
from mammo.evaluation.metrics import TITLES, FloatArray, IntArray, weighted_auc
from tests.evaluation.made_scores import HOW, lucky, made, some_runs

MANY: dict[str, Any] = {**HOW, "n_bootstrap": 2000}


def draw_rois(
    n: int, true_auc: float, rng: np.random.Generator, share_tumor: float = 0.36
) -> tuple[IntArray, FloatArray]:
    """ROIs whose scores are two unit normals, so that their true AUC is known in closed form."""
    labels = (np.arange(n) < round(share_tumor * n)).astype(int)
    return labels, rng.normal(size=n) + labels * math.sqrt(2) * stats.norm.ppf(true_auc)


def auc_estimate(labels: IntArray, scores: FloatArray, groups: IntArray, **settings: Any) -> Estimate:
    return bootstrap(lambda weights: weighted_auc(labels, scores, weights), groups, **(MANY | settings))


@pytest.mark.parametrize(
    ("successes", "low", "high"), [(57, 0.791, 0.946), (56, 0.772, 0.935)], ids=["Model1", "Model2"]
)
def test_wilson_gives_the_known_intervals_of_the_papers_accuracies(successes: int, low: float, high: float) -> None:
    estimate = wilson(successes, 64, 0.95)
    assert (round(estimate.ci_low, 3), round(estimate.ci_high, 3)) == (low, high)
    assert (estimate.n, estimate.method, estimate.confidence) == (64, "Wilson", 0.95)


def test_a_confidence_is_shown_unrounded() -> None:
    assert [percent(value) for value in (0.9, 0.975, 0.57)] == ["90%", "97.5%", "57%"]


def test_the_bootstrap_agrees_with_scipys_bca() -> None:
    labels, scores = draw_rois(120, 0.85, np.random.default_rng(1))

    def auc_by_ranks(index: IntArray, axis: int) -> FloatArray:
        tumor = labels[index]
        n_tumor, n_normal = tumor.sum(axis), (1 - tumor).sum(axis)
        ranks = (stats.rankdata(scores[index], axis=axis) * tumor).sum(axis)
        won: FloatArray = (ranks - n_tumor * (n_tumor + 1) / 2) / (n_tumor * n_normal)
        return won

    ours = auc_estimate(labels, scores, np.arange(120), n_bootstrap=20_000)
    reference = stats.bootstrap(
        (np.arange(120),),
        auc_by_ranks,
        n_resamples=20_000,
        vectorized=True,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(roc_auc_score(labels, scores))
    assert (ours.ci_low, ours.ci_high) == pytest.approx((reference.low, reference.high), abs=0.004)


def test_copies_of_a_roi_in_one_group_add_no_certainty() -> None:
    labels, scores = draw_rois(60, 0.85, np.random.default_rng(3))
    once = auc_estimate(labels, scores, np.arange(60))
    grouped = auc_estimate(np.repeat(labels, 4), np.repeat(scores, 4), np.repeat(np.arange(60), 4))
    taken_as_independent = auc_estimate(np.repeat(labels, 4), np.repeat(scores, 4), np.arange(240))
    assert (grouped.ci_low, grouped.ci_high) == pytest.approx((once.ci_low, once.ci_high))
    assert (grouped.n, grouped.n_groups) == (240, 60)
    width, naive_width = (e.ci_high - e.ci_low for e in (grouped, taken_as_independent))
    assert naive_width < 0.6 * width


def test_resamples_without_one_class_are_left_out_and_counted() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    scores = np.array([0.9, 0.7, 0.3, 0.5, 0.4, 0.2, 0.1, 0.8])
    estimate = auc_estimate(labels, scores, np.arange(8), n_bootstrap=4000)
    expected = 4000 * ((3 / 8) ** 8 + (5 / 8) ** 8)
    assert estimate.n_undefined == pytest.approx(expected, abs=4 * math.sqrt(expected))
    assert 0 <= estimate.ci_low < estimate.value < estimate.ci_high <= 1


def test_perfect_separation_or_a_single_group_states_no_interval_instead_of_a_point() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    estimate = auc_estimate(labels, labels.astype(float), np.arange(20))
    assert estimate.value == 1
    assert math.isnan(estimate.ci_low)
    assert estimate.to_dict()["ci_high"] is None
    labels, scores = draw_rois(20, 0.8, np.random.default_rng(5))
    assert math.isnan(auc_estimate(labels, scores, np.zeros(20, dtype=int)).ci_low)


def test_the_summary_gives_each_metric_its_own_denominator() -> None:
    labels = np.array([1] * 6 + [0] * 10)
    decisions = np.array([1, 1, 1, 1, 0, 0] + [1] * 3 + [0] * 7)
    scores = np.linspace(0.9, 0.1, 16)[np.random.default_rng(6).permutation(16)]
    scores_of_two = made(labels, decisions, scores, shares=scores.round(1), groups=["left", "right"] * 8)
    summary = summarise(scores_of_two, **HOW)
    wilsons = {"accuracy": 16, "recall": 6, "specificity": 10, "precision": 7}
    others = {"f1": 9, "balanced_accuracy": 16, "auc_score": 16, "auc_vote_share": 16}
    assert list(summary) == list(TITLES)
    assert {name: estimate.n for name, estimate in summary.items()} == wilsons | others
    assert {name for name, estimate in summary.items() if estimate.method == "Wilson"} == set(wilsons)
    assert {estimate.n_groups for estimate in summary.values()} == {2}
    assert summary["f1"].value == pytest.approx(f1_score(labels, decisions))
    assert summary["auc_score"].value == pytest.approx(roc_auc_score(labels, scores))


def test_the_summary_of_no_rois_is_undefined_throughout() -> None:
    summary = summarise(made(np.array([], dtype=int), np.array([], dtype=int)), **HOW)
    assert all(math.isnan(estimate.value) and estimate.n == 0 for estimate in summary.values())


def test_the_interval_over_seeds_is_students_and_one_seed_has_none() -> None:
    values = [0.81, 0.86, 0.84, 0.9, 0.79]
    summary = over_seeds(values, 0.95)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (summary["ci_low"], summary["ci_high"]) == pytest.approx((reference.low, reference.high))
    assert (summary["mean"], summary["sd"], summary["n_seeds"]) == pytest.approx((0.84, 0.0430116, 5))
    one = over_seeds([0.8, None], 0.95)
    assert (one["mean"], one["n_seeds"]) == (0.8, 1)
    assert one["sd"] is one["ci_low"] is one["ci_high"] is None
    assert over_seeds([None], 0.95)["mean"] is None


@pytest.mark.slow
@pytest.mark.parametrize("true_auc", [0.75, 0.87])
def test_bootstrap_intervals_of_200_rois_cover_the_true_auc_at_the_nominal_rate(true_auc: float) -> None:
    rng = np.random.default_rng(2020)
    covered = []
    for seed in range(1000):
        labels, scores = draw_rois(200, true_auc, rng)
        estimate = auc_estimate(labels, scores, np.arange(200), n_bootstrap=1000, seed=seed)
        covered.append(estimate.ci_low <= true_auc <= estimate.ci_high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_basic_interval_turns_the_quantiles_round_the_value() -> None:
    draws = np.linspace(0.1, 0.5, 401)
    assert basic(0.2, draws, 0.9) == pytest.approx((0.4 - 0.48, 0.4 - 0.12))
    assert np.isnan(basic(0.2, np.full(10, 0.3), 0.9)).all()
    assert np.isnan(basic(0.2, np.array([np.nan, np.nan, 0.3]), 0.9)).all()


def test_the_basic_bootstrap_agrees_with_scipys() -> None:
    sample = np.random.default_rng(3).exponential(size=80)

    def mean(weights: FloatArray) -> FloatArray:
        of_resamples: FloatArray = weights @ sample / weights.sum(axis=1)
        return of_resamples

    ours = bootstrap(mean, np.arange(80), kind="basic", **(HOW | {"n_bootstrap": 8000}))
    theirs = stats.bootstrap((sample,), np.mean, method="basic", n_resamples=8000, rng=1).confidence_interval
    assert (ours.ci_low, ours.ci_high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.method == "basic bootstrap of groups"


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("accuracy", accuracy_score),
        ("recall", recall_score),
        ("precision", precision_score),
        ("balanced_accuracy", balanced_accuracy_score),
    ],
)
def test_a_metric_of_runs_is_the_mean_of_scikit_learns_over_them(metric: str, score: Any) -> None:
    runs = some_runs()
    of_runs = [score(runs.labels, decided) for decided in runs.decisions]
    found = estimate(runs, metric, **HOW)
    assert found.value == pytest.approx(np.mean(of_runs))
    assert found.sd_runs == pytest.approx(np.std(of_runs, ddof=1))
    assert found.n_runs == 3


def test_intervals_of_runs_hold_the_value_and_shrink_with_more_rois() -> None:
    few, many = (estimate(some_runs(n=n), "accuracy", **HOW) for n in (60, 600))
    assert few.ci_low < few.value < few.ci_high
    assert many.ci_high - many.ci_low < (few.ci_high - few.ci_low) / 2
    assert (few.n, few.n_groups) == (60, 30)


def test_a_metric_that_is_undefined_in_a_run_is_undefined_in_the_mean() -> None:
    decisions = np.stack([some_runs(n_runs=1).decisions[0], np.zeros(60, dtype=int)])
    assert np.isnan(estimate(made(some_runs().labels, decisions), "precision", **HOW).value)


def test_the_luck_of_training_is_in_the_interval() -> None:
    steady, shaky = (estimate(lucky(offsets), "accuracy", **HOW) for offsets in ([0.3] * 4, [0.1, 0.5, 0.2, 0.4]))
    assert shaky.ci_high - shaky.ci_low > 2 * (steady.ci_high - steady.ci_low)
    assert shaky.method == "BCa bootstrap of groups and runs"


def test_where_runs_alone_vary_the_interval_is_two_standard_errors_of_their_mean() -> None:
    right = np.random.default_rng(0).normal(0.7, 0.1, 30)
    found = estimate(lucky((1 - right).tolist(), n=4000), "accuracy", **MANY)
    width = found.ci_high - found.ci_low
    assert width == pytest.approx(2 * 1.96 * right.std(ddof=1) / np.sqrt(30), rel=0.15)


def test_a_run_that_a_resample_did_not_draw_may_be_undefined_there() -> None:
    n = 40
    labels = np.arange(n) % 2
    first = np.zeros(n, dtype=int)
    first[1] = 1
    found = estimate(made(labels, np.stack([first, labels])), "precision", **MANY)
    # The first run calls a single ROI Tumor, which (1 - 1/40)^40 of the resamples miss; one run of two is drawn.
    assert found.n_undefined / 2000 == pytest.approx((1 - 1 / n) ** n / 2, abs=0.03)
