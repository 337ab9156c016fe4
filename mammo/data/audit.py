"""The leakage audit: which ROIs share pixels, patients or films, and across which parts of a split.

Source of the question: Yu et al. 2020 split by ROI; ROIs of one film overlap (PAPER, defect 1).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import numpy as np
import pandas as pd

from mammo.data.audit_overlap import find_overlaps
from mammo.data.audit_pair import ByteImages, Overlap
from mammo.errors import DataError

AUDIT_SCHEMA: Final[dict[str, str]] = {
    "a": "string",
    "b": "string",
    "split_a": "string",
    "split_b": "string",
    "kind": "string",
    "dx_px": "int32",
    "dy_px": "int32",
    "stretch_x": "float64",
    "stretch_y": "float64",
    "overlap_px": "int32",
    "mad": "float64",
    "correlation": "float64",
}
"""One row for each overlapping pair; the columns are those of `Overlap`, with the parts added."""


def audit_table(table: pd.DataFrame, images: ByteImages, split: pd.DataFrame | None = None) -> pd.DataFrame:
    """Search the ROIs for overlaps and say where each pair stands (`AUDIT_SCHEMA`).

    Args:
        table: ROI table (`ROI_SCHEMA`).
        images: uint8 `(n, h, w)`, in its order.
        split: a split (`SPLIT_SCHEMA`); without it the published folders count.
    """
    return overlap_table(find_overlaps(images, table["roi_id"].tolist()), table, split)


def overlap_table(
    overlaps: Sequence[Overlap], table: pd.DataFrame, split: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Lay found overlaps out as a table (`AUDIT_SCHEMA`), see `audit_table`; unknown parts are null."""
    part_of = _parts(table, split)
    pairs = pd.DataFrame([asdict(overlap) for overlap in overlaps], columns=[f.name for f in fields(Overlap)])
    pairs["split_a"] = pairs["a"].map(part_of)
    pairs["split_b"] = pairs["b"].map(part_of)
    return pairs[list(AUDIT_SCHEMA)].astype(AUDIT_SCHEMA)


def overlaps_of(pairs: pd.DataFrame) -> list[Overlap]:
    """Read the overlaps back from a table that `overlap_table` made."""
    names = [field.name for field in fields(Overlap)]
    return [Overlap(*row) for row in pairs[names].itertuples(index=False, name=None)]


def group_ids(table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The group of each ROI of a table, see `groups_from_overlaps`; `pairs` as `audit_table` returns them."""
    return groups_from_overlaps(table["roi_id"].tolist(), overlaps_of(pairs), table["patient_id"].tolist())


def _parts(table: pd.DataFrame, split: pd.DataFrame | None) -> pd.Series:
    rows = (
        table.set_index("roi_id")["published_split"] if split is None else split.set_index("roi_id")["split"]
    )
    return rows.astype("string")


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


def leakage_summary(
    pairs: pd.DataFrame, table: pd.DataFrame, split: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Count what the parts of a split share, ready for JSON.

    Args:
        pairs: the overlapping pairs (`AUDIT_SCHEMA`), with the parts of the same split.
        table: ROI table.
        split: as in `audit_table`.

    Returns:
        `n_pairs`, `pairs_by_kind`, `pairs_by_parts` ("test-train": 3; only pairs whose parts are known),
        `n_pairs_across_parts`, `leaked_test_rois` (test ROIs whose tissue is in train or val), and
        `shared_patients` and `shared_films`: how many have ROIs in more than one part, null where the
        source knows none.
    """
    known = pairs.dropna(subset=["split_a", "split_b"])
    parts = ["-".join(sorted(both)) for both in zip(known["split_a"], known["split_b"], strict=True)]
    across = known[known["split_a"] != known["split_b"]]
    leaked = set(across.loc[across["split_a"] == "test", "a"]) | set(
        across.loc[across["split_b"] == "test", "b"]
    )
    part_of = table["roi_id"].map(_parts(table, split))
    return {
        "n_pairs": len(pairs),
        "pairs_by_kind": dict(sorted(Counter(pairs["kind"].tolist()).items())),
        "pairs_by_parts": dict(sorted(Counter(parts).items())),
        "n_pairs_across_parts": len(across),
        "leaked_test_rois": sorted(leaked),
        "shared_patients": _shared(table["patient_id"], part_of),
        "shared_films": _shared(table["film_id"], part_of),
    }


def _shared(owners: pd.Series, part_of: pd.Series) -> int | None:
    """How many patients (or films) have ROIs in more than one part; None where none is known."""
    if owners.isna().all() or part_of.isna().all():
        return None
    n_parts = part_of.groupby(owners.to_numpy()).nunique()
    return int((n_parts > 1).sum())
