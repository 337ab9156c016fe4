"""Thresholds against statsmodels, symmetry, brute force over all thresholds and vote counts, and simulated new ROIs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from mammo.evaluation.calibration import (
    Fixed,
    operating_points,
    score_threshold,
    share_threshold,
    threshold_at,
)
from mammo.evaluation.intervals import wilson
from mammo.evaluation.metrics import FloatArray, IntArray

N_PATCHES = 25


def draw(n_normal: int, n_tumor: int, shift: float, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """Patch scores of two overlapping classes, moved along the logit by `shift`: `(n, 25)`."""
    labels = np.repeat([0, 1], [n_normal, n_tumor])
    centre = rng.normal(np.where(labels == 1, 0.9, -0.9) + shift, 1.0)
    return labels, expit(rng.normal(centre[:, None], 0.8, (len(labels), N_PATCHES)))


def shares(patch_scores: FloatArray) -> FloatArray:
    share: FloatArray = (patch_scores > 0.5).mean(axis=1)
    return share


def balanced_accuracy(labels: IntArray, evidence: FloatArray, threshold: float) -> float:
    called = evidence > threshold
    return float((called[labels == 1].mean() + (~called[labels == 0]).mean()) / 2)


def test_mirrored_classes_meet_at_one_half_and_move_with_their_scores() -> None:
    labels, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.4, 0.7, 0.9])
    assert score_threshold(labels, scores) == pytest.approx(0.5, abs=1e-6)
    moved = score_threshold(labels, expit(logit(scores) - 1.5))
    assert moved == pytest.approx(expit(-1.5), abs=1e-4)


def test_more_rois_of_one_class_do_not_move_the_threshold() -> None:
    labels, patch_scores = draw(60, 60, 0.0, np.random.default_rng(5))
    scores = patch_scores.mean(axis=1)
    many = np.concatenate([np.arange(120), np.tile(np.flatnonzero(labels == 0), 3)])
    once, often = score_threshold(labels, scores), score_threshold(labels[many], scores[many])
    assert once is not None
    assert often == pytest.approx(once, abs=0.02)  # but for Platt's targets


@pytest.mark.parametrize(
    "scores", [[0.9, 0.8, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]], ids=str
)
def test_scores_that_do_not_tell_the_classes_apart_give_no_threshold(scores: list[float]) -> None:
    assert score_threshold(np.array([0, 0, 1, 1]), np.array(scores)) is None
    assert share_threshold(np.array([0, 0, 1, 1]), np.array(scores), 10) is None


def test_perfectly_separated_classes_are_separated() -> None:
    labels = np.array([0] * 5 + [1] * 3)
    threshold = share_threshold(labels, np.array([0.0] * 5 + [1.0] * 3), N_PATCHES)
    assert threshold is not None
    assert 0.2 < threshold < 0.8


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_patches=st.integers(1, 49), shift=st.floats(-3, 3))
def test_a_share_threshold_lies_between_two_shares_and_decides_every_count_as_the_smooth_one(
    seed: int, n_patches: int, shift: float
) -> None:
    labels, patch_scores = draw(20, 12, shift, np.random.default_rng(seed))
    votes = np.round(shares(patch_scores) * n_patches)
    threshold = share_threshold(labels, votes / n_patches, n_patches)
    smooth = score_threshold(labels, (votes + 0.5) / (n_patches + 1))
    assert (threshold is None) == (smooth is None)
    if threshold is None or smooth is None:
        return
    assert threshold * n_patches % 1 == pytest.approx(0.5)
    counts = np.arange(n_patches + 1)
    # Counts beyond those seen on validation are decided by the clipped half-way point; inside they must agree.
    inside = (counts >= votes.min()) & (counts <= votes.max())
    by_share = counts / n_patches > threshold
    by_smooth = (counts + 0.5) / (n_patches + 1) > smooth
    assert (by_share == by_smooth)[inside].all()


def best_of_all(labels: IntArray, evidence: FloatArray) -> float:
    """Youden's index by brute force: half-way between neighbouring values, the middle one of the best."""
    values = np.unique(evidence)
    between = (values[1:] + values[:-1]) / 2
    reached = np.array([balanced_accuracy(labels, evidence, threshold) for threshold in between])
    best = np.flatnonzero(reached >= reached.max() - 1e-12)
    return float(between[best[len(best) // 2]])


@pytest.mark.parametrize("shift", [-1.2, 0.0], ids=["shifted down", "not shifted"])
def test_on_new_rois_it_is_better_than_the_best_on_validation_and_hardly_worse_than_a_half(
    shift: float,
) -> None:
    rng = np.random.default_rng(65)
    new_labels, new_scores = draw(4000, 4000, shift, rng)
    new = shares(new_scores)
    reached: dict[str, list[float]] = {"this": [], "best": []}
    for _ in range(60):
        labels, patch_scores = draw(41, 24, shift, rng)
        evidence = shares(patch_scores)
        threshold = share_threshold(labels, evidence, N_PATCHES)
        assert threshold is not None
        reached["this"].append(balanced_accuracy(new_labels, new, threshold))
        reached["best"].append(balanced_accuracy(new_labels, new, best_of_all(labels, evidence)))
    half = balanced_accuracy(new_labels, new, 0.5)
    assert np.mean(reached["this"]) > np.mean(reached["best"]) + 0.002
    assert np.mean(reached["this"]) > half + (0.05 if shift else -0.008)


Graded = list[tuple[int, int]]
GRADED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    called = scores > threshold
    return {"recall": float(called[labels == 1].mean()), "specificity": float((~called)[labels == 0].mean())}


@given(GRADED, st.sampled_from(["recall", "specificity"]), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_reaches_its_target_and_no_other_does_better(
    graded: Graded, fixed: Fixed, target: float
) -> None:
    labels, grades = np.array(graded).T
    if labels.min() == labels.max():
        return
    scores = grades / 8
    other = "specificity" if fixed == "recall" else "recall"
    chosen = rates(labels, scores, threshold_at(labels, scores, fixed, target))
    every = [rates(labels, scores, threshold) for threshold in (-1.0, *np.unique(scores))]
    best = max(rate[other] for rate in every if rate[fixed] >= target - 1e-12)
    assert chosen[fixed] >= target - 1e-12
    assert chosen[other] == best


def test_thresholds_come_from_validation_and_rates_from_the_judged_part() -> None:
    val_labels, val_scores = np.array([0] * 10 + [1] * 10), np.arange(20) / 20
    labels, scores = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.42, 0.9, 0.3, 0.6, 0.7, 0.8])
    points = operating_points(val_labels, val_scores, labels, scores, confidence=0.95, targets=(0.8,))
    by_specificity, by_recall = points
    assert (by_specificity.threshold, by_specificity.fixed) == (0.35, "specificity")
    assert by_specificity.specificity == wilson(1, 3, 0.95)
    assert by_specificity.recall == wilson(3, 4, 0.95)
    assert by_recall.threshold == pytest.approx(0.6)
    assert by_recall.recall == wilson(3, 4, 0.95)
    assert by_recall.specificity == wilson(2, 3, 0.95)


def test_single_precision_scores_keep_their_tumor_rois_above_the_threshold() -> None:
    scores = np.array([0.1, 0.3, 0.7], dtype=np.float32)
    threshold = threshold_at(np.array([0, 1, 1]), scores, "recall", 1.0)
    assert (scores > threshold).tolist() == [False, True, True]


def test_a_target_that_floats_cannot_hold_exactly_is_not_overshot() -> None:
    labels, scores = np.zeros(100, dtype=int), np.arange(100) / 100
    # 0.55 · 100 is 55.000000000000007 in floats; 55 Normal ROIs lie at or below 0.54.
    assert threshold_at(labels, scores, "specificity", 0.55) == 0.54


def test_each_rate_is_fixed_at_each_usual_target_and_undefined_without_its_class() -> None:
    labels, scores = np.array([0, 1] * 20), np.linspace(0, 1, 40)
    points = operating_points(labels, scores, labels[::2], scores[::2], confidence=0.95)
    assert [(point.fixed, point.target) for point in points] == [
        (fixed, target) for fixed in ("specificity", "recall") for target in (0.8, 0.9, 0.95)
    ]
    assert {point.to_dict()["recall"]["value"] for point in points} == {None}
