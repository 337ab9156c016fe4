"""Operating points against brute force over every threshold."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.core.errors import DataError
from mammo.evaluation.intervals import wilson
from mammo.evaluation.operating_points import Fixed, operating_points, threshold_at

Scored = list[tuple[int, int]]
SCORED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    called = scores > threshold
    return {"recall": float(called[labels == 1].mean()), "specificity": float((~called)[labels == 0].mean())}


@given(SCORED, st.sampled_from(["recall", "specificity"]), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_reaches_its_target_and_no_other_does_better(
    scored: Scored, fixed: Fixed, target: float
) -> None:
    labels, grades = np.array(scored).T
    if labels.min() == labels.max():
        return
    scores = grades / 8
    other = "specificity" if fixed == "recall" else "recall"
    chosen = rates(labels, scores, threshold_at(labels, scores, fixed, target))
    every = [rates(labels, scores, threshold) for threshold in (-1.0, *np.unique(scores))]
    best = max(rate[other] for rate in every if rate[fixed] >= target - 1e-12)
    assert chosen[fixed] >= target - 1e-12
    assert chosen[other] == best


def test_a_target_that_floats_cannot_hold_exactly_is_not_overshot() -> None:
    labels, scores = np.zeros(100, dtype=int), np.arange(100) / 100
    # 0.55 · 100 is 55.000000000000007 in floats; 55 Normal ROIs lie at or below 0.54.
    assert threshold_at(labels, scores, "specificity", 0.55) == 0.54


def test_thresholds_come_from_validation_and_rates_from_the_judged_part() -> None:
    val_labels, val_scores = np.array([0] * 10 + [1] * 10), np.arange(20) / 20
    labels, scores = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.42, 0.9, 0.3, 0.6, 0.7, 0.8])
    points = operating_points(val_labels, val_scores, labels, scores, targets=(0.8,))
    by_specificity, by_recall = points
    assert (by_specificity.threshold, by_specificity.fixed) == (0.35, "specificity")
    assert by_specificity.specificity == wilson(1, 3)
    assert by_specificity.recall == wilson(3, 4)
    assert by_recall.threshold == pytest.approx(0.6)
    assert by_recall.recall == wilson(3, 4)
    assert by_recall.specificity == wilson(2, 3)


def test_each_rate_is_fixed_at_each_usual_target() -> None:
    labels, scores = np.array([0, 1] * 20), np.linspace(0, 1, 40)
    points = operating_points(labels, scores, labels, scores)
    assert [(point.fixed, point.target) for point in points] == [
        (fixed, target) for fixed in ("specificity", "recall") for target in (0.8, 0.9, 0.95)
    ]
    json.dumps([point.to_dict() for point in points], allow_nan=False)


def test_single_precision_scores_keep_their_tumor_rois_above_the_threshold() -> None:
    labels = np.array([0, 1, 1])
    scores = np.array([0.1, 0.3, 0.7], dtype=np.float32)
    threshold = threshold_at(labels, scores, "recall", 1.0)
    assert ((scores > threshold) == [False, True, True]).all()


def test_a_judged_part_without_tumor_rois_has_an_undefined_recall() -> None:
    val = np.array([0, 1]), np.array([0.2, 0.8])
    point = operating_points(*val, np.array([0]), np.array([0.1]), targets=(0.9,))[0]
    assert point.to_dict()["recall"]["value"] is None


def test_validation_without_the_fixed_class_is_refused() -> None:
    with pytest.raises(DataError, match="recall needs Tumor ROIs in the validation part"):
        threshold_at(np.array([0, 0]), np.array([0.1, 0.2]), "recall", 0.9)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01])
def test_a_target_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(DataError, match="target must be above 0 and at most 1"):
        threshold_at(np.array([0, 1]), np.array([0.1, 0.2]), "recall", target)
