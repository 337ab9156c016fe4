"""The scores and decisions of one fit or of several runs about the same ROIs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.files import missing_file
from mammo.core.records import Label
from mammo.evaluation.metrics import (
    RATES,
    TITLES,
    FloatArray,
    IntArray,
    cells,
    check_arrays,
    weighted_auc,
)

METRICS: Final = tuple(name for name in TITLES if name != "f1")
"""The metrics of runs: the columns of the ledger."""

_OF_ROIS: Final = ("roi_ids", "labels", "groups")
"""The arrays without an axis of runs."""


@dataclass(frozen=True)
class Scores:
    """Judgements of the same n ROIs in R runs, a run being one seed on one set of folds; R = 1 for a single fit.

    Attributes:
        roi_ids, labels: `(n,)`, labels 0 Normal and 1 Tumor.
        groups: group of each ROI (a patient, or ROIs that share pixels), `(n,)`.
        patch_scores: probability of Tumor of each patch, `(R, n, n_patches)`.
        shares: share of Tumor votes, `(R, n)`.
        decisions: 0 or 1, `(R, n)`.
        folds: which model of the run judged the ROI, `(R, n)`.
        probabilities: calibrated probability of Tumor, `(R, n)`; None where nothing was calibrated (the floor).
        sets: whether Normal and Tumor are in each prediction set, `(R, n, 2)`; likewise.

    Raises:
        DataError: scores or decisions are of other ROIs, or a score is NaN.
    """

    roi_ids: npt.NDArray[Any]
    labels: IntArray
    groups: npt.NDArray[Any]
    patch_scores: FloatArray
    shares: FloatArray
    decisions: IntArray
    folds: IntArray
    probabilities: FloatArray | None = None
    sets: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_arrays(self.labels, roi_ids=self.roi_ids, groups=self.groups)
        for scores, shares, decisions in zip(self.scores, self.shares, self.decisions, strict=True):
            check_arrays(self.labels, scores=scores, shares=shares, decisions=decisions)

    @classmethod
    def single(
        cls,
        roi_ids: npt.NDArray[Any],
        labels: IntArray,
        groups: npt.NDArray[Any],
        patch_scores: FloatArray,
        shares: FloatArray,
        decisions: IntArray,
        **fitted: npt.NDArray[Any] | None,
    ) -> Self:
        """The judgement of one fit: arrays without the axis of the runs; `fitted` are `probabilities` and `sets`."""
        folds = np.zeros((1, len(labels)), dtype=np.int64)
        rest = {name: None if values is None else values[None] for name, values in fitted.items()}
        return cls(roi_ids, labels, groups, patch_scores[None], shares[None], decisions[None], folds, **rest)

    @classmethod
    def of_predictions(cls, rows: pd.DataFrame) -> Self:
        """One system's rows of `read_predictions`: the mean score of a ROI stands for its patches."""
        labels, decided = ((rows[of] == Label.TUMOR.title).to_numpy().astype(np.int64) for of in ("label", "decision"))
        roi_ids, groups = (rows[of].to_numpy(dtype=object) for of in ("roi_id", "group_id"))
        score, shares, sure = (rows[of].to_numpy(float) for of in ("score", "vote_share", "probability"))
        return cls.single(roi_ids, labels, groups, score[:, None], shares, decided, probabilities=sure)

    @classmethod
    def of_runs(cls, runs: Sequence[Sequence[Self]]) -> Self:
        """Several runs, each from the single judgements of its folds; the ROIs come out in the order of their ids.

        Every run must judge the same ROIs. Where folds have other numbers of patches than others, the mean score of a
        ROI stands for its patches.
        """
        grids = {one.patch_scores.shape[2] for folds in runs for one in folds}

        def joined(folds: Sequence[Self]) -> Self:
            parts = folds if len(grids) == 1 else [one.with_scores(one.scores) for one in folds]
            order = np.argsort(np.concatenate([one.roi_ids for one in parts]))
            fields = {name: np.concatenate([getattr(one, name) for one in parts])[order] for name in _OF_ROIS}
            fields |= {
                name: np.concatenate([getattr(one, name) for one in parts], axis=1)[:, order]
                for name in parts[0]._of_runs
            }
            return cls(**fields)

        of_runs = [joined(folds) for folds in runs]
        first = of_runs[0]
        return replace(
            first,
            **{name: np.concatenate([getattr(one, name) for one in of_runs]) for name in first._of_runs},
        )

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.patch_scores)

    @cached_property
    def scores(self) -> FloatArray:
        """Mean patch score, `(R, n)`."""
        mean: FloatArray = self.patch_scores.mean(axis=-1)
        return mean

    def with_scores(self, scores: FloatArray) -> Self:
        """The same decisions with another score of each ROI, `(R, n)`."""
        return replace(self, patch_scores=scores[..., None])

    def only(self, roi_ids: npt.NDArray[Any]) -> Self:
        """The same runs on the ROIs that `roi_ids` names."""
        return self.where(np.isin(self.roi_ids, roi_ids))

    def where(self, kept: npt.NDArray[np.bool_]) -> Self:
        """The same runs on some of the ROIs, `(n,)`."""
        fields = {name: getattr(self, name)[kept] for name in _OF_ROIS}
        return replace(self, **fields, **{name: getattr(self, name)[:, kept] for name in self._of_runs})

    @property
    def _of_runs(self) -> list[str]:
        """The arrays with an axis of runs."""
        names = ("patch_scores", "shares", "decisions", "folds", "probabilities", "sets")
        return [name for name in names if getattr(self, name) is not None]

    def by_patch(self, threshold: float) -> Self:
        """Every patch as a row with its ROI's label, group and fold; it is called Tumor above the threshold."""
        n_patches = self.patch_scores.shape[2]
        flat = self.patch_scores.reshape(self.n_runs, -1)
        called = flat > threshold
        return type(self)(
            np.array([f"{roi} {patch}" for roi in self.roi_ids for patch in range(n_patches)], dtype=str),
            np.repeat(self.labels, n_patches),
            np.repeat(self.groups, n_patches),
            flat[..., None],
            called.astype(float),
            called.astype(np.int64),
            np.repeat(self.folds, n_patches, axis=1),
        )


def read_predictions(path: Path) -> pd.DataFrame:
    """What each system of an evaluation said about each ROI, a row for each; ids are text, also those of digits alone.

    Raises:
        DataError: the file is missing.
    """
    if not path.is_file():
        raise missing_file(path)
    return pd.read_csv(path, dtype=dict.fromkeys(("system", "roi_id", "group_id", "label", "decision"), str))


def run_values(scores: Scores, metric: str, weights: FloatArray) -> FloatArray:
    """One of the `METRICS` in each run under each of B weightings of the ROIs: `(B, n)` → `(R, B)`; NaN: undefined."""
    labels = scores.labels
    if metric in RATES:
        return np.stack([RATES[metric](weights @ cells(labels, decided)) for decided in scores.decisions])
    evidence = scores.scores if metric == "auc_score" else scores.shares
    runs = zip(evidence, scores.folds, strict=True)
    return np.stack([auc_within_folds(labels, of_run, folds, weights) for of_run, folds in runs])


def auc_within_folds(labels: IntArray, scores: FloatArray, folds: IntArray, weights: FloatArray) -> FloatArray:
    """Share of the pairs (Tumor, Normal) of one fold in which the Tumor ROI scores higher: `(B, n)` → `(B,)`.

    Scores of different models have no common scale, so pairs across folds would blur the AUC. With one fold this is the
    AUC. NaN where no fold holds both classes.
    """
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for fold in np.unique(folds):
        inside = folds == fold
        part, tumor = weights[:, inside], labels[inside] == Label.TUMOR
        n_pairs = part @ tumor * (part @ ~tumor)
        area = weighted_auc(labels[inside], scores[inside], part)
        won += np.where(n_pairs > 0, area, 0) * n_pairs
        pairs += n_pairs
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
