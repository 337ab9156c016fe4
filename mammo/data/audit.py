"""The leakage audit as tables: which ROIs share tissue, in which parts, and the groups that follow."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_table
from mammo.core.records import conform
from mammo.data.audit_search import Overlap, find_overlaps
from mammo.data.locate import with_films
from mammo.data.rois import Progress, Rois, load_rois
from mammo.data.splits import make_split, read_parts
from mammo.data.texture import ByteImages

_MEASURES: Final = {
    "kind": "string",
    **dict.fromkeys(("dx_px", "dy_px"), "int32"),
    **dict.fromkeys(("stretch_x", "stretch_y"), "float64"),
    "overlap_px": "int32",
    **dict.fromkeys(("mad", "correlation"), "float64"),
}

OVERLAP_SCHEMA: Final[dict[str, str]] = {"a": "string", "b": "string", **_MEASURES}
"""One row for each pair of ROIs that share tissue; the columns are the fields of `Overlap`."""

AUDIT_SCHEMA: Final[dict[str, str]] = {
    **dict.fromkeys(("a", "b", "split_a", "split_b"), "string"),
    **_MEASURES,
}
"""The same with the part of a split on each side, null where it is unknown."""

SHOWN_COLUMNS: Final = ("a", "b", "split_a", "split_b", "kind", "dx_px", "dy_px", "overlap_px", "mad")
"""What programs are told of a pair by `mammo audit --json`."""


def find_pairs(table: pd.DataFrame, images: ByteImages, progress: Progress | None = None) -> pd.DataFrame:
    """Pairs of ROIs that share tissue, by their pixels alone (`OVERLAP_SCHEMA`); of the ROI table only ids are read."""
    return pairs_table(find_overlaps(images, table["roi_id"].tolist(), progress=progress))


def pairs_table(overlaps: Sequence[Overlap]) -> pd.DataFrame:
    """Lay overlaps out as a table (`OVERLAP_SCHEMA`)."""
    return pd.DataFrame(list(overlaps), columns=list(OVERLAP_SCHEMA)).astype(OVERLAP_SCHEMA)


def with_parts(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Pairs (`OVERLAP_SCHEMA`) with the part on each side (`AUDIT_SCHEMA`), which the ROI table names in `split`."""
    part_of = table.set_index("roi_id")["split"]
    placed = pairs.assign(split_a=pairs["a"].map(part_of), split_b=pairs["b"].map(part_of))
    return placed[list(AUDIT_SCHEMA)].astype(AUDIT_SCHEMA)


def group_ids(table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The group of each row of the ROI table: ROIs that share tissue or a patient, directly or through others.

    A group is named by the smallest ROI id in it, so it depends on no order. An unknown patient joins nothing.

    Raises:
        DataError: a pair (`OVERLAP_SCHEMA`) names a ROI that the table lacks.
    """
    _require_known(pairs, table)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(table)
    row_of = pd.Series(np.arange(n), index=table["roi_id"])
    first_of_patient = row_of.groupby(table["patient_id"].to_numpy()).transform("first")
    of_patient = first_of_patient.notna().to_numpy()
    a = np.concatenate([row_of[pairs["a"]], first_of_patient[of_patient]]).astype(np.int64)
    b = np.concatenate([row_of[pairs["b"]], row_of[of_patient]])
    _, groups = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)
    smallest: list[str] = table["roi_id"].groupby(groups).transform("min").tolist()
    return smallest


def _require_known(pairs: pd.DataFrame, table: pd.DataFrame) -> None:
    if unknown := sorted({*pairs["a"], *pairs["b"]} - set(table["roi_id"])):
        raise DataError(
            f"audit: overlaps name ROIs that the table lacks, for example {unknown[:3]}; "
            "audit again with `dvc repro --force audit split leakage`"
        )


@dataclass(frozen=True)
class Audit:
    """The leakage audit of a workspace under the split in use.

    Attributes:
        rois: ROIs in their groups and parts; films and patients are those of the source, else of `mammo locate`.
        pairs: `AUDIT_SCHEMA`, with the same parts.
    """

    rois: Rois
    pairs: pd.DataFrame


def read_audit(workspace: Workspace) -> Audit:
    """What the stages `audit` and `split` have found; `DataError` where one has not run, or its files are damaged."""
    rois = read_parts(workspace)
    table = with_films(rois.table, workspace.located)
    return Audit(Rois(table, rois.images), with_parts(read_pairs(workspace), table))


def read_pairs(workspace: Workspace) -> pd.DataFrame:
    """The pairs that the stage `audit` found (`OVERLAP_SCHEMA`); `DataError` as `read_audit`."""
    return conform(read_table(workspace.overlaps), OVERLAP_SCHEMA, str(workspace.overlaps))


def run_audit(workspace: Workspace, config: Config, progress: Progress | None = None) -> Audit:
    """Audit the raw data that `config` names at once, and split them, without any stage; nothing is written.

    Raises:
        DataError: the raw data is missing or breaks its source's contract.
    """
    rois = load_rois(config.ingest, workspace.root)
    table = with_films(rois.table, workspace.located)
    pairs = find_pairs(table, rois.images, progress)
    split = make_split(table, group_ids(table, pairs), config.split)
    rois = Rois(table, rois.images).with_split(split)
    return Audit(rois, with_parts(pairs, rois.table))


def leakage_summary(pairs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Count what the parts of a split share, ready for JSON.

    Args:
        pairs: the pairs that share tissue (`AUDIT_SCHEMA`), with the parts of the same split.
        table: ROI table with the part of each ROI, `split`.

    Returns:
        `n_rois`, `n_test_rois`; `n_pairs`, `pairs_by_kind`, `pairs_by_parts` ("test-train": 3),
        `n_pairs_across_parts`; `n_leaked_test_rois`, the test ROIs whose tissue is in train
        or val; `shared_patients` and `shared_films`, how many have ROIs in more than one part, and
        `n_test_rois_of_shared_patients`: null where the source knows none.

    Raises:
        DataError: a pair names a ROI that the table lacks.
    """
    _require_known(pairs, table)
    parts = ["-".join(sorted(both)) for both in zip(pairs["split_a"], pairs["split_b"], strict=True)]
    tested = flagged_rois(pairs, table).query("split == 'test'")
    part = table["split"]

    def shared(owner: str) -> int | None:
        owners = table[owner]
        if owners.isna().all():
            return None
        return int(part.groupby(owners.to_numpy()).nunique().gt(1).sum())

    patients = shared("patient_id")
    return {
        "n_rois": len(table),
        "n_test_rois": int((part == "test").sum()),
        "n_pairs": len(pairs),
        "pairs_by_kind": dict(sorted(Counter(pairs["kind"].tolist()).items())),
        "pairs_by_parts": dict(sorted(Counter(parts).items())),
        "n_pairs_across_parts": int((pairs["split_a"] != pairs["split_b"]).sum()),
        "n_leaked_test_rois": int((tested["tissue_in"] != "").sum()),
        "shared_patients": patients,
        "shared_films": shared("film_id"),
        "n_test_rois_of_shared_patients": None if patients is None else int((tested["patient_in"] != "").sum()),
    }


def flagged_rois(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The ROIs of which another part knows something, in the table's order; arguments as of `leakage_summary`.

    Returns:
        `roi_id`, `split`, `film_id`, `patient_id`, and the other parts that hold its tissue (`tissue_in`) or
        other ROIs of its patient (`patient_in`), such as "train, val"; empty where none does.
    """
    rows = table[["roi_id", "split", "film_id", "patient_id"]].copy()
    known = pairs.dropna(subset=["split_a", "split_b"])
    beside = pd.Series([*known["split_b"], *known["split_a"]], index=[*known["a"], *known["b"]], dtype=object)
    of_patient = rows.set_index("patient_id")["split"].dropna().astype(object)
    for column, owner, seen in (("tissue_in", "roi_id", beside), ("patient_in", "patient_id", of_patient)):
        parts_by_owner = seen.groupby(level=0).agg(set).to_dict()
        rows[column] = [
            ", ".join(sorted(parts_by_owner.get(own, set()) - {part}))
            for own, part in zip(rows[owner], rows["split"], strict=True)
        ]
    return rows[(rows["tissue_in"] != "") | (rows["patient_in"] != "")].reset_index(drop=True)
