"""Results as markdown tables, with intervals and n in every cell."""

from typing import Any, Final

from mammo.core.errors import NOTICE
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES
from mammo.report.markdown import markdown_table

COLUMNS: Final = ("accuracy", "recall", "specificity", "precision", "auc_score", "auc_vote_share")
FLOOR_TITLE: Final = "floor: logistic regression on 8 intensity statistics"
ONE_FIT: Final = (
    "Each system is one fit here. The tests count the luck of the ROIs, not that of the training: another seed may "
    "turn a difference round. The ledger compares the systems over several seeds."
)


def cell(estimate: dict[str, Any] | None, sign: str = "") -> str:
    """`0.891 (0.791 to 0.946)`, or an empty cell where there is no number."""
    if estimate is None or estimate["value"] is None:
        return ""
    value = f"{estimate['value']:{sign}z.3f}"
    if estimate["ci_low"] is None:
        return value
    return f"{value} ({estimate['ci_low']:{sign}.3f} to {estimate['ci_high']:{sign}.3f})"


def signed(difference: dict[str, Any] | None) -> str:
    """`+0.021 (-0.034 to +0.077)`. An end of -0.000 keeps its sign: it says that 0 lies outside."""
    return cell(difference, "+")


def counted(n: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def results_markdown(results: dict[str, Any]) -> str:
    """The table of one evaluation: systems, the floor and the paper's reported numbers."""
    data, selected = results["data"], results["selected"]
    confidence = next(iter(results["systems"].values()))["roi"]["accuracy"]["confidence"]
    lines = [
        "# Test results",
        "",
        f"**{data['note']}** ({data['n_tumor']} Tumor, {data['n_normal']} Normal; {data['n_groups']} groups of ROIs "
        f"that share a patient or pixels; patients: {data['n_patients'] or 'unknown to the source'}). One training "
        f"seed; see the seeds report for the spread. {NOTICE}",
        "",
        f"Values with {percent(confidence)} intervals: Wilson for accuracy, recall, specificity and precision; "
        "bootstrap over the groups (BCa) for the AUCs.",
        "",
        *systems_table(results),
        "",
        f"Chosen on the validation part alone (`{selected['by']}` {selected[selected['by']]:.4f}): "
        f"**{selected['system']}**. Its test AUC minus the floor's: {signed(results['selected_minus_floor_auc'])}.",
        "",
        "## Are they different?",
        "",
        ONE_FIT,
        "",
        *[f"- {comparison['verdict']}" for comparison in results["comparisons"]],
        "",
        "## Patch level",
        "",
        *patch_table(results),
        "",
    ]
    return "\n".join(lines)


def systems_table(results: dict[str, Any]) -> list[str]:
    """ROI-level rows: our systems, the floor, the paper."""
    rows = [_row(name, entry, entry["n_rois"]) for name, entry in results["systems"].items()]
    rows.append(_row(FLOOR_TITLE, results["floor"], results["data"]["n_rois"]))
    if results["data"]["source"] == "mias_rois" and results["data"]["protocol"] == "published":
        for reported in results["paper"]["systems"]:
            n = 64 if reported["confusion"] else None
            rows.append(_row(f"paper: {reported['system']} (as reported)", reported, n))
    headings = ["system", "n ROIs", "TP / FN / FP / TN", *(TITLES[name] for name in COLUMNS)]
    return markdown_table(headings, rows)


def _row(title: str, entry: dict[str, Any], n_rois: int | None) -> list[str]:
    counts = "" if entry["confusion"] is None else confusion_counts(entry["confusion"])
    shown_n = "" if n_rois is None else str(n_rois)
    return [title, shown_n, counts, *(cell(entry["roi"].get(name)) for name in COLUMNS)]


def confusion_counts(confusion: dict[str, int]) -> str:
    """`TP / FN / FP / TN`, Tumor being positive."""
    return " / ".join(str(confusion[key]) for key in ("tp", "fn", "fp", "tn"))


def patch_table(results: dict[str, Any]) -> list[str]:
    """Patch-level rows; every interval resamples groups of ROIs, because patches of a ROI are not independent."""
    names = ("accuracy", "recall", "specificity", "precision", "auc_score")
    titles = [TITLES[name].replace(" of the mean patch score", " of the patch score") for name in names]
    rows = [
        [system, str(entry["n_patches"]), *(cell(entry["patch"][name]) for name in names)]
        for system, entry in results["systems"].items()
    ]
    return markdown_table(["system", "n patches", *titles], rows)
