"""Metrics of repeated judgements: the same ROIs judged in several runs, a run being one seed on one set of folds.

A metric is computed in each run and averaged over the runs. Its interval resamples groups of ROIs and, apart from them,
runs: the first says how much the ROIs at hand matter, the second how much training and folds do. R − 1 of R runs are
drawn, with replacement, so that the variance over the runs is not too small for few runs (Rao and Wu 1988, "Resampling
inference with complex survey data"). The interval errs on the wide side where the ROIs matter most: what is luck of one
run with one ROI varies with the groups, with the runs and with both, so up to three times. Two runs know little of
training: where fits differ as much as ROIs do, they are too few. With a single run nothing is known of it, and only
groups vary.

An AUC compares a Tumor ROI only with Normal ROIs of the same fold: scores of different models have no common scale, so
pairs across folds would blur it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.errors import DataError
from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, bca, nan_to_none, resampled_counts
from mammo.evaluation.metrics import (
    PROPORTIONS,
    TITLES,
    FloatArray,
    IntArray,
    balanced_accuracy,
    cells,
    weighted_auc,
)

METRICS: Final = tuple(name for name in TITLES if name != "f1")
"""What a row of the ledger holds."""

_SLICE: Final = 2_000_000
"""Weights of resamples that are held at a time."""


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


def estimate(runs: Runs, metric: str, *, n_bootstrap: int, seed: int, confidence: float) -> RunEstimate:
    """One metric of some runs, with its interval."""

    def values(weights: FloatArray) -> list[FloatArray]:
        return [run_values(runs, metric, weights)]

    found = _interval(values, runs.groups, _denominator(runs, metric), n_bootstrap, seed, confidence)
    of_runs = run_values(runs, metric, np.ones((1, len(runs.labels))))[:, 0]
    return RunEstimate(found, _spread(of_runs), runs.n_runs)


def difference(
    a: Runs, b: Runs, metric: str, *, n_bootstrap: int, seed: int, confidence: float
) -> RunEstimate:
    """Mean over the runs of a minus that of b, on the same resamples of the groups.

    The two may judge the same ROIs (then this is the paired difference) or some in common: a ROI that both judge is
    in a resample for both or for neither. As many runs on both sides are taken as pairs (the same seed and folds) and
    resampled as such.

    Raises:
        DataError: the two disagree about a ROI's label or group.
    """
    groups, rows_a, rows_b = _common(a, b)
    paired = a.n_runs == b.n_runs

    def values(weights: FloatArray) -> list[FloatArray]:
        of_a = run_values(a, metric, weights[:, rows_a])
        of_b = run_values(b, metric, weights[:, rows_b])
        return [of_a - of_b] if paired else [of_a, -of_b]

    found = _interval(values, groups, len(groups), n_bootstrap, seed, confidence)
    of_runs = values(np.ones((1, len(groups))))
    return RunEstimate(found, _spread(of_runs[0][:, 0]) if paired else float("nan"), min(a.n_runs, b.n_runs))


def _common(a: Runs, b: Runs) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Groups of all ROIs of the two, and where in them the ROIs of each stand."""
    roi_ids, first = np.unique(np.concatenate([a.roi_ids, b.roi_ids]), return_index=True)
    groups, labels = np.concatenate([a.groups, b.groups])[first], np.concatenate([a.labels, b.labels])[first]
    rows_a, rows_b = np.searchsorted(roi_ids, a.roi_ids), np.searchsorted(roi_ids, b.roi_ids)
    for runs, rows in ((a, rows_a), (b, rows_b)):
        if (groups[rows] != runs.groups).any() or (labels[rows] != runs.labels).any():
            raise DataError(
                "evaluation: two sets of runs must agree about the label and the group of each ROI, got different "
                "ones; compare runs on the same data"
            )
    return groups, rows_a, rows_b


def _interval(
    values: Callable[[FloatArray], list[FloatArray]],
    groups: npt.NDArray[np.str_],
    n: int,
    n_bootstrap: int,
    seed: int,
    confidence: float,
) -> Estimate:
    """BCa interval of the sum of the terms' means over their runs.

    Args:
        values: weights `(B, n)` → terms, each `(R, B)` with a number of runs of its own.
        groups: group of each ROI, `(n,)`.
        n: ROIs in the metric's denominator.
        n_bootstrap: resamples.
        seed: of the resamples.
        confidence: nominal coverage.
    """
    names, member_of = np.unique(groups, return_inverse=True)
    counts = resampled_counts(len(names), n_bootstrap, seed)
    rng = np.random.default_rng([seed, 1])
    pieces = []
    # In slices: the weights of all resamples of thousands of patches would fill the memory.
    for part in np.array_split(counts, max(1, n_bootstrap * len(groups) // _SLICE)):
        terms = values(part[:, member_of].astype(float))
        pieces.append(sum(_mean_of_some_runs(term, rng) for term in terms))
    draws = np.concatenate(pieces)
    left_one_out = _mean_of(values, (member_of != np.arange(len(names))[:, None]).astype(float))
    value = float(_mean_of(values, np.ones((1, len(groups))))[0])
    low, high = bca(value, draws, left_one_out, confidence)
    several = any(len(term) > 1 for term in terms)
    method = "BCa bootstrap of groups and runs" if several else "BCa bootstrap of groups"
    return Estimate(value, low, high, method, n, len(names), confidence, int(np.isnan(draws).sum()))


def _mean_of(values: Callable[[FloatArray], list[FloatArray]], weights: FloatArray) -> FloatArray:
    total: FloatArray = np.sum([term.mean(axis=0) for term in values(weights)], axis=0)
    return total


def _mean_of_some_runs(term: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Mean over the runs drawn in each resample, `(R, B)` → `(B,)`; a run not drawn may be undefined there."""
    weights = _some_runs(term, rng)
    total: FloatArray = np.where(weights > 0, weights * term, 0).sum(axis=0)
    return total


def _some_runs(term: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Weights of the runs in each resample, `(R, B)`; columns sum to 1."""
    n_runs, n_resamples = term.shape
    if n_runs == 1:
        return np.ones_like(term)
    drawn = rng.multinomial(n_runs - 1, np.full(n_runs, 1 / n_runs), size=n_resamples)
    weights: FloatArray = drawn.T / (n_runs - 1)
    return weights


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
