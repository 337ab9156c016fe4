"""The slices of the test part: what the ROI table knows, joined with what the systems decided."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import EvaluateConfig
from mammo.core.records import ABNORMALITIES, SEVERITIES, TISSUES, Label
from mammo.evaluation.metrics import TITLES
from mammo.evaluation.scores import Scores
from mammo.evaluation.slices import SIZES, sizes_of, slices_of
from mammo.report.blocks import Block, Paragraph
from mammo.report.source import SourceFile

AXES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "tissue": ("Tissue (F fatty, G fatty-glandular, D dense-glandular)", TISSUES),
    "abnormality": ("Kind of lesion", tuple(kind for kind in ABNORMALITIES if kind != "NORM")),
    "severity": ("Severity (B benign, M malignant)", SEVERITIES),
    "size": ("Size of the lesion", SIZES),
}
"""What the ROIs are sliced by: title and slices."""


def slices_blocks(slices: SourceFile, systems: Sequence[str]) -> list[Block]:
    """A table of the systems on the slices of each axis, or that the source does not know it."""
    blocks: list[Block] = []
    for axis in slices.each("axes"):
        known = axis.value("systems", systems[0])
        if not known:
            unknown = f"{axis.value('title')}: unknown to the source for all ROIs of the test part. No slice."
            blocks.append(Paragraph((unknown,)))
            continue
        names = list(known[0]["metrics"])
        rows = [axis.at("systems", system, index) for index in range(len(known)) for system in systems]
        lesions = (
            " The AUC sets the slice's Tumor ROIs against all Normal ROIs."
            if axis.value("of_lesions")
            else ""
        )
        table = slices.table(
            ("slice: system", "ROIs", "Tumor", *(TITLES[name] for name in names)),
            (
                (
                    f"{row.value('value')}: {row.place[-2]}",
                    *row.cells(("n_rois", "n_tumor")),
                    *row.cells(names, "metrics"),
                )
                for row in rows
            ),
        )
        caption = f"{axis.value('title')}. n/a: the slice lacks what the metric needs.{lesions}"
        blocks.append(replace(table, caption=caption))
    return blocks


def slice_report(
    predictions: pd.DataFrame, rois: pd.DataFrame, config: EvaluateConfig, data: dict[str, Any]
) -> dict[str, Any]:
    """Every system on every slice of the judged part, ready for JSON.

    Args:
        predictions: one row for each system and ROI, as `systems.predictions` makes them.
        rois: the ROI table.
        config: how the intervals are made.
        data: what was judged, as `assess.describe_data` tells it.

    Returns:
        `data`, and for each of the `AXES` its `title`, `of_lesions`, `n_known` of `n_rois` (for what describes a
        lesion: of the Tumor ROIs), and `systems`: name → list of slices; empty where the source knows nothing.
    """
    known = rois.set_index("roi_id")
    axes: dict[str, Any] = {}
    for axis, (title, names) in AXES.items():
        of_lesions = axis != "tissue"
        systems = {}
        n_known = n_rois = 0
        for system, rows in predictions.groupby("system", sort=False):
            values = _values(axis, known.loc[rows["roi_id"]])
            decided = _decided(rows)
            relevant = (decided.labels == Label.TUMOR) | (not of_lesions)
            n_known, n_rois = int(np.isin(values[relevant], names).sum()), int(relevant.sum())
            if n_known:
                slices = slices_of(decided, values, names, of_lesions=of_lesions, **config.resampling)
                systems[str(system)] = [one.to_dict() for one in slices]
        counts = {"of_lesions": of_lesions, "n_known": n_known, "n_rois": n_rois}
        axes[axis] = {"title": title, **counts, "systems": systems}
    return {"data": data, "axes": axes}


def _decided(rows: pd.DataFrame) -> Scores:
    """The predictions of one system; a ROI's mean score stands for its patches, its decision for its votes."""
    decisions = _classes(rows["decision"])
    return Scores.single(
        rows["roi_id"].to_numpy(dtype=object),
        _classes(rows["label"]),
        rows["group_id"].to_numpy(dtype=object),
        rows["score"].to_numpy(dtype=float)[:, None],
        decisions.astype(float),
        decisions,
    )


def _values(axis: str, rois: pd.DataFrame) -> npt.NDArray[np.object_]:
    if axis == "size":
        return sizes_of(rois["radius_px"].to_numpy(dtype=float, na_value=np.nan))
    values = rois[axis].astype(object)
    return values.where(values.notna(), None).to_numpy(dtype=object)


def _classes(titles: pd.Series) -> npt.NDArray[np.int64]:
    return np.where(titles == Label.TUMOR.title, int(Label.TUMOR), int(Label.NORMAL)).astype(np.int64)
