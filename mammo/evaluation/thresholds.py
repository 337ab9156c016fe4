"""Thresholds chosen on validation: where a score speaks for neither class, and at a fixed recall or specificity."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.special import expit

from mammo.core.errors import DataError
from mammo.core.records import Label
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.intervals import Estimate, Result, wilson
from mammo.evaluation.metrics import FloatArray, IntArray, check_arrays, confusion


def score_threshold(labels: IntArray, scores: FloatArray) -> float | None:
    """The score that speaks for neither class, or None where the scores do not tell the classes apart.

    None means: higher scores do not belong to Tumor ROIs, or all scores lie on one side.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        scores: between 0 and 1, growing with the belief in Tumor, shape `(n,)`.

    Raises:
        DataError: a class is absent, or a score is no probability.
    """
    line = fit_platt(labels, scores, balanced=True)
    if line.slope <= 0:
        return None
    threshold = float(expit(-line.intercept / line.slope))
    return threshold if scores.min() < threshold < scores.max() else None


def share_threshold(labels: IntArray, shares: FloatArray, n_patches: int) -> float | None:
    """The vote share that speaks for neither class, half-way between two shares that can occur.

    Shares of 0 and 1 have no logit; k votes of n count as (k + 1/2) / (n + 1), as in the empirical logit. The
    half-way point leaves no ties.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        shares: shares of Tumor votes, shape `(n,)`.
        n_patches: votes of each ROI.

    Raises:
        DataError: a class is absent, or a share is no share.
    """
    smoothed = (shares * n_patches + 0.5) / (n_patches + 1)
    threshold = score_threshold(labels, smoothed)
    if threshold is None:
        return None
    votes = np.floor(threshold * (n_patches + 1) - 0.5)
    return float((np.clip(votes, 0, n_patches - 1) + 0.5) / n_patches)


Fixed = Literal["recall", "specificity"]
TARGETS: Final = (0.80, 0.90, 0.95)


@dataclass(frozen=True)
class OperatingPoint(Result):
    """One threshold and what it gives on the judged part.

    Attributes:
        fixed: the rate that validation held at `target`; `recall` is of Tumor (sensitivity).
        target: the least value it had to reach there.
        threshold: a ROI is called Tumor when its score is above this.
        recall: Tumor recall on the judged part.
        specificity: specificity on the judged part.
    """

    fixed: Fixed
    target: float
    threshold: float
    recall: Estimate
    specificity: Estimate


def threshold_at(labels: IntArray, scores: FloatArray, fixed: Fixed, target: float) -> float:
    """Choose the threshold that reaches `target` and is best for the other class.

    For `specificity` it is the smallest threshold with at least that share of Normal ROIs at or below it,
    for `recall` the largest with at least that share of Tumor ROIs above it.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        scores: any score that grows with the belief in Tumor, shape `(n,)`.
        fixed: which rate to hold.
        target: the least value it may have, above 0 and at most 1.

    Raises:
        DataError: the class of the fixed rate is absent, or the target is out of range.
    """
    check_arrays(labels, scores=scores)
    if not 0 < target <= 1:
        raise DataError(
            f"operating point: the target must be above 0 and at most 1, got {target}; 0.9 is usual"
        )
    label = Label.TUMOR if fixed == "recall" else Label.NORMAL
    ordered = np.sort(scores[labels == label])
    if len(ordered) == 0:
        raise DataError(
            f"operating point: {fixed} needs {label.title} ROIs in the validation part, got none; "
            "use a split whose validation part holds both classes"
        )
    n_needed = math.ceil(round(target * len(ordered), 9))  # 0.55 · 100 is 55.000000000000007
    if fixed == "specificity":
        return float(ordered[n_needed - 1])
    return float(np.nextafter(ordered[-n_needed], ordered.dtype.type(-np.inf)))


def operating_points(
    val_labels: IntArray,
    val_scores: FloatArray,
    labels: IntArray,
    scores: FloatArray,
    *,
    confidence: float,
    targets: tuple[float, ...] = TARGETS,
) -> list[OperatingPoint]:
    """Recall and specificity with Wilson intervals at each target: first specificity fixed, then recall.

    Thresholds come from validation: chosen on the part that is then judged, they would report the best of many.

    Args:
        val_labels: labels of the part that chooses the thresholds.
        val_scores: scores of that part.
        labels: labels of the part to be judged.
        scores: scores of that part, by the same system.
        confidence: of the intervals.
        targets: values that the fixed rate must reach on the choosing part.

    Raises:
        DataError: arrays do not describe the same ROIs, or validation lacks a class.
    """
    check_arrays(labels, scores=scores)
    points = []
    fixed: Fixed
    for fixed in ("specificity", "recall"):
        for target in targets:
            threshold = threshold_at(val_labels, val_scores, fixed, target)
            table = confusion(labels, (scores > threshold).astype(np.int64))
            recall = wilson(*table.trials("recall"), confidence)
            specificity = wilson(*table.trials("specificity"), confidence)
            points.append(OperatingPoint(fixed, target, threshold, recall, specificity))
    return points
