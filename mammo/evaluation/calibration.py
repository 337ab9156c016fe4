"""Do scores mean what they say? Brier score, calibration error, reliability, Platt's calibrator, thresholds."""

import math
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
from mammo.evaluation.metrics import FloatArray, IntArray, confusion

Binning = Literal["equal_mass", "equal_width"]

_MARGIN: Final = 1e-6
"""Scores are kept this far from 0 and 1 before the logit, which is infinite there."""


def reliability(
    labels: IntArray, scores: FloatArray, *, binning: Binning, n_bins: int, confidence: float
) -> pd.DataFrame:
    """Reliability table: the mean score of each bin of scores `(n,)` beside its share of Tumor ROIs.

    `equal_mass` splits the ROIs in order of score into bins of equal size (ROIs of one score stay together);
    `equal_width` splits [0, 1] into bins of equal width, the last one closed. One row for each bin that is not empty,
    in order of score: `n`, `mean_score`, `tumor_share` and its Wilson interval `ci_low`, `ci_high`.
    """
    rows = []
    for inside in _bins(scores, binning, n_bins).T.astype(bool):
        share = wilson(int(labels[inside].sum()), int(inside.sum()), confidence)
        rows.append((share.n, float(scores[inside].mean()), share.value, share.ci_low, share.ci_high))
    return pd.DataFrame(rows, columns=["n", "mean_score", "tumor_share", "ci_low", "ci_high"])


def expected_calibration_error(labels: IntArray, scores: FloatArray, *, binning: Binning, n_bins: int) -> float:
    """Expected calibration error: mean over ROIs of their bin's |mean score - Tumor share|.

    Its value depends on the bins, so report `binning` and `n_bins` with it. It is biased upwards on few
    ROIs: even perfect scores give more than 0.
    """
    return float(np.abs((scores - labels) @ _bins(scores, binning, n_bins)).sum() / len(scores))


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

    The Brier score is the mean of (score - label)²: 0 is perfect, 0.25 is always saying 0.5. The bins are those of the
    whole sample in every resample; the keys are `brier` and `calibration_error`. Resampling adds to the calibration
    error as chance does, so that its interval is the basic one, cut at 0; it may lie wholly below the value. It is a
    rough one: on simulated sets of 64 ROIs a nominal 95% covers 86 to 89% where scores are off, and 72% where they are
    perfect.
    """
    gaps, in_bin = scores - labels, _bins(scores, binning, n_bins)

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
    scores: FloatArray, *, binning: Binning, n_bins: int, n_bootstrap: int, seed: int, confidence: float
) -> dict[str, float]:
    """What the calibration error would be by chance if the scores were the true probabilities.

    Labels are drawn from the scores `n_bootstrap` times. A calibration error above `upper`, the quantile of the draws'
    errors at `confidence`, speaks against the scores; one near their `mean` does not.
    """
    drawn = np.random.default_rng(seed).random((n_bootstrap, len(scores))) < scores
    gaps = np.abs((scores - drawn) @ _bins(scores, binning, n_bins)).sum(axis=1) / len(scores)
    return {"mean": float(gaps.mean()), "upper": float(np.quantile(gaps, confidence))}


def _bins(scores: FloatArray, binning: Binning, n_bins: int) -> npt.NDArray[np.float64]:
    """Which of the bins in use each ROI is in: `(n, bins)` of 0 and 1."""
    if binning == "equal_width":
        index = np.minimum((scores * n_bins).astype(np.int64), n_bins - 1)
    else:
        index = np.searchsorted(np.sort(scores), scores).astype(np.int64) * n_bins // len(scores)
    members: npt.NDArray[np.float64] = (index[:, None] == np.unique(index)).astype(float)
    return members


@dataclass(frozen=True)
class Calibrator(Result):
    """Platt's calibrator on the logit: probability = sigmoid(slope · logit(score) + intercept).

    A slope below 1 tones down over-confident scores; a negative one says that on the validation part higher scores
    belonged to Normal ROIs.
    """

    slope: float
    intercept: float

    def apply(self, scores: FloatArray) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of Tumor, same shape as `scores`."""
        probabilities: npt.NDArray[np.float64] = expit(self.slope * logits(scores) + self.intercept)
        return probabilities


NO_CALIBRATION: Final = Calibrator(slope=1.0, intercept=0.0)
"""Leaves every score as it is."""


def fit_platt(labels: IntArray, scores: FloatArray, *, balanced: bool = False) -> Calibrator:
    """A calibrator fitted to the validation part by logistic regression without a penalty.

    Why Platt: a validation part of some 65 ROIs can carry two numbers. Isotonic regression fits a step for
    nearly every ROI there, ties ranks, and calls the outermost scores 0 and 1; it needs about a thousand ROIs to
    be the better one (Niculescu-Mizil and Caruana 2005, "Predicting good probabilities with supervised learning").

    The targets are Platt's smoothed ones, (n_tumor + 1) / (n_tumor + 2) and 1 / (n_normal + 2), so that perfectly
    separated scores do not give an infinite slope (Platt 1999, "Probabilistic outputs for support vector machines",
    section 2.2). `balanced` lets both classes weigh alike, whatever their numbers; 0.5 is then where a score speaks for
    neither class. Labels and scores (probabilities of Tumor) are `(n,)`.

    Raises:
        DataError: a class is absent.
    """
    tumor = labels == Label.TUMOR
    n_tumor = int(tumor.sum())
    n_normal = len(labels) - n_tumor
    if min(n_tumor, n_normal) == 0:
        raise DataError(
            f"calibration: both classes are needed, got {n_tumor} Tumor and {n_normal} Normal ROIs; "
            "calibrate on a part that holds both"
        )
    from sklearn.linear_model import LogisticRegression  # here: it takes 1 s to import

    target = np.where(tumor, (n_tumor + 1) / (n_tumor + 2), 1 / (n_normal + 2))
    weight = np.where(tumor, n_normal, n_tumor) * 2 / len(labels) if balanced else 1.0
    of_roi = logits(scores)
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([of_roi, of_roi])[:, None],
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([target * weight, (1 - target) * weight]),
    )
    return Calibrator(float(model.coef_[0, 0]), float(model.intercept_[0]))


def logits(scores: FloatArray) -> npt.NDArray[np.float64]:
    logits: npt.NDArray[np.float64] = logit(np.clip(scores.astype(float), _MARGIN, 1 - _MARGIN))
    return logits


def score_threshold(labels: IntArray, scores: FloatArray) -> float | None:
    """The score that speaks for neither class; None where higher scores do not belong to Tumor, or all lie on one side.

    Labels and scores, which lie between 0 and 1 and grow with the belief in Tumor, are `(n,)`.

    Raises:
        DataError: a class is absent.
    """
    line = fit_platt(labels, scores, balanced=True)
    if line.slope <= 0:
        return None
    threshold = float(expit(-line.intercept / line.slope))
    return threshold if scores.min() < threshold < scores.max() else None


def share_threshold(labels: IntArray, shares: FloatArray, n_patches: int) -> float | None:
    """The vote share that speaks for neither class, half-way between two shares that can occur.

    Shares of 0 and 1 have no logit; k votes of n count as (k + 1/2) / (n + 1), as in the empirical logit. The
    half-way point leaves no ties. Labels and shares of Tumor votes are `(n,)`; each ROI has `n_patches` votes.

    Raises:
        DataError: a class is absent.
    """
    smoothed = (shares * n_patches + 0.5) / (n_patches + 1)
    threshold = score_threshold(labels, smoothed)
    if threshold is None:
        return None
    votes = np.floor(threshold * (n_patches + 1) - 0.5)
    return float((np.clip(votes, 0, n_patches - 1) + 0.5) / n_patches)


Fixed = Literal["recall", "specificity"]
TARGETS: Final = (0.80, 0.90, 0.95)


def threshold_at(labels: IntArray, scores: FloatArray, fixed: Fixed, target: float) -> float:
    """The threshold that reaches `target`, the least value of the rate `fixed`, and is best for the other class.

    For `specificity` it is the smallest threshold with at least that share of Normal ROIs at or below it,
    for `recall` the largest with at least that share of Tumor ROIs above it. Labels and scores, which grow with the
    belief in Tumor, are `(n,)`; `target` is above 0 and at most 1.
    """
    ordered = np.sort(scores[labels == (Label.TUMOR if fixed == "recall" else Label.NORMAL)])
    n_needed = math.ceil(round(target * len(ordered), 9))  # 0.55 · 100 is 55.000000000000007
    if fixed == "specificity":
        return float(ordered[n_needed - 1])
    return float(np.nextafter(ordered[-n_needed], ordered.dtype.type(-np.inf)))


def operating_points(
    val_labels: IntArray, val_scores: FloatArray, labels: IntArray, scores: FloatArray, *, confidence: float
) -> list[dict[str, Any]]:
    """Recall and specificity with Wilson intervals at each of the `TARGETS`: first specificity `fixed`, then recall.

    Thresholds come from validation: chosen on the part that is then judged, they would report the best of many.
    """
    points = []
    fixed: Fixed
    for fixed in ("specificity", "recall"):
        for target in TARGETS:
            threshold = threshold_at(val_labels, val_scores, fixed, target)
            table = confusion(labels, (scores > threshold).astype(np.int64))
            rates = {rate: wilson(*table.trials(rate), confidence).to_dict() for rate in ("recall", "specificity")}
            points.append({"fixed": fixed, "target": target, "threshold": threshold, **rates})
    return points
