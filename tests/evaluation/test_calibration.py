"""Calibration and thresholds against scikit-learn, statsmodels, brute force and scores whose distortion is known."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mammo.core.errors import DataError
from mammo.evaluation.calibration import (
    Binning,
    Calibrator,
    Fixed,
    calibration_estimates,
    expected_calibration_error,
    fit_platt,
    operating_points,
    perfect_calibration_error,
    reliability,
    score_threshold,
    share_threshold,
    threshold_at,
)
from mammo.evaluation.intervals import wilson
from mammo.evaluation.metrics import FloatArray, IntArray

HOW: dict[str, Any] = {"n_bootstrap": 2000, "seed": 0, "confidence": 0.95}


def honest(n: int, seed: int = 0) -> tuple[IntArray, FloatArray]:
    """ROIs whose scores are the true probabilities of Tumor."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1.2, 1.8, n)
    return (rng.random(n) < scores).astype(int), scores


@pytest.mark.parametrize(("binning", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
def test_the_reliability_table_agrees_with_scikit_learn(binning: Binning, strategy: str) -> None:
    labels, scores = honest(400)
    table = reliability(labels, scores, binning=binning, n_bins=8, confidence=0.95)
    share, mean = calibration_curve(labels, scores, n_bins=8, strategy=strategy)
    assert table["tumor_share"].to_numpy() == pytest.approx(share)
    assert table["mean_score"].to_numpy() == pytest.approx(mean)
    assert table["n"].sum() == 400


@pytest.mark.parametrize(
    ("scores", "binning", "n_bins", "sizes"),
    [
        (honest(400)[1], "equal_mass", 8, [50] * 8),
        (np.array([0.2] * 30 + [0.7] * 10), "equal_mass", 4, [30, 10]),
        (np.array([0.0, 1.0]), "equal_width", 10, [1, 1]),
    ],
)
def test_equal_mass_bins_hold_equally_many_rois_ties_stay_together_and_one_is_in_the_last_bin(
    scores: FloatArray, binning: Binning, n_bins: int, sizes: list[int]
) -> None:
    labels = np.arange(len(scores)) % 2
    table = reliability(labels, scores, binning=binning, n_bins=n_bins, confidence=0.95)
    assert list(table["n"]) == sizes


def test_the_calibration_error_is_the_weighted_gap_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    scores = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
    # 6 ROIs at 0.1 of which half are Tumor (gap 0.4); 2 at 0.9 of which half are (gap 0.4).
    assert expected_calibration_error(labels, scores, binning="equal_width", n_bins=10) == pytest.approx(0.4)
    # One bin: mean score 0.3, share 0.5.
    assert expected_calibration_error(labels, scores, binning="equal_width", n_bins=1) == pytest.approx(0.2)


def test_a_known_distortion_of_the_logits_is_found_and_undone() -> None:
    labels, truth = honest(40_000)
    distorted = expit((logit(truth) - 0.8) / 0.4)
    calibrator = fit_platt(labels, distorted)
    assert (calibrator.slope, calibrator.intercept) == pytest.approx((0.4, 0.8), abs=0.05)
    assert np.abs(calibrator.apply(distorted) - truth).max() < 0.02


def test_perfectly_separated_scores_give_finite_numbers_short_of_certainty() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    calibrator = fit_platt(labels, labels.astype(float))
    # Both groups are fitted exactly by Platt's targets.
    assert calibrator.apply(np.array([0.0, 1.0])) == pytest.approx([1 / 22, 21 / 22], abs=1e-3)


def test_slope_one_and_intercept_zero_change_nothing() -> None:
    scores = np.array([0.0, 0.25, 0.5, 1.0])
    assert Calibrator(1.0, 0.0).apply(scores) == pytest.approx(scores, abs=2e-6)


def test_one_class_alone_cannot_be_calibrated() -> None:
    with pytest.raises(DataError, match="both classes are needed, got 0 Tumor and 2 Normal"):
        fit_platt(np.array([0, 0]), np.array([0.1, 0.2]))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_calibrator_agrees_with_statsmodels(balanced: bool) -> None:
    labels, scores = honest(65, seed=9)
    n_tumor = int(labels.sum())
    n_normal = 65 - n_tumor
    target = np.where(labels == 1, (n_tumor + 1) / (n_tumor + 2), 1 / (n_normal + 2))
    weights = np.where(labels == 1, n_normal, n_tumor) if balanced else np.ones(65)
    family = sm.families.Binomial()
    fitted = sm.GLM(target, sm.add_constant(logit(scores)), family=family, freq_weights=weights).fit()
    calibrator = fit_platt(labels, scores, balanced=balanced)
    assert (calibrator.intercept, calibrator.slope) == pytest.approx(tuple(fitted.params), abs=1e-3)


@pytest.mark.parametrize("binning", ["equal_mass", "equal_width"])
def test_the_estimates_are_those_of_the_single_functions_and_lie_in_plausible_intervals(binning: str) -> None:
    labels, truth = honest(200, seed=1)
    scores = expit(2 * logit(truth) - 1)
    settings: dict[str, Any] = {"binning": binning, "n_bins": 6}
    estimates = calibration_estimates(labels, scores, np.arange(200), **settings, **HOW)
    of_brier, of_error = estimates["brier"], estimates["calibration_error"]
    error = expected_calibration_error(labels, scores, **settings)
    assert (of_brier.value, of_error.value) == pytest.approx((brier_score_loss(labels, scores), error))
    assert of_brier.ci_low < of_brier.value < of_brier.ci_high
    assert 0 <= of_error.ci_low < error
    assert (of_brier.method, of_error.method) == ("BCa bootstrap of groups", "basic bootstrap of groups")


def test_the_interval_of_a_calibration_error_that_is_all_chance_starts_at_zero() -> None:
    settings: dict[str, Any] = {"binning": "equal_mass", "n_bins": 6, **HOW, "n_bootstrap": 250}
    estimates = calibration_estimates(*honest(64), np.arange(64), **settings)
    assert estimates["calibration_error"].ci_low == 0


def test_a_calibration_error_of_perfect_scores_is_what_drawing_labels_gives() -> None:
    _, scores = honest(64, seed=5)
    drawn = (np.random.default_rng(99).random((400, 64)) < scores).astype(int)
    bins: dict[str, Any] = {"binning": "equal_mass", "n_bins": 6}
    errors = [expected_calibration_error(labels, scores, **bins) for labels in drawn]
    perfect = perfect_calibration_error(scores, **bins, **HOW)
    assert perfect["mean"] == pytest.approx(np.mean(errors), abs=0.01)
    assert perfect["upper"] == pytest.approx(np.quantile(errors, 0.95), abs=0.02)


N_PATCHES = 25


def draw(n_normal: int, n_tumor: int, shift: float, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """Patch scores of two overlapping classes, moved along the logit by `shift`: `(n, 25)`."""
    labels = np.repeat([0, 1], [n_normal, n_tumor])
    centre = rng.normal(np.where(labels == 1, 0.9, -0.9) + shift, 1.0)
    return labels, expit(rng.normal(centre[:, None], 0.8, (len(labels), N_PATCHES)))


def shares(patch_scores: FloatArray) -> FloatArray:
    share: FloatArray = (patch_scores > 0.5).mean(axis=1)
    return share


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


@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]], ids=str)
def test_scores_that_do_not_tell_the_classes_apart_give_no_threshold(scores: list[float]) -> None:
    assert score_threshold(np.array([0, 0, 1, 1]), np.array(scores)) is None
    assert share_threshold(np.array([0, 0, 1, 1]), np.array(scores), 10) is None


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


Graded = list[tuple[int, int]]
GRADED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30)


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    called = scores > threshold
    return {"recall": float(called[labels == 1].mean()), "specificity": float((~called)[labels == 0].mean())}


@given(GRADED, st.sampled_from(["recall", "specificity"]), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_reaches_its_target_and_no_other_does_better(graded: Graded, fixed: Fixed, target: float) -> None:
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
    points = operating_points(val_labels, val_scores, labels, scores, confidence=0.95)
    by_specificity, by_recall = (point for point in points if point["target"] == 0.8)
    assert (by_specificity["threshold"], by_specificity["fixed"]) == (0.35, "specificity")
    assert by_specificity["specificity"] == wilson(1, 3, 0.95).to_dict()
    assert by_specificity["recall"] == wilson(3, 4, 0.95).to_dict()
    assert by_recall["threshold"] == pytest.approx(0.6)
    assert by_recall["recall"] == wilson(3, 4, 0.95).to_dict()
    assert by_recall["specificity"] == wilson(2, 3, 0.95).to_dict()


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
    assert [(point["fixed"], point["target"]) for point in points] == [
        (fixed, target) for fixed in ("specificity", "recall") for target in (0.8, 0.9, 0.95)
    ]
    assert {point["recall"]["value"] for point in points} == {None}
