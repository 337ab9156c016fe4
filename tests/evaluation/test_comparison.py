"""Comparisons against the binomial distribution, simulated power and hand-made disagreements."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mammo.core.errors import DataError
from mammo.evaluation.comparison import (
    Judged,
    compare,
    mcnemar_exact,
    paired_bootstrap_auc,
    rois_needed,
)
from mammo.evaluation.metrics import FloatArray, IntArray

LABELS = np.array([0] * 41 + [1] * 23)


def with_errors(n_errors: int, start: int = 0) -> IntArray:
    """Decisions that are right but for `n_errors` consecutive ROIs."""
    decisions = LABELS.copy()
    decisions[start : start + n_errors] = 1 - decisions[start : start + n_errors]
    return decisions


def noisy_scores(noise: float, seed: int) -> FloatArray:
    scores: FloatArray = LABELS + noise * np.random.default_rng(seed).normal(size=len(LABELS))
    return scores


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (0, 6), (3, 11), (5, 5)])
def test_mcnemars_p_is_the_binomial_test_of_the_disagreements(only_a: int, only_b: int) -> None:
    test = mcnemar_exact(LABELS, with_errors(only_b), with_errors(only_a, start=30))
    assert (test.only_a_right, test.only_b_right) == (only_a, only_b)
    reference = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert test.p_value == pytest.approx(reference)


def test_the_difference_of_aucs_is_that_of_scikit_learn_and_changes_sign_with_the_order() -> None:
    a, b = noisy_scores(0.5, 0), noisy_scores(1.2, 1)
    groups = np.arange(len(LABELS))
    ab, ba = paired_bootstrap_auc(LABELS, a, b, groups), paired_bootstrap_auc(LABELS, b, a, groups)
    assert ab.value == pytest.approx(roc_auc_score(LABELS, a) - roc_auc_score(LABELS, b))
    assert (ab.ci_low, ab.ci_high) == pytest.approx((-ba.ci_high, -ba.ci_low), abs=0.003)


def test_pairing_makes_the_interval_of_two_alike_systems_narrow() -> None:
    a = noisy_scores(0.6, 0)
    b = a + 0.01 * noisy_scores(1.0, 1)
    paired = paired_bootstrap_auc(LABELS, a, b, np.arange(len(LABELS)))
    unrelated = paired_bootstrap_auc(LABELS, a, noisy_scores(0.6, 2), np.arange(len(LABELS)))
    assert paired.ci_high - paired.ci_low < 0.2 * (unrelated.ci_high - unrelated.ci_low)


def test_connors_formula_gives_its_published_shape_by_hand() -> None:
    # psi = 0.2, d = 0.1: (1.959964 sqrt(0.2) + 0.841621 sqrt(0.19))² / 0.01 = 154.1
    assert rois_needed(0.15, 0.05) == 155


def test_equal_shares_need_a_number_that_does_not_exist() -> None:
    assert rois_needed(0.1, 0.1) is None


def test_the_order_of_the_systems_does_not_change_the_number_needed() -> None:
    assert rois_needed(0.02, 0.07) == rois_needed(0.07, 0.02)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.15, 0.05), (0.08, 0.02), (0.3, 0.2)])
def test_the_number_needed_has_about_80_percent_power(only_a: float, only_b: float) -> None:
    n = rois_needed(only_a, only_b)
    assert n is not None
    rng = np.random.default_rng(0)
    b, c, _ = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=20_000).T
    found = np.abs(b - c) > stats.norm.ppf(0.975) * np.sqrt(b + c)
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_one_different_roi_is_not_distinguishable_and_says_how_many_it_would_take() -> None:
    a = Judged("Model1", with_errors(7), noisy_scores(0.6, 0))
    b = Judged("Model2", with_errors(8), noisy_scores(0.6, 1))
    result = compare(LABELS, a, b, np.arange(64))
    assert result.verdict.startswith("Model1 and Model2 are not distinguishable on 64 ROIs")
    assert result.mcnemar.p_value == 1
    assert result.rois_needed == rois_needed(1 / 64, 0)
    assert f"about {result.rois_needed} ROIs would be needed" in result.verdict
    assert result.accuracy_difference == pytest.approx(1 / 64)


def test_a_clear_difference_is_called_one() -> None:
    a = Judged("good", LABELS, noisy_scores(0.2, 0))
    b = Judged("chance", with_errors(30), noisy_scores(30.0, 1))
    result = compare(LABELS, a, b, np.arange(64))
    assert result.decisions_differ
    assert result.scores_differ
    assert result.mcnemar.p_value == pytest.approx(2 * 0.5**30)
    assert "distinguishable by their decisions and by their AUC" in result.verdict
    assert "would be needed" not in result.verdict


def test_a_system_is_not_distinguishable_from_itself() -> None:
    same = Judged("A", with_errors(5), noisy_scores(0.5, 0))
    result = compare(LABELS, same, same, np.arange(64))
    assert "not distinguishable" in result.verdict
    assert result.auc_difference.value == 0
    assert result.rois_needed is None
    assert "no interval can be stated" in result.verdict
    assert math.isnan(result.auc_difference.ci_low)
    json.dumps(result.to_dict(), allow_nan=False)


def test_correlated_rois_widen_the_interval_of_the_difference() -> None:
    labels = np.repeat(LABELS, 3)
    a, b = np.repeat(noisy_scores(0.5, 0), 3), np.repeat(noisy_scores(0.7, 1), 3)
    grouped = paired_bootstrap_auc(labels, a, b, np.repeat(np.arange(64), 3))
    single = paired_bootstrap_auc(labels, a, b, np.arange(192))
    assert grouped.ci_high - grouped.ci_low > 1.4 * (single.ci_high - single.ci_low)


@pytest.mark.slow
def test_two_equally_good_systems_are_called_different_at_the_stated_rate_at_most() -> None:
    rng = np.random.default_rng(2020)
    labels = np.array([0] * 80 + [1] * 40)
    by_decisions, by_scores = 0, 0
    for seed in range(400):
        shared = 1.5 * labels + rng.normal(size=120)
        a, b = (shared + 0.7 * rng.normal(size=120) for _ in range(2))
        result = compare(
            labels,
            Judged("a", (a > 0.75).astype(int), a),
            Judged("b", (b > 0.75).astype(int), b),
            np.arange(120),
            n_bootstrap=500,
            seed=seed,
        )
        by_decisions += result.decisions_differ
        by_scores += result.scores_differ
    assert by_decisions / 400 <= 0.05
    assert 0.025 <= by_scores / 400 <= 0.08


def test_systems_that_judged_other_rois_are_refused() -> None:
    short = Judged("short", with_errors(1)[:-1], noisy_scores(0.5, 0)[:-1])
    with pytest.raises(DataError, match="one value for each of the 64 ROIs"):
        compare(LABELS, Judged("a", with_errors(1), noisy_scores(0.5, 0)), short, np.arange(64))
