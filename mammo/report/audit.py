"""The files of the leakage audit: tables and counts for programs, a sheet for people."""

from typing import Any

import pandas as pd

from mammo.core.errors import data_name
from mammo.core.files import Workspace, atomic_path, write_json, write_table
from mammo.data.audit import Audit, flagged_rois, leakage_summary, overlaps_of, parts_of
from mammo.report.rois import DrawnPair, pairs_sheet


def write_audit(space: Workspace, audit: Audit, protocol: str) -> None:
    """Write `pairs.csv`, `flagged_rois.csv`, `summary.json` and `pairs.png` into `reports/audit/`."""
    folder = space.reports / "audit"
    table, part_of = audit.rois.table, parts_of(audit.split)
    tables = {"pairs": audit.pairs.round(4), "flagged_rois": flagged_rois(audit.pairs, table, part_of)}
    for name, rows in tables.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            rows.to_csv(temporary, index=False)
    write_json(folder / "summary.json", leakage_summary(audit.pairs, table, part_of))
    pairs_sheet(drawn_pairs(audit), folder / "pairs.png", data_note(table, protocol))


def write_located(space: Workspace, located: pd.DataFrame) -> None:
    """Write where the ROIs lie (`LOCATED_SCHEMA`), for the stage `split` and as `reports/audit/located.csv`."""
    write_table(space.located, located)
    with atomic_path(space.reports / "audit" / "located.csv") as temporary:
        located.round(4).to_csv(temporary, index=False)


def drawn_pairs(audit: Audit) -> list[DrawnPair]:
    """Each pair with its pixels."""
    row_of = {roi_id: row for row, roi_id in enumerate(audit.rois.table["roi_id"])}
    images = audit.rois.images
    return [
        DrawnPair(overlap, images[row_of[overlap.a]], images[row_of[overlap.b]], _name(part_a), _name(part_b))
        for overlap, part_a, part_b in zip(
            overlaps_of(audit.pairs), audit.pairs["split_a"], audit.pairs["split_b"], strict=True
        )
    ]


def data_note(table: pd.DataFrame, protocol: str) -> str:
    """Which ROIs and which split: "MIAS ROIs, published split, 326 ROIs"."""
    name = data_name(bool(table["synthetic"].any()))
    patients = "patients unknown" if table["patient_id"].isna().all() else "patients known"
    return (
        f"{name} ROIs, {protocol.replace('_', ' ')} split, {len(table)} ROIs, {patients}; "
        "shifts are those of b's top-left corner from a's, right and down"
    )


def _name(part: Any) -> str | None:
    return None if pd.isna(part) else str(part)
