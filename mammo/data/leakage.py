"""What the parts of a split share: tissue by the audit's pairs, patients and films where they are known."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from mammo.config import Config
from mammo.data.audit import (
    OVERLAP_SCHEMA,
    find_pairs,
    group_ids,
    parts_of,
    with_parts,
)
from mammo.data.audit_overlap import Progress
from mammo.data.located import known_owners
from mammo.data.sources import RoiSet, load_rois, read_rois
from mammo.data.splits import make_split
from mammo.layout import Workspace
from mammo.records import SPLIT_SCHEMA, conform
from mammo.storage import read_table

SHOWN_COLUMNS: Final = (
    "a",
    "b",
    "split_a",
    "split_b",
    "kind",
    "dx_px",
    "dy_px",
    "overlap_px",
    "mad",
)
"""What programs are told of a pair by `mammo audit --json`."""


@dataclass(frozen=True)
class Audit:
    """The leakage audit of a workspace under the split in use.

    Attributes:
        rois: ROI table and images; films and patients are those of the source, else of `mammo locate`.
        split: `SPLIT_SCHEMA`.
        pairs: `AUDIT_SCHEMA`, with the parts of that split.
    """

    rois: RoiSet
    split: pd.DataFrame
    pairs: pd.DataFrame


def read_audit(space: Workspace) -> Audit:
    """Read what the stages `audit` and `split` have found.

    Raises:
        DataError: one of them has not run, or its files are damaged.
    """
    rois = read_rois(space.rois)
    table = known_owners(rois.table, space.located)
    split = conform(read_table(space.split), SPLIT_SCHEMA, str(space.split))
    return Audit(RoiSet(table, rois.images), split, with_parts(read_pairs(space), parts_of(split)))


def read_pairs(space: Workspace) -> pd.DataFrame:
    """Read the pairs that the stage `audit` found (`OVERLAP_SCHEMA`).

    Raises:
        DataError: the stage has not run, or its file is damaged.
    """
    return conform(read_table(space.overlaps), OVERLAP_SCHEMA, str(space.overlaps))


def run_audit(space: Workspace, config: Config, progress: Progress | None = None) -> Audit:
    """Audit the raw data that `config` names at once, and split them, without any stage; nothing is written.

    Raises:
        DataError: the raw data is missing or breaks its source's contract.
    """
    rois = load_rois(config.ingest, space.root)
    table = known_owners(rois.table, space.located)
    pairs = find_pairs(table, rois.images, progress)
    split = make_split(table, group_ids(table, pairs), config.split)
    return Audit(RoiSet(table, rois.images), split, with_parts(pairs, parts_of(split)))


def leakage_summary(pairs: pd.DataFrame, table: pd.DataFrame, part_of: pd.Series) -> dict[str, Any]:
    """Count what the parts of a split share, ready for JSON.

    Args:
        pairs: the pairs that share tissue (`AUDIT_SCHEMA`), with the parts of the same split.
        table: ROI table.
        part_of: part by ROI id, see `audit.parts_of`.

    Returns:
        `n_rois`; `n_pairs`, `pairs_by_kind`, `pairs_by_parts` ("test-train": 3; only pairs whose parts are
        known), `n_pairs_across_parts`; `n_leaked_test_rois`, the test ROIs whose tissue is in train or val;
        `shared_patients` and `shared_films`, how many have ROIs in more than one part, and
        `n_test_rois_of_shared_patients`: null where the source knows none.
    """
    known = pairs.dropna(subset=["split_a", "split_b"])
    parts = ["-".join(sorted(both)) for both in zip(known["split_a"], known["split_b"], strict=True)]
    flagged = flagged_rois(pairs, table, part_of)
    tested = flagged[flagged["split"] == "test"]
    patients_known = bool((table["patient_id"].notna() & table["roi_id"].map(part_of).notna()).any())
    return {
        "n_rois": len(table),
        "n_pairs": len(pairs),
        "pairs_by_kind": dict(sorted(Counter(pairs["kind"].tolist()).items())),
        "pairs_by_parts": dict(sorted(Counter(parts).items())),
        "n_pairs_across_parts": int((known["split_a"] != known["split_b"]).sum()),
        "n_leaked_test_rois": int((tested["tissue_in"] != "").sum()),
        "shared_patients": _shared(table["patient_id"], table["roi_id"].map(part_of)),
        "shared_films": _shared(table["film_id"], table["roi_id"].map(part_of)),
        "n_test_rois_of_shared_patients": int((tested["patient_in"] != "").sum()) if patients_known else None,
    }


def flagged_rois(pairs: pd.DataFrame, table: pd.DataFrame, part_of: pd.Series) -> pd.DataFrame:
    """The ROIs of which another part knows something, in the table's order.

    Args:
        pairs, table, part_of: as in `leakage_summary`.

    Returns:
        `roi_id`, `split`, `film_id`, `patient_id`, and the other parts that hold its tissue (`tissue_in`) or
        other ROIs of its patient (`patient_in`), such as "train, val"; empty where none does.
    """
    rows = table[["roi_id", "film_id", "patient_id"]].copy()
    rows.insert(1, "split", rows["roi_id"].map(part_of).astype("string"))
    beside: dict[str, set[str]] = {}
    for pair in pairs.dropna(subset=["split_a", "split_b"]).itertuples(index=False):
        beside.setdefault(str(pair.a), set()).add(str(pair.split_b))
        beside.setdefault(str(pair.b), set()).add(str(pair.split_a))
    of_patient = {
        str(patient): set(parts.dropna())
        for patient, parts in rows["split"].groupby(rows["patient_id"].to_numpy())
    }
    for column, owner, parts_by_owner in (
        ("tissue_in", "roi_id", beside),
        ("patient_in", "patient_id", of_patient),
    ):
        rows[column] = [
            ", ".join(sorted(parts_by_owner.get(str(key), set()) - {part}))
            for key, part in zip(rows[owner], rows["split"], strict=True)
        ]
    return rows[(rows["tissue_in"] != "") | (rows["patient_in"] != "")].reset_index(drop=True)


def _shared(owners: pd.Series, part_of: pd.Series) -> int | None:
    """How many patients (or films) have ROIs in more than one part; None where none is known."""
    if owners.isna().all() or part_of.isna().all():
        return None
    n_parts = part_of.groupby(owners.to_numpy()).nunique()
    return int((n_parts > 1).sum())
