"""Comparisons against the binomial distribution and hand-made disagreements."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mammo.core.errors import DataError
from mammo.evaluation.comparison import (
    auc_difference,
    compare,
    difference,
    mcnemar_exact,
    rois_needed,
    verdict,
)
from mammo.evaluation.intervals import Estimate, estimate
from mammo.evaluation.metrics import FloatArray, IntArray
from tests.evaluation.made_scores import HOW, lucky, made, some_runs

MANY: dict[str, Any] = {**HOW, "n_bootstrap": 2000}

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
    *alone, p_value = mcnemar_exact(LABELS, with_errors(only_b), with_errors(only_a, start=30))
    assert alone == [only_a, only_b]
    reference = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert p_value == pytest.approx(reference)


def test_the_difference_of_aucs_is_that_of_scikit_learn_and_changes_sign_with_the_order() -> None:
    a, b = noisy_scores(0.5, 0), noisy_scores(1.2, 1)
    of_a, of_b = made(LABELS, scores=a), made(LABELS, scores=b)
    ab, ba = auc_difference(of_a, of_b, **MANY), auc_difference(of_b, of_a, **MANY)
    assert ab.value == pytest.approx(roc_auc_score(LABELS, a) - roc_auc_score(LABELS, b))
    assert (ab.ci_low, ab.ci_high) == pytest.approx((-ba.ci_high, -ba.ci_low), abs=0.003)


def test_connors_formula_gives_its_published_shape_by_hand_and_nothing_for_equal_shares() -> None:
    # psi = 0.2, d = 0.1: (1.959964 sqrt(0.2) + 0.841621 sqrt(0.19))² / 0.01 = 154.1
    assert rois_needed(0.15, 0.05, confidence=0.95) == rois_needed(0.05, 0.15, confidence=0.95) == 155
    assert rois_needed(0.1, 0.1, confidence=0.95) is None


def test_one_different_roi_is_not_distinguishable_and_says_how_many_it_would_take() -> None:
    a = made(LABELS, with_errors(7), noisy_scores(0.6, 0))
    b = made(LABELS, with_errors(8), noisy_scores(0.6, 1))
    result = compare("Model1", a, "Model2", b, **MANY)
    assert result["verdict"].startswith("Model1 and Model2 are not distinguishable on 64 ROIs")
    assert result["mcnemar"]["p_value"] == 1
    assert result["rois_needed"] == rois_needed(1 / 64, 0, confidence=0.95)
    assert f"about {result['rois_needed']} ROIs would be needed" in result["verdict"]
    assert result["accuracy_difference"] == pytest.approx(1 / 64)


def test_a_clear_difference_is_called_one() -> None:
    a = made(LABELS, LABELS, noisy_scores(0.2, 0))
    b = made(LABELS, with_errors(30), noisy_scores(30.0, 1))
    result = compare("good", a, "chance", b, **MANY)
    assert result["decisions_differ"]
    assert result["scores_differ"]
    assert result["mcnemar"]["p_value"] == pytest.approx(2 * 0.5**30)
    assert "distinguishable by their decisions and by their AUC" in result["verdict"]
    assert "would be needed" not in result["verdict"]


def test_one_of_several_comparisons_has_to_show_more() -> None:
    a, b = (made(LABELS, with_errors(n), noisy_scores(0.6, n)) for n in (1, 7))  # 6 against 0: p = 2 / 2**6
    assert compare("A", a, "B", b, **MANY)["decisions_differ"]
    one_of_three = compare("A", a, "B", b, 3, **MANY)
    assert not one_of_three["decisions_differ"]
    assert "p = 0.031, of 3 comparisons: below 0.017 would tell" in one_of_three["verdict"]
    assert one_of_three["auc_difference"] == compare("A", a, "B", b, **MANY)["auc_difference"]


def test_a_system_is_not_distinguishable_from_itself() -> None:
    same = made(LABELS, with_errors(5), noisy_scores(0.5, 0))
    result = compare("A", same, "A", same, **MANY)
    assert "not distinguishable" in result["verdict"]
    assert result["auc_difference"]["value"] == 0
    assert result["rois_needed"] is None
    assert "no interval can be stated" in result["verdict"]
    assert result["auc_difference"]["ci_low"] is None
    json.dumps(result, allow_nan=False)


def test_systems_that_judged_other_rois_are_refused() -> None:
    short = made(LABELS[:-1], with_errors(1)[:-1])
    with pytest.raises(DataError, match="one value for each of the 64 ROIs"):
        compare("a", made(LABELS, with_errors(1)), "short", short, **HOW)


def test_a_difference_is_paired_its_interval_is_narrower_than_that_of_independent_rois() -> None:
    a = some_runs(n=300)
    worse = a.decisions.copy()
    worse[:, ::20] = 1 - a.labels[::20]
    paired = difference(a, replace(a, decisions=worse), "accuracy", **HOW)
    alone = estimate(a, "accuracy", **HOW)
    assert paired.value == pytest.approx(np.mean(a.decisions == a.labels) - np.mean(worse == a.labels))
    assert paired.ci_low > 0
    assert paired.ci_high - paired.ci_low < alone.ci_high - alone.ci_low


def test_sets_of_different_rois_differ_by_the_difference_of_their_values() -> None:
    runs = some_runs()
    part = runs.only(runs.roi_ids[10:40])
    gap = difference(part, runs, "recall", **HOW)
    values = [estimate(one, "recall", **HOW).value for one in (part, runs)]
    assert gap.value == pytest.approx(values[0] - values[1])
    assert (gap.n, gap.n_groups) == (60, 30)
    assert gap.ci_low < gap.value < gap.ci_high


def test_runs_of_other_numbers_are_compared_by_their_means_without_a_spread() -> None:
    three, two = some_runs(), some_runs(n_runs=2, seed=1)
    gap = difference(three, two, "accuracy", **HOW)
    means = [np.mean(one.decisions == one.labels) for one in (three, two)]
    assert gap.value == pytest.approx(means[0] - means[1])
    assert (math.isnan(gap.sd_runs), gap.n_runs) == (True, 2)


def test_two_runs_whose_effects_have_opposite_signs_show_no_effect() -> None:
    found = difference(lucky([0.1, 0.3]), lucky([0.35, 0.2]), "accuracy", **HOW)
    assert found.value > 0.02
    assert found.ci_low < 0 < found.ci_high
    assert found.method == "BCa bootstrap of groups and runs"


def found(value: float, low: float = math.nan, high: float = math.nan) -> Estimate:
    return Estimate(value, low, high, "", 64, 64, 0.95)


@pytest.mark.parametrize(
    ("auc", "accuracy", "words"),
    [
        (found(0.02, -0.01, 0.05), found(0.01, -0.02, 0.04), "not distinguishable"),
        (found(0.04, 0.01, 0.07), found(0.01, -0.02, 0.04), "AUC higher"),
        (found(-0.04, -0.07, -0.01), found(-0.03, -0.05, -0.01), "AUC lower; accuracy lower"),
        (found(0.0), found(0.0), "not distinguishable"),
    ],
)
def test_a_verdict_names_what_its_interval_leaves_0_out_of(auc: Estimate, accuracy: Estimate, words: str) -> None:
    assert verdict({"auc_score": auc, "accuracy": accuracy}) == words
