"""Metrics of repeated judgements: the same ROIs judged in several runs, a run being one seed on one set of folds.

A metric is computed in each run and averaged over the runs. Its interval resamples groups of ROIs and recomputes that
average: it says how much the ROIs at hand matter. How much training matters is the standard deviation over the runs.

An AUC compares a Tumor ROI only with Normal ROIs of the same fold: scores of different models have no common scale, so
pairs across folds would blur it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.errors import DataError
from mammo.evaluation.intervals import Estimate, Statistic, bootstrap, nan_to_none
from mammo.evaluation.metrics import (
    PROPORTIONS,
    TITLES,
    FloatArray,
    IntArray,
    balanced_accuracy,
    cells,
    weighted_auc,
)
from mammo.records import Label

METRICS: Final = tuple(name for name in TITLES if name != "f1")
"""What a row of the ledger holds."""


@dataclass(frozen=True)
class Runs:
    """R runs over the same n ROIs.

    Attributes:
        roi_ids: `(n,)`.
        labels: 0 Normal, 1 Tumor, `(n,)`.
        groups: group of each ROI, `(n,)`.
        folds: which model of the run judged the ROI, `(R, n)`.
        scores: mean patch score, `(R, n)`.
        shares: share of Tumor votes, `(R, n)`.
        decisions: 0 or 1, `(R, n)`.
    """

    roi_ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    decisions: npt.NDArray[np.int64]

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.scores)

    def only(self, roi_ids: npt.NDArray[np.str_]) -> "Runs":
        """The same runs on the ROIs that `roi_ids` names."""
        kept = np.isin(self.roi_ids, roi_ids)
        return Runs(
            self.roi_ids[kept],
            self.labels[kept],
            self.groups[kept],
            self.folds[:, kept],
            self.scores[:, kept],
            self.shares[:, kept],
            self.decisions[:, kept],
        )


@dataclass(frozen=True)
class RunEstimate:
    """A metric's mean over the runs with its interval over the ROIs, and its spread over the runs."""

    estimate: Estimate
    sd_runs: float
    n_runs: int

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON, flat; NaN becomes None."""
        return self.estimate.to_dict() | nan_to_none({"sd_runs": self.sd_runs, "n_runs": self.n_runs})


def run_values(runs: Runs, metric: str, weights: FloatArray) -> FloatArray:
    """The metric in each run under each of B weightings of the ROIs: `(B, n)` → `(R, B)`; NaN where undefined."""
    return np.stack([_OF[metric](runs, run, weights) for run in range(runs.n_runs)])


def _rate(name: str) -> Callable[[Runs, int, FloatArray], FloatArray]:
    def of(runs: Runs, run: int, weights: FloatArray) -> FloatArray:
        counts = weights @ cells(runs.labels, runs.decisions[run])
        return balanced_accuracy(counts) if name == "balanced_accuracy" else PROPORTIONS[name].of(counts)

    return of


def _auc_of(evidence: str) -> Callable[[Runs, int, FloatArray], FloatArray]:
    def of(runs: Runs, run: int, weights: FloatArray) -> FloatArray:
        return auc_within_folds(runs.labels, getattr(runs, evidence)[run], runs.folds[run], weights)

    return of


_OF: Final[dict[str, Callable[[Runs, int, FloatArray], FloatArray]]] = {
    **{name: _rate(name) for name in (*PROPORTIONS, "balanced_accuracy")},
    "auc_score": _auc_of("scores"),
    "auc_vote_share": _auc_of("shares"),
}


def auc_within_folds(
    labels: IntArray, scores: FloatArray, folds: IntArray, weights: FloatArray
) -> FloatArray:
    """Share of the pairs (Tumor, Normal) of one fold in which the Tumor ROI scores higher: `(B, n)` → `(B,)`.

    With one fold this is the AUC. NaN where no fold holds both classes.
    """
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for fold in np.unique(folds):
        inside = folds == fold
        part = weights[:, inside]
        n_pairs = part @ (labels[inside] == Label.TUMOR) * (part @ (labels[inside] == Label.NORMAL))
        area = weighted_auc(labels[inside], scores[inside], part)
        won += np.where(n_pairs > 0, area, 0) * n_pairs
        pairs += n_pairs
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)


def mean_over_runs(runs: Runs, metric: str) -> Statistic:
    """The statistic that intervals are stated for; undefined where the metric is undefined in a run."""

    def statistic(weights: FloatArray) -> FloatArray:
        mean: FloatArray = run_values(runs, metric, weights).mean(axis=0)
        return mean

    return statistic


def estimate(runs: Runs, metric: str, *, n_bootstrap: int, seed: int, confidence: float) -> RunEstimate:
    """One metric of some runs, with its interval."""
    found = bootstrap(
        mean_over_runs(runs, metric),
        runs.groups,
        n_bootstrap=n_bootstrap,
        seed=seed,
        confidence=confidence,
        n=_denominator(runs, metric),
    )
    values = run_values(runs, metric, np.ones((1, len(runs.labels))))[:, 0]
    return RunEstimate(found, _spread(values), runs.n_runs)


def difference(a: Runs, b: Runs, metric: str, *, n_bootstrap: int, seed: int, confidence: float) -> Estimate:
    """Mean over the runs of a minus that of b, on the same resamples of the groups.

    The two may judge the same ROIs (then this is the paired difference) or some in common: a ROI that both judge is
    in a resample for both or for neither.

    Raises:
        DataError: the two disagree about a ROI's label or group.
    """
    roi_ids, first = np.unique(np.concatenate([a.roi_ids, b.roi_ids]), return_index=True)
    groups = np.concatenate([a.groups, b.groups])[first]
    rows_a, rows_b = np.searchsorted(roi_ids, a.roi_ids), np.searchsorted(roi_ids, b.roi_ids)
    labels = np.concatenate([a.labels, b.labels])[first]
    for runs, rows in ((a, rows_a), (b, rows_b)):
        if (groups[rows] != runs.groups).any() or (labels[rows] != runs.labels).any():
            raise DataError(
                "evaluation: two sets of runs must agree about the label and the group of each ROI, got different "
                "ones; compare runs on the same data"
            )
    of_a, of_b = mean_over_runs(a, metric), mean_over_runs(b, metric)

    def statistic(weights: FloatArray) -> FloatArray:
        return of_a(weights[:, rows_a]) - of_b(weights[:, rows_b])

    return bootstrap(statistic, groups, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence)


def _spread(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _denominator(runs: Runs, metric: str) -> int:
    """ROIs that the metric is a share of; for precision the mean number of ROIs called Tumor."""
    if metric == "recall":
        return int((runs.labels == Label.TUMOR).sum())
    if metric == "specificity":
        return int((runs.labels == Label.NORMAL).sum())
    if metric == "precision":
        return round(float(runs.decisions.sum(axis=1).mean()))
    return len(runs.labels)
