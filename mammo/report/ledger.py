"""The ledger as people read it: its tables, and its files in `reports/ledger/`."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd

from mammo.core.files import Workspace, atomic_folder, write_bytes, write_json
from mammo.evaluation.conformal import RATES, FoldReferral, over_folds
from mammo.report.blocks import Block, Cell, Inline, Table, document
from mammo.report.curves import draw_ledger, referral_picture
from mammo.report.results import FLOOR_TITLE, referral_table, titles
from mammo.report.source import SourceFile, counted, shown
from mammo.report.studies import about, grid_in_words

COLUMNS: Final = (
    *("accuracy", "recall", "specificity", "precision"),
    *("balanced_accuracy", "auc_score", "auc_vote_share"),
)


def write_ledger(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/ledger/`, all files or none: `ledger.json`, `.csv`, `.md` and `.png`, and `referral.png`.

    Returns the Markdown for the terminal.
    """
    data = summary["data"]
    blocks = ledger_blocks(SourceFile("ledger/ledger.json", summary))
    text = document("Ledger: published and honest protocols", blocks, synthetic=data["synthetic"])
    note = (
        f"{data['name']}: {data['n_rois']} ({data['n_tumor']} Tumor, {data['n_normal']} Normal) in "
        f"{data['n_groups']} groups; honest: {grid_in_words(summary['settings'])}"
    )
    with atomic_folder(workspace.reports / "ledger") as folder:
        write_json(folder / "ledger.json", summary)
        write_bytes(folder / "ledger.csv", ledger_rows(summary).to_csv(index=False).encode())
        write_bytes(folder / "ledger.md", text.encode())
        draw_ledger(summary, folder / "ledger.png", note)
        referral_picture(
            [FoldReferral.from_dict(fold) for fold in summary["referral"]], folder / "referral.png", note
        )
    return text


def ledger_blocks(source: SourceFile) -> list[Block]:
    """Rows by protocol, differences, gaps, and what the prediction sets of the honest folds kept."""
    flagged = Cell(str(len(source.value("flagged_rois") or ())), source.href("flagged_rois"))
    rows = list(source.each("rows"))
    protocols = dict.fromkeys(row.value("protocol") for row in rows)
    return source.blocks(
        "ledger",
        about=about(source, "honest protocol"),
        published=source.blocks("published", flagged=flagged)
        if source.value("gaps")
        else source.blocks("unpublished"),
        levels=[
            _levels([row for row in rows if row.value("protocol") == protocol]) for protocol in protocols
        ],
        minus_floor=_differences(source, "minus_floor"),
        between_systems=_differences(source, "between_systems"),
        gaps=_gaps(source, "cells"),
        gaps_of_same_rois=_gaps(source, "same_rois"),
        referral=referral_table(source, source.each("referral"), *_over_folds(source)),
    )


def _levels(rows: Sequence[SourceFile]) -> Table:
    first = rows[0].value()
    protocol = first["protocol"]
    return Table(
        f"{protocol[0].upper()}{protocol[1:]}: {first['n_rois']} ROIs ({first['n_tumor']} Tumor) in "
        f"{counted(first['n_groups'], 'group')}.",
        ("system", "runs", *titles(COLUMNS)),
        tuple((_title(row), row.cell("n_runs"), *row.cells(COLUMNS, "cells")) for row in rows),
        rows[0].path,
    )


def _title(row: SourceFile) -> Cell:
    return Cell(FLOOR_TITLE, row.href("name")) if row.value("kind") == "floor" else row.cell("name")


def _differences(source: SourceFile, key: str) -> Table:
    rows = (
        (*row.cells(("protocol", "name")), *row.cells(COLUMNS, "cells", signed=True))
        for row in source.each(key)
    )
    return source.table(("protocol", "system", *titles(COLUMNS)), rows)


def _gaps(source: SourceFile, key: str) -> Table:
    rows = ((_title(row), *row.cells(COLUMNS, key, signed=True)) for row in source.each("gaps"))
    return source.table(("system", *titles(COLUMNS)), rows)


def _over_folds(source: SourceFile) -> Iterable[Sequence[Inline]]:
    """All folds together (coverage is promised on average over folds), and how far the folds lie apart."""
    folds = [FoldReferral.from_dict(fold) for fold in source.value("referral") or ()]
    if not folds:
        return
    spread = [
        Cell(shown(found.to_dict()["sd"]), source.href("referral"))
        for found in over_folds(folds, folds[0].coverage.confidence).values()
    ]
    means = source.cells(tuple(RATES), "referral_over_runs")
    yield "mean over the runs", "", "", *means, ""
    yield f"standard deviation over {counted(len(folds), 'fold')}", "", "", *spread, ""


def ledger_rows(ledger: dict[str, Any]) -> pd.DataFrame:
    """One row for each cell: protocol, name, metric, value, interval, n, method; the gaps are protocols too."""
    sets = [(row["protocol"], row, row["cells"]) for row in ledger["rows"]]
    for key, words in (("minus_floor", "minus the floor"), ("between_systems", "between the systems")):
        sets += [(f"{entry['protocol']}, {words}", entry, entry["cells"]) for entry in ledger[key]]
    for key, words in (("cells", ""), ("same_rois", ", same ROIs")):
        sets += [(f"published minus honest{words}", gap, gap[key]) for gap in ledger["gaps"]]
    columns = ("value", "ci_low", "ci_high", "sd_runs", "n", "n_groups", "n_runs", "confidence", "method")
    return pd.DataFrame(
        [
            {
                "data": ledger["data"]["name"],
                "protocol": protocol,
                "system": entry["name"],
                "kind": entry["kind"],
                "metric": metric,
                **{column: found.get(column) for column in columns},
            }
            for protocol, entry, cells in sets
            for metric, found in cells.items()
        ]
    )
