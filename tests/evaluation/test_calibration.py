"""Calibration against scikit-learn, hand-made bins and scores whose distortion is known."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mammo.core.errors import DataError
from mammo.evaluation.calibration import (
    Binning,
    Calibrator,
    brier,
    calibration_estimates,
    expected_calibration_error,
    fit_platt,
    perfect_calibration_error,
    reliability,
)
from mammo.evaluation.metrics import FloatArray, IntArray

HOW: dict[str, Any] = {"n_bootstrap": 2000, "seed": 0, "confidence": 0.95}


def honest(n: int, seed: int = 0) -> tuple[IntArray, FloatArray]:
    """ROIs whose scores are the true probabilities of Tumor."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1.2, 1.8, n)
    return (rng.random(n) < scores).astype(int), scores


@pytest.mark.parametrize(("binning", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
def test_the_reliability_table_and_the_brier_score_agree_with_scikit_learn(
    binning: Binning, strategy: str
) -> None:
    labels, scores = honest(400)
    table = reliability(labels, scores, binning=binning, n_bins=8, confidence=0.95)
    share, mean = calibration_curve(labels, scores, n_bins=8, strategy=strategy)
    assert table["tumor_share"].to_numpy() == pytest.approx(share)
    assert table["mean_score"].to_numpy() == pytest.approx(mean)
    assert table["n"].sum() == 400
    assert brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))


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


@given(st.integers(1, 30), st.integers(0, 1000))
def test_finer_equal_width_bins_never_hide_a_gap_that_one_bin_shows(n_bins: int, seed: int) -> None:
    labels, scores = honest(60, seed)
    coarse = expected_calibration_error(labels, scores, binning="equal_width", n_bins=1)
    assert expected_calibration_error(labels, scores, binning="equal_width", n_bins=n_bins) >= coarse - 1e-12


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
    assert (of_brier.value, of_error.value) == pytest.approx((brier(labels, scores), error))
    assert of_brier.ci_low < of_brier.value < of_brier.ci_high
    assert 0 <= of_error.ci_low < error
    assert (of_brier.method, of_error.method) == ("BCa bootstrap of groups", "basic bootstrap of groups")


def test_most_intervals_of_a_calibration_error_that_is_all_chance_start_at_zero() -> None:
    settings: dict[str, Any] = {"binning": "equal_mass", "n_bins": 6, **HOW, "n_bootstrap": 250}
    estimates = [calibration_estimates(*honest(64, seed), np.arange(64), **settings) for seed in range(60)]
    at_zero = [estimate["calibration_error"].ci_low == 0 for estimate in estimates]
    assert np.mean(at_zero) > 0.6


def test_a_calibration_error_of_perfect_scores_is_what_drawing_labels_gives() -> None:
    _, scores = honest(64, seed=5)
    drawn = (np.random.default_rng(99).random((400, 64)) < scores).astype(int)
    bins: dict[str, Any] = {"binning": "equal_mass", "n_bins": 6}
    errors = [expected_calibration_error(labels, scores, **bins) for labels in drawn]
    perfect = perfect_calibration_error(scores, **bins, **HOW)
    assert perfect["mean"] == pytest.approx(np.mean(errors), abs=0.01)
    assert perfect["upper"] == pytest.approx(np.quantile(errors, 0.95), abs=0.02)
