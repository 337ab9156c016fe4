"""The table over training seeds."""

from typing import Any, Final

from mammo.core.errors import NOTICE
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES
from mammo.report.markdown import markdown_table
from mammo.report.tables import cell, signed

COLUMNS: Final = ("accuracy", "recall", "specificity", "precision", "auc_score", "auc_vote_share")


def seeds_markdown(summary: dict[str, Any]) -> str:
    """Mean ± standard deviation of every metric over the seeds, the floor beside it."""
    data = summary["data"]
    lines = [
        f"# Test results over {summary['n_seeds']} training seeds",
        "",
        f"**{data['note']}** ({data['n_tumor']} Tumor, {data['n_normal']} Normal). Mean ± standard deviation over "
        f"the seeds; never the best seed. {NOTICE}",
        "",
        *markdown_table(
            ["system", "mean val loss", *(TITLES[name] for name in COLUMNS), "AUC minus floor's"],
            [
                *(_row(name, entry, summary) for name, entry in summary["systems"].items()),
                *(
                    _ensemble_row(name, entry["ensemble"], summary)
                    for name, entry in summary["systems"].items()
                ),
                _floor_row(summary),
            ],
        ),
        "",
        f"Chosen by {summary['selected_by']}, on the validation part alone: **{summary['selected']}**. "
        + _margin(summary),
        "",
        "The spread over seeds does not hold the uncertainty of so few test ROIs; for that see the intervals of the "
        "evaluation. An ensemble averages the patch scores of all seeds, then votes; its intervals resample ROIs, as "
        "the floor's do.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, entry: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    cells = [_spread(entry["test"][metric], summary["n_seeds"]) for metric in COLUMNS]
    cells.append(_spread(entry["minus_floor_auc"], summary["n_seeds"], sign="+"))
    title = f"**{name}**" if name == summary["selected"] else name
    return [title, f"{entry['validation']['val_loss']:.4f}", *cells]


def _ensemble_row(name: str, ensemble: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    cells = [cell(ensemble["roi"].get(metric)) for metric in COLUMNS] + [signed(ensemble["minus_floor_auc"])]
    title = f"{name}, ensemble of {summary['n_seeds']} seeds ({percent(summary['confidence'])} interval)"
    return [title, "", *cells]


def _floor_row(summary: dict[str, Any]) -> list[str]:
    cells = [cell(summary["floor"]["roi"].get(metric)) for metric in COLUMNS]
    return [f"floor (one fit, {percent(summary['confidence'])} interval)", "", *cells, ""]


def _margin(summary: dict[str, Any]) -> str:
    """What the chosen system's AUC has over the floor's, with the interval over seeds and the one over ROIs."""
    entry = summary["systems"][summary["selected"]]
    over_seeds, over_rois = entry["minus_floor_auc"], entry["ensemble"]["minus_floor_auc"]
    if over_seeds["mean"] is None or over_seeds["ci_low"] is None:
        return "Its margin over the floor is undefined here."
    low, high = over_seeds["ci_low"], over_seeds["ci_high"]
    return (
        f"Its test AUC minus the floor's is {over_seeds['mean']:+.3f} on average ({percent(summary['confidence'])} t "
        f"interval over {summary['n_seeds']} seeds {low:+.3f} to {high:+.3f}, these test ROIs held fixed); over the "
        f"ROIs, its ensemble's is {signed(over_rois)}."
    )


def _spread(estimate: dict[str, Any], n_seeds: int, sign: str = "") -> str:
    """`0.811 ± 0.017`, and how many seeds it rests on where it is undefined in some; `sign` "+" for a difference."""
    if estimate["mean"] is None:
        return ""
    text = f"{estimate['mean']:{sign}.3f}" + ("" if estimate["sd"] is None else f" ± {estimate['sd']:.3f}")
    return text if estimate["n_seeds"] == n_seeds else f"{text} ({estimate['n_seeds']} of {n_seeds} seeds)"
