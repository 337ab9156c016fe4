"""The metrics of a system on slices of the ROIs: by tissue, and by kind, severity and size of the lesion.

Tissue divides Tumor and Normal ROIs alike, so every metric is taken within the slice. What describes a lesion
divides Tumor ROIs only: there the recall is the slice's own, and the AUC sets its Tumor ROIs against all Normal
ROIs of the part. A slice that lacks what a metric needs has no value (NaN), never 0 or 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import Resampling
from mammo.core.records import SEVERITIES, TISSUES, Label
from mammo.evaluation.intervals import Estimate, estimate, summarise
from mammo.evaluation.scores import Scores

OF_LESIONS: Final = ("recall",)
OF_ALL: Final = ("accuracy", "recall", "specificity")
"""The metrics of a slice beside its AUC."""

SIZE_EDGES_PX: Final = (0, 20, 40, 60, np.inf)
SIZES: Final = ("radius under 20 px", "radius 20 to 39 px", "radius 40 to 59 px", "radius 60 px and more")
"""Bins of the lesion's radius. With 60 pixels and more a lesion does not fit its ROI of 120 pixels."""

_KINDS: Final = {
    "CALC": "calcification",
    "CIRC": "well-defined mass",
    "SPIC": "spiculated mass",
    "MISC": "ill-defined mass",
    "ARCH": "architectural distortion",
    "ASYM": "asymmetry",
}
AXES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "tissue": ("Tissue (F fatty, G fatty-glandular, D dense-glandular)", TISSUES),
    "abnormality": (f"Kind of lesion ({', '.join(map(' '.join, _KINDS.items()))})", tuple(_KINDS)),
    "severity": ("Severity (B benign, M malignant)", SEVERITIES),
    "size": ("Size of the lesion", SIZES),
}
"""What the ROIs are sliced by: title and slices."""


def slices_of(
    scores: Scores,
    values: npt.NDArray[np.object_],
    names: Sequence[str],
    *,
    of_lesions: bool,
    **how: Unpack[Resampling],
) -> list[dict[str, Any]]:
    """Judgements of all ROIs taken on each slice, in the order of `names`: of a single run, or means over several.

    A slice, ready for JSON, has its name as `value`, `n_rois`, `n_tumor`, `n_normal` and `metrics`.

    The slice of each ROI is in `values`, `(n,)`: one that is not among `names` belongs to none. Where they describe
    lesions (`of_lesions`), see the module.
    """

    def judge(on: Scores, metrics: Sequence[str]) -> Mapping[str, Estimate]:
        if on.n_runs == 1:
            return summarise(on, metrics=metrics, **how)
        return {metric: estimate(on, metric, **how) for metric in metrics}

    tumor = scores.labels == Label.TUMOR
    slices = []
    for name in names:
        inside = values == name
        n_rois, n_tumor = int(inside.sum()), int((inside & tumor).sum())
        ranked = (inside & tumor) | ~tumor if of_lesions else inside
        rates = judge(scores.where(inside), OF_LESIONS if of_lesions else OF_ALL)
        auc = judge(scores.where(ranked), ["auc_score"])
        counts = {"n_rois": n_rois, "n_tumor": n_tumor, "n_normal": n_rois - n_tumor}
        metrics = {metric: found.to_dict() for metric, found in {**rates, **auc}.items()}
        slices.append({"value": name, **counts, "metrics": metrics})
    return slices


def slices_by_axis(judged: Mapping[str, Scores], rois: pd.DataFrame, **how: Unpack[Resampling]) -> dict[str, Any]:
    """Systems on every slice of the same ROIs of the table `rois`, ready for JSON.

    Each of the `AXES` has its `title`, `of_lesions`, `n_known` of `n_rois` (for what describes a lesion: of the Tumor
    ROIs), and `systems`: name → list of slices; empty where the source knows nothing.
    """
    known, first = rois.set_index("roi_id"), next(iter(judged.values()))
    known["size"] = pd.cut(known["radius_px"].astype(float), SIZE_EDGES_PX, right=False, labels=SIZES)
    axes: dict[str, Any] = {}
    for axis, (title, names) in AXES.items():
        of_lesions = axis != "tissue"
        relevant = first.roi_ids[(first.labels == Label.TUMOR) | (not of_lesions)]
        n_known = int(known.loc[relevant, axis].isin(names).sum())
        axes[axis] = {"title": title, "of_lesions": of_lesions, "n_known": n_known, "n_rois": len(relevant)}
        axes[axis]["systems"] = systems = {}
        for name, scores in judged.items() if n_known else ():
            values = known.loc[scores.roi_ids, axis].astype(object)
            found = values.where(values.notna(), None).to_numpy(dtype=object)
            systems[name] = slices_of(scores, found, names, of_lesions=of_lesions, **how)
    return axes
