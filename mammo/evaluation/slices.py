"""The metrics of a system on slices of the ROIs: by tissue, and by kind, severity and size of the lesion.

Tissue divides Tumor and Normal ROIs alike, so every metric is taken within the slice. What describes a lesion
divides Tumor ROIs only: there the recall is the slice's own, and the AUC sets its Tumor ROIs against all Normal
ROIs of the part, because a slice has no Normal ROIs of its own.

A slice that lacks what a metric needs has no value (NaN), never 0 or 1; few ROIs show in wide intervals and in `n`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, bootstrap, wilson
from mammo.evaluation.metrics import (
    FloatArray,
    IntArray,
    check_arrays,
    check_classes,
    confusion,
    weighted_auc,
)

LESION_METRICS: Final = ("recall", "auc_score")
ALL_METRICS: Final = ("accuracy", "recall", "specificity", "auc_score")

SIZE_EDGES_PX: Final = (20, 40, 60)
SIZES: Final = ("radius under 20 px", "radius 20 to 39 px", "radius 40 to 59 px", "radius 60 px and more")
"""Bins of the lesion's radius. With 60 pixels and more a lesion does not fit its ROI of 120 pixels."""


@dataclass(frozen=True)
class Slice:
    """A system on the ROIs of one slice.

    Attributes:
        value: what the ROIs share, such as `CIRC`.
        n_tumor: Tumor ROIs in the slice.
        n_normal: Normal ROIs in the slice.
        estimates: metric → value with interval; NaN where undefined.
    """

    value: str
    n_tumor: int
    n_normal: int
    estimates: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; NaN becomes None."""
        return {
            "value": self.value,
            "n_rois": self.n_tumor + self.n_normal,
            "n_tumor": self.n_tumor,
            "n_normal": self.n_normal,
            "metrics": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
        }


@dataclass(frozen=True)
class Decided:
    """A system's judgement of a part: truth, decision, score and group of each ROI, each of shape `(n,)`."""

    labels: IntArray
    decisions: IntArray
    scores: FloatArray
    groups: npt.NDArray[Any]


def slices_of(
    decided: Decided,
    values: npt.NDArray[np.object_],
    names: Sequence[str],
    *,
    of_lesions: bool,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Slice]:
    """Judge a system on each slice.

    Args:
        decided: the system's judgement of the whole part.
        values: the slice of each ROI, shape `(n,)`; a value that is not among `names` belongs to none.
        names: the slices, in the order of the result.
        of_lesions: the values describe lesions, see the module.
        n_bootstrap: resamples of the groups.
        seed: seed of the resamples.
        confidence: nominal coverage.

    Raises:
        DataError: the arrays do not describe the same ROIs.
    """
    check_arrays(decided.labels, decisions=decided.decisions, scores=decided.scores, values=values)
    check_classes("decisions", decided.decisions)
    settings = {"n_bootstrap": n_bootstrap, "seed": seed, "confidence": confidence}
    return [_slice(decided, values == name, name, of_lesions, settings) for name in names]


def _slice(
    decided: Decided, inside: npt.NDArray[np.bool_], name: str, of_lesions: bool, settings: Mapping[str, Any]
) -> Slice:
    tumor = decided.labels == Label.TUMOR
    table = confusion(decided.labels[inside], decided.decisions[inside])
    n_groups = len(np.unique(decided.groups[inside]))
    estimates = {
        metric: wilson(*table.trials(metric), settings["confidence"], n_groups=n_groups)
        for metric in (LESION_METRICS if of_lesions else ALL_METRICS)
        if metric != "auc_score"
    }
    ranked = (inside & tumor) | ~tumor if of_lesions else inside
    estimates["auc_score"] = _auc(decided, ranked, settings)
    return Slice(name, int((inside & tumor).sum()), int((inside & ~tumor).sum()), estimates)


def _auc(decided: Decided, ranked: npt.NDArray[np.bool_], settings: Mapping[str, Any]) -> Estimate:
    labels, scores = decided.labels[ranked], decided.scores[ranked]
    return bootstrap(
        lambda weights: weighted_auc(labels, scores, weights), decided.groups[ranked], **settings
    )


def sizes_of(radius_px: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.object_]:
    """The bin (of `SIZES`) of each lesion's radius in pixels, `(n,)`; NaN (no lesion, or not known) is None."""
    known = ~np.isnan(radius_px)
    binned = np.full(len(radius_px), None, dtype=object)
    binned[known] = np.array(SIZES, dtype=object)[np.digitize(radius_px[known], SIZE_EDGES_PX)]
    return binned
