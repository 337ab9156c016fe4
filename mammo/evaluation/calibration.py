"""Do scores mean what they say? Brier score, calibration error, reliability table, Platt's calibrator."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit

from mammo.core.config import Resampling
from mammo.core.errors import DataError
from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, Result, bootstrap, wilson
from mammo.evaluation.metrics import FloatArray, IntArray, check_arrays

Binning = Literal["equal_mass", "equal_width"]

SCORE_MARGIN = 1e-6
"""Scores are kept this far from 0 and 1 before the logit, which is infinite there."""


def brier(labels: IntArray, scores: FloatArray) -> float:
    """Brier score: mean of (score - label)², 0 is perfect, 0.25 is always saying 0.5; NaN without ROIs.

    Raises:
        DataError: the arrays do not describe the same ROIs, or a score is no probability.
    """
    _check_probabilities(labels, scores)
    return float(np.mean((scores - labels) ** 2)) if len(labels) else np.nan


def reliability(
    labels: IntArray, scores: FloatArray, *, binning: Binning, n_bins: int, confidence: float
) -> pd.DataFrame:
    """Group ROIs by score and set the mean score of each bin beside its share of Tumor ROIs.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        scores: probabilities of Tumor, shape `(n,)`.
        binning: `equal_mass` splits the ROIs in order of score into bins of equal size (ROIs of one score
            stay together); `equal_width` splits [0, 1] into bins of equal width, the last one closed.
        n_bins: bins asked for; empty ones have no row.
        confidence: of the share's Wilson interval.

    Returns:
        One row for each bin in order of score: `n`, `mean_score`, `tumor_share`, `ci_low`, `ci_high`.

    Raises:
        DataError: the arrays do not describe the same ROIs, or a score is no probability.
    """
    _check_probabilities(labels, scores)
    index = _bin_index(scores, binning, n_bins)
    rows = []
    for bin_ in np.unique(index):
        inside = index == bin_
        share = wilson(int(labels[inside].sum()), int(inside.sum()), confidence)
        rows.append((share.n, float(scores[inside].mean()), share.value, share.ci_low, share.ci_high))
    return pd.DataFrame(rows, columns=["n", "mean_score", "tumor_share", "ci_low", "ci_high"])


def expected_calibration_error(
    labels: IntArray, scores: FloatArray, *, binning: Binning, n_bins: int
) -> float:
    """Expected calibration error: mean over ROIs of their bin's |mean score - Tumor share|; NaN without ROIs.

    Its value depends on the bins, so report `binning` and `n_bins` with it. It is biased upwards on few
    ROIs: even perfect scores give more than 0.

    Raises:
        DataError: the arrays do not describe the same ROIs, or a score is no probability.
    """
    _check_probabilities(labels, scores)
    gaps = np.abs((scores - labels) @ _bin_members(scores, binning, n_bins))
    return float(gaps.sum() / len(scores)) if len(scores) else np.nan


def calibration_estimates(
    labels: IntArray,
    scores: FloatArray,
    groups: npt.NDArray[Any],
    *,
    binning: Binning,
    n_bins: int,
    **how: Unpack[Resampling],
) -> dict[str, Estimate]:
    """Brier score and expected calibration error with bootstrap intervals over the groups.

    The bins are those of the whole sample in every resample; the keys are `brier` and `calibration_error`.
    Resampling adds to the calibration error as chance does, so that its interval is the basic one, cut at 0; it
    may lie wholly below the value. It is a rough one: on simulated sets of 64 ROIs a nominal 95% covers 86 to 89%
    where scores are off, and 72% where they are perfect.

    Raises:
        DataError: the arrays do not describe the same ROIs, or a score is no probability.
    """
    _check_probabilities(labels, scores)
    gaps, in_bin = scores - labels, _bin_members(scores, binning, n_bins)

    def brier_score(weights: FloatArray) -> FloatArray:
        score: FloatArray = weights @ gaps**2 / weights.sum(axis=1)
        return score

    def calibration_error(weights: FloatArray) -> FloatArray:
        error: FloatArray = np.abs((weights * gaps) @ in_bin).sum(axis=1) / weights.sum(axis=1)
        return error

    error = bootstrap(calibration_error, groups, kind="basic", **how)
    low, high = (float(np.maximum(end, 0)) for end in (error.ci_low, error.ci_high))
    return {
        "brier": bootstrap(brier_score, groups, **how),
        "calibration_error": replace(error, ci_low=low, ci_high=high),
    }


def perfect_calibration_error(
    scores: FloatArray,
    *,
    binning: Binning,
    n_bins: int,
    n_draws: int,
    seed: int,
    confidence: float,
) -> dict[str, float]:
    """What the calibration error would be by chance if the scores were the true probabilities.

    Labels are drawn from the scores `n_draws` times. A calibration error above `upper` speaks against the scores; one
    near `mean` does not.

    Returns:
        `mean` of the draws' errors and `upper`, their quantile at `confidence`; NaN without ROIs.
    """
    if not len(scores):
        return {"mean": np.nan, "upper": np.nan}
    drawn = np.random.default_rng(seed).random((n_draws, len(scores))) < scores
    gaps = np.abs((scores - drawn) @ _bin_members(scores, binning, n_bins)).sum(axis=1) / len(scores)
    return {"mean": float(gaps.mean()), "upper": float(np.quantile(gaps, confidence))}


def _bin_members(scores: FloatArray, binning: Binning, n_bins: int) -> npt.NDArray[np.float64]:
    """Which of the bins in use each ROI is in: `(n, bins)` of 0 and 1."""
    index = _bin_index(scores, binning, n_bins)
    members: npt.NDArray[np.float64] = (index[:, None] == np.unique(index)).astype(float)
    return members


def _bin_index(scores: FloatArray, binning: Binning, n_bins: int) -> npt.NDArray[np.int64]:
    if n_bins < 1:
        raise DataError(f"calibration: n_bins must be 1 or more, got {n_bins}; 10 is usual")
    if binning == "equal_width":
        return np.minimum((scores * n_bins).astype(np.int64), n_bins - 1)
    ordered = np.sort(scores)
    return np.searchsorted(ordered, scores, side="left").astype(np.int64) * n_bins // max(len(scores), 1)


@dataclass(frozen=True)
class Calibrator(Result):
    """Platt's calibrator on the logit: probability = sigmoid(slope · logit(score) + intercept).

    Slope 1 and intercept 0 change nothing. A slope below 1 tones down over-confident scores; a negative
    one says that on the validation part higher scores belonged to Normal ROIs.
    """

    slope: float
    intercept: float

    def apply(self, scores: FloatArray) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of Tumor, same shape as `scores`."""
        probabilities: npt.NDArray[np.float64] = expit(self.slope * _logits(scores) + self.intercept)
        return probabilities


NO_CALIBRATION: Final = Calibrator(slope=1.0, intercept=0.0)
"""Leaves every score as it is."""


def fit_platt(labels: IntArray, scores: FloatArray, *, balanced: bool = False) -> Calibrator:
    """Fit a calibrator on the validation part by logistic regression without a penalty.

    Why Platt: a validation part of some 65 ROIs can carry two numbers. Isotonic regression fits a step for
    nearly every ROI there, ties ranks, and calls the outermost scores 0 and 1; it needs about a thousand ROIs to
    be the better one (Niculescu-Mizil and Caruana 2005, "Predicting good probabilities with supervised learning").

    The targets are Platt's smoothed ones, (n_tumor + 1) / (n_tumor + 2) and 1 / (n_normal + 2), so that
    perfectly separated scores do not give an infinite slope (Platt 1999, "Probabilistic outputs for
    support vector machines", section 2.2).

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        scores: probabilities of Tumor, shape `(n,)`.
        balanced: let both classes weigh alike, whatever their numbers; 0.5 is then where a score speaks for
            neither class.

    Raises:
        DataError: a class is absent, or a score is no probability.
    """
    _check_probabilities(labels, scores)
    n_tumor = int((labels == Label.TUMOR).sum())
    n_normal = len(labels) - n_tumor
    if min(n_tumor, n_normal) == 0:
        raise DataError(
            f"calibration: both classes are needed, got {n_tumor} Tumor and {n_normal} Normal ROIs; "
            "calibrate on a part that holds both"
        )
    from sklearn.linear_model import LogisticRegression  # here: it takes 1 s to import

    target = np.where(labels == Label.TUMOR, (n_tumor + 1) / (n_tumor + 2), 1 / (n_normal + 2))
    weight = np.where(labels == Label.TUMOR, n_normal, n_tumor) * 2 / len(labels) if balanced else 1.0
    logits = _logits(scores)
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([logits, logits])[:, None],
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([target * weight, (1 - target) * weight]),
    )
    return Calibrator(float(model.coef_[0, 0]), float(model.intercept_[0]))


def _logits(scores: FloatArray) -> npt.NDArray[np.float64]:
    logits: npt.NDArray[np.float64] = logit(np.clip(scores.astype(float), SCORE_MARGIN, 1 - SCORE_MARGIN))
    return logits


def _check_probabilities(labels: IntArray, scores: FloatArray) -> None:
    check_arrays(labels, scores=scores)
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        raise DataError(
            f"calibration: scores must be probabilities between 0 and 1, got {scores.min():g} to "
            f"{scores.max():g}; pass probabilities, not logits"
        )
