"""The leakage audit as people read it: its files in `reports/audit/`, and the page's section."""

from typing import Final

import pandas as pd

from mammo.core.files import Workspace, atomic_path, write_json
from mammo.data.audit import Audit, flagged_rois, leakage_summary, overlaps_of, parts_of
from mammo.report.blocks import Block, Cell, Inline, Paragraph, Table
from mammo.report.rois import DrawnPair, pairs_sheet
from mammo.report.source import SourceFile

MOST_ROWS: Final = 40
"""Longer tables end here, and say so; their file holds the rest."""
_COUNTS: Final = {
    "n_rois": "ROIs",
    "n_pairs": "pairs of ROIs that share tissue",
    "pairs_by_kind": "of them {}",
    "pairs_by_parts": "of them {}",
    "n_pairs_across_parts": "pairs across parts",
    "n_leaked_test_rois": "test ROIs whose tissue another part holds",
    "shared_patients": "patients with ROIs in more than one part",
    "shared_films": "films with ROIs in more than one part",
    "n_test_rois_of_shared_patients": "test ROIs of such patients",
}
"""The rows of the summary; `{}` stands for the key of an entry."""
_TABLES: Final = {
    "pairs": "Pairs of ROIs that share tissue",
    "flagged_rois": "ROIs of which another part knows something",
}
_HEADINGS: Final = {
    "a": "ROI a",
    "b": "ROI b",
    "split": "part",
    "split_a": "part of a",
    "split_b": "part of b",
    "mad": "mean absolute difference",
    "roi_id": "ROI",
}


def write_audit(workspace: Workspace, audit: Audit, protocol: str) -> None:
    """Write `pairs.csv`, `flagged_rois.csv`, `summary.json` and `pairs.png` into `reports/audit/`."""
    folder = workspace.reports / "audit"
    table, part_of = audit.rois.table, parts_of(audit.split)
    # Film and patient stay out of the reports: the films' licence covers them.
    flagged = flagged_rois(audit.pairs, table, part_of).drop(columns=["film_id", "patient_id"])
    tables = {"pairs": audit.pairs.round(4), "flagged_rois": flagged}
    for name, rows in tables.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            rows.to_csv(temporary, index=False)
    write_json(folder / "summary.json", leakage_summary(audit.pairs, table, part_of))
    note = (
        f"{audit.rois.name_of_data}, {protocol.replace('_', ' ')} split, {len(table)} ROIs; "
        "shifts are those of b's top-left corner from a's, right and down"
    )
    image_of = dict(zip(table["roi_id"], audit.rois.images, strict=True))
    parts = audit.pairs[["split_a", "split_b"]].astype(object)
    named = parts.where(parts.notna(), None).to_numpy()
    drawn = [
        DrawnPair(overlap, image_of[overlap.a], image_of[overlap.b], *of_pair)
        for overlap, of_pair in zip(overlaps_of(audit.pairs), named, strict=True)
    ]
    pairs_sheet(drawn, folder / "pairs.png", note)


def audit_blocks(workspace: Workspace) -> list[Block]:
    """Counts, pairs, flagged ROIs and the pairs' picture; nothing where the stage has not run."""
    if not (workspace.reports / "audit" / "summary.json").is_file():
        return []
    summary = SourceFile.read(workspace, "audit/summary.json")
    rows: list[tuple[Inline, ...]] = []
    for key, title in _COUNTS.items():
        entries = summary.each(key) if isinstance(summary.value(key), dict) else [summary.at(key)]
        rows += [(title.format(entry.name), entry.cell()) for entry in entries]
    tables = {name: _rows_of(workspace, f"audit/{name}.csv", title) for name, title in _TABLES.items()}
    return summary.blocks("audit", counts=summary.table(("", "number"), rows), **tables)


def _rows_of(workspace: Workspace, path: str, title: str) -> list[Block]:
    """The first rows of a CSV file, each linked to its line; nothing when there is no such file."""
    file = workspace.reports / path
    if not file.is_file():
        return []
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if table.empty:
        return [Paragraph((f"{title}: none (", Cell(path, path), ")."))]
    rows = tuple(
        # RFC 7111 counts the header as row 1.
        tuple(Cell(value, f"{path}#row={number}") for value in row)
        for number, row in enumerate(table.head(MOST_ROWS).itertuples(index=False, name=None), start=2)
    )
    rest = f" (the first {MOST_ROWS} of {len(table)})" if len(table) > MOST_ROWS else ""
    headings = tuple(_HEADINGS.get(column, column.replace("_", " ")) for column in table.columns)
    return [Table(f"{title}{rest}.", headings, rows, path)]
