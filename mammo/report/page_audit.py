"""The section on what the parts of the split share."""

from typing import Any, Final

import pandas as pd

from mammo.report.document import (
    Block,
    Cell,
    Inline,
    PageSection,
    Paragraph,
    SourceFile,
    Table,
    picture_of_file,
)
from mammo.report.report_inputs import ReportInputs

FOLDER: Final = "audit"
COUNTS: Final = {
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
TABLES: Final = {
    "pairs": "Pairs of ROIs that share tissue",
    "flagged_rois": "ROIs of which another part knows something",
    "located": "Where on their films ROIs lie",
}
HEADINGS: Final = {
    "a": "ROI a",
    "b": "ROI b",
    "split": "part",
    "split_a": "part of a",
    "split_b": "part of b",
    "mad": "mean absolute difference",
    "roi_id": "ROI",
    "film_id": "film",
    "patient_id": "patient",
}
MOST_ROWS: Final = 40
"""Longer tables end here, and say so; their file holds the rest."""


def audit_section(inputs: ReportInputs) -> PageSection:
    """Counts, pairs, flagged ROIs and the pairs' picture, as `reports/audit/` holds them."""
    summary = SourceFile.read(inputs.space, f"{FOLDER}/summary.json")
    blocks: list[Block] = [] if summary is None else [_summary(summary)]
    blocks += [table for name in TABLES if (table := _table(inputs, name)) is not None]
    picture = picture_of_file(inputs.space, f"{FOLDER}/pairs.png", "Pairs.")
    blocks += [] if picture is None else [picture]
    return PageSection(FOLDER, "Leakage audit", tuple(blocks), inputs.synthetic, missing="dvc repro leakage")


def _summary(summary: SourceFile) -> Table:
    rows: list[tuple[Inline, ...]] = []
    for key, title in COUNTS.items():
        found = summary.value(key)
        entries: list[tuple[Any, ...]] = (
            [(key, one) for one in found] if isinstance(found, dict) else [(key,)]
        )
        rows += [(title.format(*keys[1:]), summary.cell(*keys)) for keys in entries]
    return Table("What the parts share.", ("", "number"), tuple(rows), summary.path)


def _table(inputs: ReportInputs, name: str) -> Table | Paragraph | None:
    path = f"{FOLDER}/{name}.csv"
    file = inputs.space.reports / path
    if not file.is_file():
        return None
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if table.empty:
        return Paragraph((f"{TABLES[name]}: none (", Cell(path, path), ")."))
    rows: tuple[tuple[Inline, ...], ...] = tuple(
        # RFC 7111 counts the header as row 1.
        tuple(Cell(value, f"{path}#row={number}") for value in row)
        for number, row in enumerate(table.head(MOST_ROWS).itertuples(index=False, name=None), start=2)
    )
    rest = f" (the first {MOST_ROWS} of {len(table)})" if len(table) > MOST_ROWS else ""
    headings = tuple(HEADINGS.get(column, column.replace("_", " ")) for column in table.columns)
    return Table(f"{TABLES[name]}{rest}.", headings, rows, path)
