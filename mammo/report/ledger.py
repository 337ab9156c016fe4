"""The ledger as files: JSON and CSV for programs, a table and a forest plot for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console

from mammo.core.errors import NOTICE
from mammo.core.files import atomic_folder, write_bytes, write_json
from mammo.evaluation.conformal import FoldReferral
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES
from mammo.report.curves import draw_ledger, referral_picture
from mammo.report.markdown import markdown_table
from mammo.report.referral import referral_summary, referral_table
from mammo.report.tables import FLOOR_TITLE, cell, counted, signed

COLUMNS: Final = (
    "accuracy",
    "recall",
    "specificity",
    "precision",
    "balanced_accuracy",
    "auc_score",
    "auc_vote_share",
)


def write_ledger(
    folder: Path, ledger: dict[str, Any], referral: Sequence[FoldReferral], console: Console
) -> None:
    """Write `ledger.json`, `.csv`, `.md` and `.png`, and `referral.png`, all or none, and show the table.

    Args:
        folder: replaced as a whole.
        ledger: all numbers.
        referral: prediction sets of the honest folds.
        console: where the table is shown.
    """
    text = "\n".join([ledger_markdown(ledger), *_referral(referral, ledger["referral_over_runs"])])
    with atomic_folder(folder) as fresh:
        write_json(fresh / "ledger.json", ledger)
        write_bytes(fresh / "ledger.csv", ledger_rows(ledger).to_csv(index=False).encode())
        write_bytes(fresh / "ledger.md", text.encode())
        draw_ledger(ledger, fresh / "ledger.png", data_note(ledger))
        referral_picture(referral, fresh / "referral.png", data_note(ledger))
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def data_note(ledger: dict[str, Any]) -> str:
    """What the ledger rests on, for tables and pictures."""
    data, grid = ledger["data"], ledger["settings"]
    return (
        f"{data['name']}: {data['n_rois']} ({data['n_tumor']} Tumor, {data['n_normal']} Normal) in {data['n_groups']} "
        f"groups; honest: {grid_in_words(grid)}"
    )


def grid_in_words(grid: dict[str, Any]) -> str:
    """`5 folds × 2 repeats × 1 seed`."""
    counts = ((grid["n_folds"], "fold"), (grid["n_repeats"], "repeat"), (grid["n_seeds"], "seed"))
    return " × ".join(counted(n, word) for n, word in counts)


def ledger_markdown(ledger: dict[str, Any]) -> str:
    """Rows by protocol, then the gaps."""
    lines = [
        "# Ledger: published and honest protocols",
        "",
        f"**{data_note(ledger)}.** {NOTICE}",
        "",
        *_method(ledger),
        "",
        *_protocols(ledger),
        "## Minus the floor",
        "",
        "Paired on the same ROIs, under the same protocol.",
        "",
        *_differences(ledger["minus_floor"], "system"),
    ]
    if ledger["between_systems"]:
        lines += [
            "## Between the systems",
            "",
            "Paired on the same ROIs, runs of the same seed and folds. The intervals are not widened for their number.",
            "",
            *_differences(ledger["between_systems"], "systems"),
        ]
    if ledger["gaps"]:
        lines += [
            "## Published minus honest",
            "",
            "As the protocols report it: on different ROIs, so the luck of the published test ROIs is in it.",
            "",
            *_gap_table(ledger["gaps"], "cells"),
            "",
            "On the published test ROIs alone, paired: what the protocol does to the same ROIs.",
            "",
            *_gap_table(ledger["gaps"], "same_rois"),
            "",
        ]
    return "\n".join(lines)


def _referral(folds: Sequence[FoldReferral], over_runs: dict[str, Any]) -> list[str]:
    return [
        "## Prediction sets by honest fold",
        "",
        "Of the system that each fold's validation part chose; the sets are fitted on that part and judged on the "
        "held-out fold. A ROI whose set holds both classes is referred to a reader. Wilson intervals, n beside each. "
        + referral_summary(folds, over_runs),
        "",
        *referral_table(folds),
        "",
    ]


def _method(ledger: dict[str, Any]) -> list[str]:
    grid, flagged = ledger["settings"], ledger["flagged_rois"]
    published = (
        f"**Published**: the authors' folders, each training seed. {len(flagged)} of the test ROIs share "
        "tissue or a patient with ROIs that train or validate; the second table leaves them out."
        if ledger["gaps"]
        else "**Published**: this source has no published folders, so there is neither such a row nor a gap."
    )
    return [
        published,
        "",
        f"**Honest**: stratified {grid['n_folds']}-fold cross-validation over all ROIs ({grid_in_words(grid)}). "
        "ROIs of one group (a patient, or shared tissue) stay together. A "
        "fold is held out, the next one chooses the epoch and all else that is chosen, the rest trains.",
        "",
        "A cell is the mean over the runs (one seed on one set of folds; the floor has no seed), its "
        f"{percent(ledger['confidence'])} interval and n, the ROIs in the metric's denominator (for precision their "
        "mean number over the runs). The interval is a BCa bootstrap that draws groups of ROIs and, where there are "
        "several, runs: ROIs, training and folds vary in it; ± is the standard deviation over the runs. AUCs "
        "compare ROIs of the same fold. The paper's row holds Wilson intervals of its counts.",
    ]


def _protocols(ledger: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for protocol in dict.fromkeys(row["protocol"] for row in ledger["rows"]):
        rows = [row for row in ledger["rows"] if row["protocol"] == protocol]
        lines += [
            f"## {protocol[0].upper()}{protocol[1:]}",
            "",
            f"{rows[0]['n_rois']} ROIs ({rows[0]['n_tumor']} Tumor) in {rows[0]['n_groups']} groups.",
            "",
            *markdown_table(["system", "runs", *_titles()], [_row(row) for row in rows]),
            "",
        ]
    return lines


def _titles() -> list[str]:
    return [TITLES[name] for name in COLUMNS]


def _row(row: dict[str, Any]) -> list[str]:
    return [_title(row), str(row["n_runs"]), *(_cell(row["cells"].get(name)) for name in COLUMNS)]


def _title(row: dict[str, Any]) -> str:
    return FLOOR_TITLE if row["kind"] == "floor" else str(row["name"])


def _cell(found: dict[str, Any] | None) -> str:
    """`0.834 ± 0.012 (0.756 to 0.901), n 64`."""
    if found is None or found["value"] is None:
        return ""
    text = cell(found)
    if found["sd_runs"] is not None:
        value, _, interval = text.partition(" ")
        text = f"{value} ± {found['sd_runs']:.3f} {interval}".rstrip()
    return f"{text}, n {found['n']}"


def _differences(entries: list[dict[str, Any]], heading: str) -> list[str]:
    rows = [[entry["protocol"], entry["name"], *_signed_cells(entry["cells"])] for entry in entries]
    return [*markdown_table(["protocol", heading, *_titles()], rows), ""]


def _gap_table(gaps: list[dict[str, Any]], key: str) -> list[str]:
    return markdown_table(["system", *_titles()], [[_title(gap), *_signed_cells(gap[key])] for gap in gaps])


def _signed_cells(cells: dict[str, Any]) -> list[str]:
    return [signed(cells.get(name)) for name in COLUMNS]


def ledger_rows(ledger: dict[str, Any]) -> pd.DataFrame:
    """One row for each cell: protocol, name, metric, value, interval, n, method; the gaps are protocols too."""
    sets = [(row["protocol"], row, row["cells"]) for row in ledger["rows"]]
    sets += [
        (f"{entry['protocol']}, minus the floor", entry, entry["cells"]) for entry in ledger["minus_floor"]
    ]
    sets += [
        (f"{entry['protocol']}, between the systems", entry, entry["cells"])
        for entry in ledger["between_systems"]
    ]
    sets += [("published minus honest", gap, gap["cells"]) for gap in ledger["gaps"]]
    sets += [("published minus honest, same ROIs", gap, gap["same_rois"]) for gap in ledger["gaps"]]
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
