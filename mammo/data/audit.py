"""The leakage audit as tables: which ROIs share tissue, in which parts, and the groups that follow.

Source of the question: Yu et al. 2020 split by ROI; ROIs of one film overlap.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Final

import numpy as np
import pandas as pd

from mammo.data.audit_overlap import Progress, find_overlaps
from mammo.data.audit_pair import ByteImages, Overlap
from mammo.errors import DataError

OVERLAP_SCHEMA: Final[dict[str, str]] = {
    "a": "string",
    "b": "string",
    "kind": "string",
    "dx_px": "int32",
    "dy_px": "int32",
    "stretch_x": "float64",
    "stretch_y": "float64",
    "overlap_px": "int32",
    "mad": "float64",
    "correlation": "float64",
}
"""One row for each pair of ROIs that share tissue; the columns are the fields of `Overlap`."""

AUDIT_SCHEMA: Final[dict[str, str]] = {
    "a": "string",
    "b": "string",
    "split_a": "string",
    "split_b": "string",
    **dict(list(OVERLAP_SCHEMA.items())[2:]),
}
"""The same with the part of a split on each side, null where it is unknown."""


def find_pairs(table: pd.DataFrame, images: ByteImages, progress: Progress | None = None) -> pd.DataFrame:
    """Search ROIs for pairs that share tissue, by their pixels alone (`OVERLAP_SCHEMA`).

    Args:
        table: ROI table (`ROI_SCHEMA`); only its ids are read.
        images: uint8 `(n, h, w)`, in its order.
        progress: told of each finished step.
    """
    return pairs_table(find_overlaps(images, table["roi_id"].tolist(), progress=progress))


def pairs_table(overlaps: Sequence[Overlap]) -> pd.DataFrame:
    """Lay overlaps out as a table (`OVERLAP_SCHEMA`)."""
    rows = pd.DataFrame([asdict(overlap) for overlap in overlaps], columns=list(OVERLAP_SCHEMA))
    return rows.astype(OVERLAP_SCHEMA)


def overlaps_of(pairs: pd.DataFrame) -> list[Overlap]:
    """Read the overlaps back from a table that has the columns of `OVERLAP_SCHEMA`."""
    names = [field.name for field in fields(Overlap)]
    return [Overlap(*row) for row in pairs[names].itertuples(index=False, name=None)]


def with_parts(pairs: pd.DataFrame, part_of: pd.Series) -> pd.DataFrame:
    """Say in which part of a split each side of a pair stands (`AUDIT_SCHEMA`).

    Args:
        pairs: `OVERLAP_SCHEMA`.
        part_of: part by ROI id, see `parts_of`.
    """
    placed = pairs.assign(split_a=pairs["a"].map(part_of), split_b=pairs["b"].map(part_of))
    return placed[list(AUDIT_SCHEMA)].astype(AUDIT_SCHEMA)


def parts_of(rows: pd.DataFrame) -> pd.Series:
    """Part by ROI id, from a split (`SPLIT_SCHEMA`) or, in a ROI table, from the published folders."""
    column = "split" if "split" in rows.columns else "published_split"
    return rows.set_index("roi_id")[column].astype("string")


def group_ids(table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The group of each ROI of a table, see `groups_from_overlaps`; `pairs` as `find_pairs` returns them."""
    return groups_from_overlaps(table["roi_id"].tolist(), overlaps_of(pairs), table["patient_id"].tolist())


def groups_from_overlaps(
    roi_ids: Sequence[str], overlaps: Sequence[Overlap], patient_ids: Sequence[str | None] | None = None
) -> list[str]:
    """Join ROIs that share tissue or a patient, directly or through others, into groups.

    Args:
        roi_ids: unique ids.
        overlaps: found between them.
        patient_ids: one for each ROI; null where unknown.

    Returns:
        The group id of each ROI: the smallest ROI id of its group, so it depends on no order.

    Raises:
        DataError: ids repeat, an overlap names an unknown ROI, or the lengths differ.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row_of = {roi_id: row for row, roi_id in enumerate(roi_ids)}
    patients = [None] * len(roi_ids) if patient_ids is None else list(patient_ids)
    if len(row_of) != len(roi_ids) or len(patients) != len(roi_ids):
        raise DataError(
            f"audit: each ROI needs one id of its own and one patient (or null), got {len(roi_ids)} ids, "
            f"{len(row_of)} of them different, and {len(patients)} patients; rebuild the ROI table"
        )
    unknown = sorted({roi_id for overlap in overlaps for roi_id in (overlap.a, overlap.b)} - row_of.keys())
    if unknown:
        raise DataError(
            f"audit: overlaps name ROIs that the table lacks, for example {unknown[:3]}; audit again"
        )
    first_of_patient: dict[str, int] = {}
    edges = [(row_of[overlap.a], row_of[overlap.b]) for overlap in overlaps]
    for row, patient in enumerate(patients):
        if not pd.isna(patient):
            edges.append((first_of_patient.setdefault(str(patient), row), row))
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    joined = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(roi_ids), len(roi_ids)))
    _, components = connected_components(joined, directed=False)
    smallest: dict[int, str] = {}
    for roi_id, component in zip(roi_ids, components, strict=True):
        smallest[component] = min(smallest.get(component, roi_id), roi_id)
    return [smallest[component] for component in components]
