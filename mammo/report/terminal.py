"""What the commands print: Markdown as it is, and tables that fit a terminal of 80 columns."""

from collections.abc import Iterable
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from mammo.core.errors import NOTICE
from mammo.report.blocks import Cell, SourceFile, Table, counted, plain, shown
from mammo.report.results import RESULTS_FILE, systems_table

if TYPE_CHECKING:
    import pandas as pd

    from mammo.core.files import Workspace
    from mammo.doctor import Finding
    from mammo.track.registry import Version

_WHOLE: Final = 16
"""Letters of a word that no column breaks."""
_STYLES: Final = {"ok": "green", "note": "yellow", "error": "red"}


def show_markdown(console: Console, text: str) -> None:
    """Print Markdown as it is: at 80 columns a layout would cut numbers off."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def rich_table(table: Table, title: str = "") -> RichTable:
    """A table without vertical lines, whose columns keep their words whole as far as 80 columns allow."""
    caption = f"{table.caption} {NOTICE}".strip()
    made = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title) if title else None, caption=caption
    )
    for heading, *cells in zip(table.headings, *table.rows, strict=True):
        longest = max((len(word) for cell in (heading, *cells) for word in plain(cell).split()), default=1)
        made.add_column(str(heading), overflow="fold", min_width=min(longest, _WHOLE))
    for row in table.rows:
        strong = ("bold" if isinstance(part, Cell) and part.strong else "" for part in row)
        made.add_row(
            *(
                Text(plain(part), _STYLES.get(plain(part), bold))
                for part, bold in zip(row, strong, strict=True)
            )
        )
    return made


def results_table(results: dict[str, Any]) -> RichTable:
    """The test results of one evaluation."""
    metrics = ("accuracy", "recall", "specificity", "auc_score")
    judged = systems_table(SourceFile(RESULTS_FILE, results), metrics)
    table = Table(
        "Bold: chosen on the validation part alone.",
        ("system", "accuracy", "Tumor recall", "specificity", "AUC"),
        tuple((row[0], *row[-len(metrics) :]) for row in judged.rows),
    )
    return rich_table(table, results["data"]["note"])


def votes_table(rows: list[dict[str, Any]]) -> RichTable:
    """One row for each file of `mammo predict`; one model answers them all."""
    first = rows[0]
    table = Table(
        "votes and score: patches that voted Tumor, mean patch score; probability: of Tumor, calibrated. Where both "
        "classes are open: refer to a reader.",
        ("file", "label", "votes", "score", "probability", "open classes"),
        tuple(
            (
                row["file"],
                row["label"],
                f"{sum(row['votes'])} of {len(row['votes'])} ({row['vote_share']:.2f})",
                f"{row['score']:.3f}",
                f"{row['probability']:.2f}",
                " or ".join(row["prediction_set"]) + (": refer to reader" if row["referral"] else ""),
            )
            for row in rows
        ),
    )
    return rich_table(
        table, f"{first['model_name']} v{first['model_version']}, threshold {first['threshold']:.2f}"
    )


def runs_table(rows: list[dict[str, Any]]) -> Group:
    """The runs side by side, one table for each experiment, with the intervals of the test metrics."""
    if not rows:
        return Group("no runs yet: `dvc repro` makes them")
    runs: dict[str, list[tuple[str, ...]]] = {}
    ends = {"value": "", "ci_low": "_ci_low", "ci_high": "_ci_high"}
    for row in rows:
        metrics, status = row["metrics"], row["status"].lower()
        estimates = (
            shown({key: metrics.get(f"test_{name}{end}") for key, end in ends.items()})
            for name in ("accuracy", "recall", "auc_score")
        )
        run = row["run_id"][:6] + ("" if status == "finished" else f" {status}")
        line = (row["system"], run, shown(metrics.get("best_val_loss")), *estimates)
        runs.setdefault(row["experiment"], []).append(line)
    headings = ("system", "run", "val loss", "test accuracy", "test recall", "test AUC")
    return Group(
        *(
            rich_table(
                Table("Test metrics with their intervals.", headings, tuple(lines)), f"Runs of {experiment}"
            )
            for experiment, lines in runs.items()
        )
    )


def versions_table(versions: "Iterable[Version]") -> RichTable:
    """The registered versions and their aliases."""
    rows = tuple((one.number, one.system, ", ".join(one.aliases), one.run_id[:8]) for one in versions)
    return rich_table(Table("", ("version", "system", "aliases", "run"), rows), "Registered versions")


def overlaps_table(pairs: list[dict[Any, Any]], summary: dict[str, Any], protocol: str) -> RichTable:
    """The pairs of ROIs that share tissue, bold where they are in two parts, and what the parts share.

    Args:
        pairs: rows of `AUDIT_SCHEMA`.
        summary: see `leakage_summary`.
        protocol: of the split.
    """
    patients, n_pairs = summary["shared_patients"], summary["n_pairs"]
    caption = (
        f"{protocol.replace('_', ' ')} split: {counted(summary['n_pairs_across_parts'], 'pair')} across parts, "
        f"{counted(summary['n_leaked_test_rois'], 'test ROI')} whose tissue train or val shows; "
        + ("patients unknown." if patients is None else f"{patients} patients in more than one part.")
    )
    rows = tuple(
        (
            pair["a"],
            pair["b"],
            Cell(f"{pair['split_a']} / {pair['split_b']}", strong=pair["split_a"] != pair["split_b"]),
            pair["kind"],
            f"{pair['dx_px']}, {pair['dy_px']}",
            str(pair["overlap_px"]),
            f"{pair['mad']:.2f}",
        )
        for pair in pairs
    )
    title = f"{counted(n_pairs, 'pair')} of {summary['n_rois']} ROIs {'shares' if n_pairs == 1 else 'share'} tissue"
    return rich_table(
        Table(caption, ("a", "b", "parts", "kind", "shift px", "overlap px", "MAD"), rows), title
    )


def located_line(located: "pd.DataFrame", workspace: "Workspace") -> str:
    """How many ROIs `mammo locate` found (`LOCATED_SCHEMA`), and what to do next."""
    certain = located[located["verdict"] == "located"]
    return (
        f"{len(certain)} of {len(located)} ROIs located in {certain['film_id'].nunique()} films of "
        f"{certain['patient_id'].nunique()} patients, {len(located) - len(certain)} uncertain: "
        f"{workspace.reports / 'audit' / 'located.csv'}\n"
        "next: dvc repro leakage (groups ROIs by patient too; nothing else knows the patients)"
    )


def findings_table(findings: "list[Finding]") -> RichTable:
    """What `mammo doctor` found."""
    rows = tuple(tuple(astuple(finding)) for finding in findings)
    return rich_table(Table("", ("", "what", "found", "remedy"), rows))


def show_best(console: Console, workspace: "Workspace", record: dict[str, Any]) -> None:
    """Print what a study chose (its record, as in best.yaml), and what to do with it."""

    best, pruning, trials = record["best"], record["pruning"], record["trials"]
    chosen = workspace.reports / "tune" / "best.yaml"
    source = chosen.relative_to(workspace.root).as_posix()
    there = "" if workspace.root.samefile(".") else f" --workspace {workspace.root}"
    console.print(
        f"best: trial {best['trial']}, {best['metric']} of the {best['evidence']} {best['value']:.4f} ± "
        f"{best['fold_standard_error']:.4f} (standard error over {len(best['folds'])} folds)\n"
        + "\n".join(f"  {name}: {value}" for name, value in best["params"].items())
        + f"\n{_own_line(record['settings_of_params'], best['metric'])}\n"
        f"{trials['complete']} complete, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['retried']} retried; pruning saved {pruning['saved_share']:.0%} of the training "
        f"({pruning['saved_s'] / 60:.1f} minutes)\n"
        f"record: {chosen}\n"
        f"to judge it: mammo tune nested{there} (folds that each study has never seen)\n"
        f"to train with it: write settings_from: {source} into {workspace.params}, see that its systems hold "
        f"{record['system']}, then dvc repro",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _own_line(own: dict[str, Any] | str, metric: str) -> str:
    if isinstance(own, str):
        return f"the settings of params.yaml: {own}"
    ended = (
        f"{metric} of the {own['evidence']} {own['value']:.4f}" if own["value"] is not None else own["state"]
    )
    return f"the settings of params.yaml, as trial {own['trial']} of the same budget: {ended}"
