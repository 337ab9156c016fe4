"""The metrics against hand counts, brute force over pairs and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mammo.evaluation.metrics import (
    Confusion,
    auc,
    confusion,
    weighted_auc,
)


def pairs_won(labels: np.ndarray, scores: np.ndarray) -> float:
    """The AUC by its definition: over all pairs of a Tumor and a Normal ROI."""
    pairs = [(t, n) for t in scores[labels == 1] for n in scores[labels == 0]]
    return sum(1.0 if t > n else 0.5 if t == n else 0.0 for t, n in pairs) / len(pairs)


def test_the_rates_equal_the_hand_computed_fractions() -> None:
    counts = confusion(np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0, 0]))
    assert counts == Confusion(tp=2, fn=1, fp=1, tn=4)
    expected = {
        "accuracy": 6 / 8,
        "recall": 2 / 3,
        "specificity": 4 / 5,
        "precision": 2 / 3,
        "f1": 2 / 3,
        "balanced_accuracy": (2 / 3 + 4 / 5) / 2,
    }
    assert counts.metrics() == pytest.approx(expected)


def test_trials_are_the_successes_among_the_metrics_own_rois() -> None:
    table = Confusion(tp=2, fn=1, fp=5, tn=4)
    trials = {"accuracy": (6, 12), "recall": (2, 3), "specificity": (4, 9), "precision": (2, 7)}
    assert {name: table.trials(name) for name in trials} == trials


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_the_rates_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, decisions = np.array(pairs).T
    values = confusion(labels, decisions).metrics()
    undefined = {"zero_division": np.nan}
    for name, reference in {
        "accuracy": sk.accuracy_score(labels, decisions),
        "recall": sk.recall_score(labels, decisions, **undefined),
        "specificity": sk.recall_score(labels, decisions, pos_label=0, **undefined),
        "precision": sk.precision_score(labels, decisions, **undefined),
        "f1": sk.f1_score(labels, decisions, **undefined),
    }.items():
        assert values[name] == pytest.approx(reference, nan_ok=True), name


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_the_auc_is_the_share_of_pairs_that_the_tumor_roi_wins(pairs: list[tuple[int, int]]) -> None:
    labels, scores = np.array(pairs).T
    if 0 < labels.sum() < len(labels):
        assert auc(labels, scores / 6) == pytest.approx(pairs_won(labels, scores))
    else:
        assert math.isnan(auc(labels, scores / 6))


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_a_weight_counts_a_roi_as_often_as_repeating_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = np.array([1, 0] * 6), rng.integers(0, 5, 12) / 4
    weights = rng.integers(0, 4, (3, 12))
    weights[:, :2] += 1
    repeated = [auc(np.repeat(labels, row), np.repeat(scores, row)) for row in weights]
    assert weighted_auc(labels, scores, weights.astype(float)) == pytest.approx(repeated)


def test_undefined_metrics_are_nan_and_never_zero() -> None:
    no_tumor = Confusion(tp=0, fn=0, fp=0, tn=3).metrics()
    undefined = {name for name, value in no_tumor.items() if math.isnan(value)}
    assert undefined == {"recall", "precision", "f1", "balanced_accuracy"}
    assert math.isnan(auc(np.array([1, 1]), np.array([0.2, 0.3])))
    assert math.isnan(auc(np.array([], dtype=int), np.array([])))
