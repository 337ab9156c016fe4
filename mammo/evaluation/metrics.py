"""The metrics of a set of ROIs; the positive class is Tumor.

A metric whose denominator is zero is undefined: NaN here, null in JSON, "n/a" in tables and pictures, never 0 or 1.

| name | what it is | undefined when |
|---|---|---|
| accuracy | (tp + tn) / n | there is no ROI |
| recall | tp / (tp + fn): sensitivity, recall of Tumor | no ROI is Tumor |
| specificity | tn / (tn + fp): recall of Normal | no ROI is Normal |
| precision | tp / (tp + fp): precision of Tumor | no ROI was called Tumor |
| f1 | 2 tp / (2 tp + fp + fn): of Tumor | no ROI is Tumor or was called Tumor |
| balanced_accuracy | (recall + specificity) / 2 | one class is absent |
| auc | area under the ROC curve of a score | one class is absent |

The counts may carry leading axes, so that one call evaluates thousands of bootstrap resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.errors import DataError
from mammo.core.records import Label

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


def _quotient(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """`top / bottom`, NaN where `bottom` is 0: undefined."""
    quotient: FloatArray = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    return quotient


@dataclass(frozen=True)
class Rate:
    """A quotient of two sums of the counts (tp, fn, fp, tn), each given by its four coefficients."""

    title: str
    numerator: tuple[int, int, int, int]
    denominator: tuple[int, int, int, int]

    def of(self, counts: FloatArray) -> FloatArray:
        """The rate of `counts`, `(..., 4)` → `(...)`; NaN where the denominator is 0."""
        top, bottom = (np.array(sum_of, dtype=float) for sum_of in (self.numerator, self.denominator))
        return _quotient(counts @ top, counts @ bottom)


PROPORTIONS: Final[dict[str, Rate]] = {
    "accuracy": Rate("Accuracy", (1, 0, 0, 1), (1, 1, 1, 1)),
    "recall": Rate("Tumor recall (sensitivity)", (1, 0, 0, 0), (1, 1, 0, 0)),
    "specificity": Rate("Specificity (Normal recall)", (0, 0, 0, 1), (0, 0, 1, 1)),
    "precision": Rate("Tumor precision", (1, 0, 0, 0), (1, 0, 1, 0)),
}
"""Rates that count ROIs among ROIs: successes among trials, so a binomial interval fits them."""

F1: Final = Rate("Tumor F1", (2, 0, 0, 0), (2, 1, 1, 0))

TITLES: Final[dict[str, str]] = {
    **{name: rate.title for name, rate in PROPORTIONS.items()},
    "f1": F1.title,
    "balanced_accuracy": "Balanced accuracy",
    "auc_score": "AUC of the mean patch score",
    "auc_vote_share": "AUC of the vote share",
}
"""Every ROI-level metric with the name that people read, in the order of the reports."""


@dataclass(frozen=True)
class Confusion:
    """Numbers of ROIs by truth and decision; Tumor is positive."""

    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def n(self) -> int:
        """Number of ROIs."""
        return self.tp + self.fn + self.fp + self.tn

    @property
    def counts(self) -> npt.NDArray[np.float64]:
        """The four counts as an array (tp, fn, fp, tn)."""
        return np.array([self.tp, self.fn, self.fp, self.tn], dtype=float)

    def trials(self, name: str) -> tuple[int, int]:
        """Successes and trials of one of the `PROPORTIONS`: for recall, `(tp, tp + fn)`."""
        rate = PROPORTIONS[name]
        return int(self.counts @ np.array(rate.numerator)), int(self.counts @ np.array(rate.denominator))

    def metrics(self) -> dict[str, float]:
        """The `RATES` of these counts; NaN where undefined."""
        return {name: float(rate(self.counts)) for name, rate in RATES.items()}


def confusion(labels: IntArray, decisions: IntArray) -> Confusion:
    """Counts of the decisions about `(n,)` ROIs against their labels (0 Normal, 1 Tumor)."""
    return Confusion(*(int(column.sum()) for column in cells(labels, decisions).T))


def cells(labels: IntArray, decisions: IntArray) -> npt.NDArray[np.float64]:
    """Which cell each of `(n,)` ROIs falls into: `(n, 4)` of 0 and 1, tp, fn, fp, tn."""
    tumor, called = labels == Label.TUMOR, decisions == Label.TUMOR
    of = np.stack([tumor & called, tumor & ~called, ~tumor & called, ~tumor & ~called], axis=1)
    return of.astype(float)


RATES: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    **{name: rate.of for name, rate in PROPORTIONS.items()},
    "f1": F1.of,
    "balanced_accuracy": lambda counts: (PROPORTIONS["recall"].of(counts) + PROPORTIONS["specificity"].of(counts)) / 2,
}
"""Every metric that follows from the counts alone: `(..., 4)` → `(...)`."""


def auc(labels: IntArray, scores: FloatArray) -> float:
    """Area under the ROC curve of any score that grows with the belief in Tumor; NaN when a class is absent.

    The probability that a Tumor ROI scores above a Normal one, ties counting half. It rests on the
    scores, never on decisions (one of the paper's defects).
    """
    return float(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])


def weighted_auc(labels: IntArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """AUC under each of B weightings of the ROIs: `weights` of shape `(B, n)` → `(B,)`.

    An integer weight counts a ROI as often as a resample holds it. NaN where a class weighs nothing.
    """
    if len(labels) == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    tie_starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    tumor = (labels[order] == Label.TUMOR).astype(float)
    tumor_weight = np.add.reduceat(weights[:, order] * tumor, tie_starts, axis=1)
    normal_weight = np.add.reduceat(weights[:, order] * (1 - tumor), tie_starts, axis=1)
    normal_below = np.cumsum(normal_weight, axis=1) - normal_weight
    won = (tumor_weight * (normal_below + normal_weight / 2)).sum(axis=1)
    pairs = tumor_weight.sum(axis=1) * normal_weight.sum(axis=1)
    return _quotient(won, pairs)


def check_arrays(labels: IntArray, **arrays: npt.NDArray[Any]) -> None:
    """Refusal of arrays that do not describe the ROIs of `labels`, one number each.

    Raises:
        DataError: a length differs, or a value is NaN.
    """
    for name, values in arrays.items():
        if values.shape != labels.shape:
            raise DataError(
                f"evaluation: {name} must have one value for each of the {len(labels)} ROIs, got shape "
                f"{values.shape}; pass arrays of the same ROIs"
            )
        if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
            raise DataError(
                f"evaluation: {name} must be numbers, got NaN for {int(np.isnan(values).sum())} of "
                f"{len(values)} ROIs; their model diverged, train it again with a smaller learning rate"
            )
