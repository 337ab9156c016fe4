"""Tables for the terminal."""

from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Group
from rich.table import Table

from mammo.core.errors import NOTICE
from mammo.report.tables import counted

if TYPE_CHECKING:
    import pandas as pd

    from mammo.core.files import Workspace
    from mammo.doctor import Finding
    from mammo.track.registry import Version


_INTERVAL: Final = len("(0.00–0.00)")


def votes_table(rows: list[dict[str, Any]]) -> Table:
    """One row for each file of `mammo predict`; one model answers them all."""
    table = _narrow(
        "votes and score: patches that voted Tumor, mean patch score; probability: of Tumor, calibrated. Where both "
        f"classes are open: refer to a reader. {NOTICE}"
    )
    table.add_column("file", overflow="fold", min_width=12)
    for heading in ("label", "votes", "score", "probability", "open classes"):
        table.add_column(heading, min_width=len(heading))
    for row in rows:
        table.title = f"{row['model_name']} v{row['model_version']}, threshold {row['threshold']:.2f}"
        table.add_row(
            row["file"],
            row["label"],
            f"{sum(row['votes'])} of {len(row['votes'])} ({row['vote_share']:.2f})",
            f"{row['score']:.3f}",
            f"{row['probability']:.2f}",
            " or ".join(row["prediction_set"]) + (": refer to reader" if row["referral"] else ""),
        )
    return table


def _narrow(caption: str) -> Table:
    """A table without vertical lines: a terminal of 80 columns has no room for them."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)


def runs_table(rows: list[dict[str, Any]]) -> Group:
    """The runs side by side, one table for each experiment, with the intervals of the test metrics."""
    tables = []
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        table = _narrow(f"Test metrics with their intervals. {NOTICE}")
        table.title = f"Runs of {experiment}"
        table.add_column("system", no_wrap=True)
        table.add_column("run")
        table.add_column("val loss", min_width=5)
        for heading in ("test accuracy", "test recall", "test AUC"):
            table.add_column(heading, min_width=_INTERVAL)
        for row in rows:
            if row["experiment"] == experiment:
                metrics, status = row["metrics"], row["status"].lower()
                intervals = (
                    _interval(metrics, f"test_{name}") for name in ("accuracy", "recall", "auc_score")
                )
                run = row["run_id"][:6] + ("" if status == "finished" else f" {status}")
                table.add_row(row["system"], run, _number(metrics.get("best_val_loss")), *intervals)
        tables.append(table)
    return Group(*tables) if tables else Group("no runs yet: `dvc repro` makes them")


def versions_table(versions: "list[Version]") -> Table:
    """The registered versions and their aliases."""
    table = Table("version", "system", "aliases", "run", title="Registered versions")
    for version in versions:
        table.add_row(version.number, version.system, ", ".join(version.aliases), version.run_id[:8])
    return table


def results_table(results: dict[str, Any]) -> Table:
    """The test results of one evaluation."""
    data = results["data"]
    table = _narrow(f"* chosen on the validation part alone. {NOTICE}")
    table.title = data["note"]
    table.add_column("system", no_wrap=True)
    for heading in ("accuracy", "Tumor recall", "specificity", "AUC"):
        table.add_column(heading, min_width=_INTERVAL)
    selected = results["selected"]["system"]
    for name, entry in {**results["systems"], "floor": results["floor"]}.items():
        estimates = [entry["roi"][metric] for metric in ("accuracy", "recall", "specificity", "auc_score")]
        mark = " *" if name == selected else ""
        table.add_row(f"{name}{mark}", *(_ends(e["value"], e["ci_low"], e["ci_high"]) for e in estimates))
    return table


def overlaps_table(pairs: list[dict[Any, Any]], summary: dict[str, Any], protocol: str) -> Table:
    """The pairs of ROIs that share tissue, and what the parts of the split share.

    Args:
        pairs: rows of `AUDIT_SCHEMA`.
        summary: see `leakage_summary`.
        protocol: of the split.
    """
    table = Table()
    for heading in ("a", "b", "parts", "kind", "shift px", "overlap px", "MAD"):
        table.add_column(heading, overflow="fold")
    n_pairs = summary["n_pairs"]
    verb = "shares" if n_pairs == 1 else "share"
    table.title = f"{counted(n_pairs, 'pair')} of {summary['n_rois']} ROIs {verb} tissue"
    for pair in pairs:
        parts = f"{pair['split_a']} / {pair['split_b']}"
        table.add_row(
            pair["a"],
            pair["b"],
            parts if pair["split_a"] == pair["split_b"] else f"[bold red]{parts}[/]",
            pair["kind"],
            f"{pair['dx_px']}, {pair['dy_px']}",
            str(pair["overlap_px"]),
            f"{pair['mad']:.2f}",
        )
    patients = summary["shared_patients"]
    table.caption = (
        f"{protocol.replace('_', ' ')} split: {counted(summary['n_pairs_across_parts'], 'pair')} across parts, "
        f"{counted(summary['n_leaked_test_rois'], 'test ROI')} whose tissue train or val shows; "
        + ("patients unknown" if patients is None else f"{patients} patients in more than one part")
    )
    return table


def located_line(located: "pd.DataFrame", space: "Workspace") -> str:
    """How many ROIs `mammo locate` found (`LOCATED_SCHEMA`), and what to do next."""
    certain = located[located["verdict"] == "located"]
    return (
        f"{len(certain)} of {len(located)} ROIs located in {certain['film_id'].nunique()} films of "
        f"{certain['patient_id'].nunique()} patients, {len(located) - len(certain)} uncertain: "
        f"{space.reports / 'audit' / 'located.csv'}\n"
        "next: dvc repro leakage (groups ROIs by patient too; nothing else knows the patients)"
    )


def findings_table(findings: "list[Finding]") -> Table:
    """What `mammo doctor` found."""
    colours = {"ok": "green", "note": "yellow", "error": "red"}
    table = _narrow(NOTICE)
    for heading in ("", "what"):
        table.add_column(heading)
    for heading in ("found", "remedy"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        colour = colours[finding.level]
        table.add_row(f"[{colour}]{finding.level}[/{colour}]", finding.what, finding.found, finding.remedy)
    return table


def _interval(metrics: dict[str, float], name: str) -> str:
    return _ends(*(metrics.get(f"{name}{end}") for end in ("", "_ci_low", "_ci_high")))


def _ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return _number(value)
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
