"""The metrics of a system on slices of the ROIs: by tissue, and by kind, severity and size of the lesion.

Tissue divides Tumor and Normal ROIs alike, so every metric is taken within the slice. What describes a lesion
divides Tumor ROIs only: there the recall is the slice's own, and the AUC sets its Tumor ROIs against all Normal
ROIs of the part. A slice that lacks what a metric needs has no value (NaN), never 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt

from mammo.core.config import Resampling
from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, Result, summarise
from mammo.evaluation.scores import Scores

OF_LESIONS: Final = ("recall",)
OF_ALL: Final = ("accuracy", "recall", "specificity")
"""The metrics of a slice beside its AUC."""

SIZE_EDGES_PX: Final = (20, 40, 60)
SIZES: Final = ("radius under 20 px", "radius 20 to 39 px", "radius 40 to 59 px", "radius 60 px and more")
"""Bins of the lesion's radius. With 60 pixels and more a lesion does not fit its ROI of 120 pixels."""


@dataclass(frozen=True)
class Slice(Result):
    """A system on the ROIs of one slice, which share `value` (such as `CIRC`); metrics are NaN where undefined."""

    value: str
    n_rois: int
    n_tumor: int
    n_normal: int
    metrics: dict[str, Estimate]


def slices_of(
    scores: Scores,
    values: npt.NDArray[np.object_],
    names: Sequence[str],
    *,
    of_lesions: bool,
    **how: Unpack[Resampling],
) -> list[Slice]:
    """A single run on the whole part judged on each slice, in the order of `names`.

    The slice of each ROI is in `values`, `(n,)`: one that is not among `names` belongs to none. Where they describe
    lesions (`of_lesions`), see the module.
    """
    tumor = scores.labels == Label.TUMOR
    slices = []
    for name in names:
        inside = values == name
        n_rois, n_tumor = int(inside.sum()), int((inside & tumor).sum())
        ranked = (inside & tumor) | ~tumor if of_lesions else inside
        rates = summarise(scores.where(inside), metrics=OF_LESIONS if of_lesions else OF_ALL, **how)
        auc = summarise(scores.where(ranked), metrics=["auc_score"], **how)
        slices.append(Slice(name, n_rois, n_tumor, n_rois - n_tumor, rates | auc))
    return slices


def sizes_of(radius_px: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.object_]:
    """The bin (of `SIZES`) of each lesion's radius in pixels, `(n,)`; NaN (no lesion, or not known) is None."""
    names: npt.NDArray[np.object_] = np.array(SIZES, dtype=object)[np.digitize(radius_px, SIZE_EDGES_PX)]
    names[np.isnan(radius_px)] = None
    return names
