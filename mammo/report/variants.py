"""The tables of the ablation and of studies: effects with their intervals and a verdict in words."""

from pathlib import Path
from typing import Any, Final

from rich.console import Console

from mammo.core.errors import NOTICE
from mammo.core.files import write_bytes, write_json
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES
from mammo.report.ledger import grid_in_words
from mammo.report.markdown import markdown_table
from mammo.report.tables import cell, signed

VERDICTS: Final = ("verdict, this row alone", "verdict, all rows together")
COLUMNS: Final = ("auc_score", "accuracy", "recall", "specificity", "precision")
FOLDS: Final = {
    "honest": "all ROIs, each held out once a repeat",
    "development": "the ROIs of train and val alone; the test part stays closed",
}


def write_ablation(folder: Path, summary: dict[str, Any], console: Console) -> None:
    """Write `ablate.json` and `ablate.md`, and show the table."""
    _write(folder, "ablate", summary, ablation_markdown(summary), console)


def write_study(folder: Path, summary: dict[str, Any], console: Console) -> None:
    """Write the study's JSON and table under its own name, and show the table."""
    _write(folder, summary["name"], summary, study_markdown(summary), console)


def _write(folder: Path, name: str, summary: dict[str, Any], text: str, console: Console) -> None:
    write_json(folder / f"{name}.json", summary)
    write_bytes(folder / f"{name}.md", text.encode())
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def ablation_markdown(summary: dict[str, Any]) -> str:
    """One row for each defect: what it does to the metrics, defect minus mended."""
    lines = [
        f"# Defects of the paper's recipe, one at a time: {summary['system']}",
        "",
        *_head(summary, summary["settings"]["protocol"]),
        "Effects are **with the defect minus without it**, whichever of the two the settings have, paired on the same "
        "ROIs. Where they have it in part, both sides were fitted.",
        "",
        *_reference(summary),
        *markdown_table(
            [
                "defect",
                "setting",
                "in the settings",
                *(TITLES[name] for name in COLUMNS),
                "n ROIs",
                *VERDICTS,
            ],
            [_defect_row(entry) for entry in summary["defects"]],
        ),
        "",
        *[f"- **{entry['name']}**: {entry['about']}." for entry in summary["defects"]],
        "",
    ]
    return "\n".join(lines)


def _defect_row(entry: dict[str, Any]) -> list[str]:
    head = [entry["name"], f"`{entry['setting']}`", entry["in_reference"]]
    if entry["effect"] is None:
        return [*head, *("" for _ in COLUMNS), "", entry["reason"], ""]
    return [*head, *_effects(entry["effect"])]


def study_markdown(summary: dict[str, Any]) -> str:
    """One row for each variant: its effect against the settings as they are."""
    lines = [
        f"# Study {summary['name']}: {summary['system']}",
        "",
        *([summary["question"], ""] if summary["question"] else []),
        *_head(summary, "development"),
        f"Effects are **variant minus reference** ({_reference_in_words(summary)}), paired on the same ROIs.",
        "",
        *_reference(summary),
        *markdown_table(
            [
                "variant",
                "settings",
                "AUC",
                *(f"{TITLES[name]}, effect" for name in COLUMNS),
                "n ROIs",
                *VERDICTS,
            ],
            [_variant_row(entry) for entry in summary["variants"]],
        ),
        "",
        _in_words(summary["variants"]),
        "",
    ]
    return "\n".join(lines)


def _variant_row(entry: dict[str, Any]) -> list[str]:
    auc = cell(entry["cells"]["auc_score"])
    return [entry["name"], settings_in_words(entry["overrides"]), auc, *_effects(entry["effect"])]


def settings_in_words(overrides: dict[str, Any]) -> str:
    """`train.epochs: 16`, …: dotted keys as code."""
    return ", ".join(f"`{key}: {value}`" for key, value in overrides.items())


def _reference_in_words(summary: dict[str, Any]) -> str:
    differs = settings_in_words(summary["reference"]["overrides"])
    return f"`params.yaml` with {differs}" if differs else "`params.yaml` as it is"


def _in_words(variants: list[dict[str, Any]]) -> str:
    """What helped, what hurt, what cannot be told apart."""
    names: dict[str, list[str]] = {"Helped": [], "Hurt": [], "Mixed": [], "Not distinguishable": []}
    for entry in variants:
        sides = {word for word in ("higher", "lower") if word in entry["effect"]["together"]["verdict"]}
        title = {
            frozenset(): "Not distinguishable",
            frozenset({"higher"}): "Helped",
            frozenset({"lower"}): "Hurt",
        }
        names[title.get(frozenset(sides), "Mixed")].append(entry["name"])
    found = ". ".join(f"{title}: {', '.join(of_title)}" for title, of_title in names.items() if of_title)
    return f"All rows together. {found}."


def _effects(effect: dict[str, Any]) -> list[str]:
    """Its cell for each of `COLUMNS`, n and both verdicts."""
    cells = [signed(effect["cells"].get(name)) for name in COLUMNS]
    return [*cells, str(effect["n_rois"]), effect["verdict"], effect["together"]["verdict"]]


def _head(summary: dict[str, Any], protocol: str) -> list[str]:
    data, grid = summary["data"], summary["settings"]
    return [
        f"**{data['name']}, {protocol} protocol ({FOLDS[protocol]}): {data['n_rois']} ROIs** ({data['n_tumor']} Tumor, "
        f"{data['n_normal']} Normal) in {data['n_groups']} groups; {grid_in_words(grid)}. "
        f"{NOTICE}",
        "",
        f"{percent(summary['confidence'])} intervals by a BCa bootstrap of the groups of ROIs and, where there are "
        f"several, of the runs (one seed on one set of folds, the same for both sides){_luck(grid)}. A verdict names "
        "what the interval of AUC or accuracy leaves 0 out of. For the last column these two are widened so that they "
        f"hold in all rows at once at {percent(summary['confidence'])} (Bonferroni).",
        "",
    ]


def _luck(grid: dict[str, Any]) -> str:
    """A warning that only a single run needs."""
    single = grid["n_repeats"] * grid["n_seeds"] == 1
    return "; with one run on each side they hold nothing of the luck of training" if single else ""


def _reference(summary: dict[str, Any]) -> list[str]:
    cells = summary["reference"]["cells"]
    shown = "; ".join(f"{TITLES[name]} {cell(cells[name])}" for name in COLUMNS)
    return [f"The reference ({summary['reference']['n_runs']} runs): {shown}.", ""]
