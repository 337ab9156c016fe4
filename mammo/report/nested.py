"""What nested folds say of the tuning itself, as files: JSON for programs, tables for people."""

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

COLUMNS: Final = ("auc_score", "auc_vote_share", "accuracy", "recall", "specificity", "precision")
NESTED_FILE: Final = "nested.json"


def write_nested(folder: Path, summary: dict[str, Any], console: Console) -> None:
    """Write `nested.json` and `nested.md`, and show the tables."""
    text = nested_markdown(summary)
    write_json(folder / NESTED_FILE, summary)
    write_bytes(folder / "nested.md", text.encode())
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def nested_markdown(summary: dict[str, Any]) -> str:
    """The comparison on the ROIs that no study saw, then each fold's choice, its promise and what became of it."""
    data = summary["data"]
    rows = (
        ("chosen by each fold's study", summary["tuned"]["cells"], cell),
        (f"settings of params.yaml ({summary['system']})", summary["reference"]["cells"], cell),
        ("tuned minus settings, paired", summary["effect"]["cells"], signed),
    )
    return "\n".join(
        [
            "# Is tuning worth it? Nested folds",
            "",
            summary["question"],
            "",
            f"**{data['name']}, the ROIs of train and val alone (the test part stays closed): {data['n_rois']} ROIs** "
            f"({data['n_tumor']} Tumor, {data['n_normal']} Normal) in {data['n_groups']} groups; "
            f"{grid_in_words(summary['settings'])}. Each fold is held out from a study of "
            f"{summary['trials_of_each_study']} trials on the other folds, which chooses the settings that are fitted "
            f"for it. {NOTICE}",
            "",
            f"{percent(summary['confidence'])} intervals by a BCa bootstrap of the groups of ROIs and of the runs (one "
            "training seed, the same for both sides). Both sides are fitted at the full budget of the recipe.",
            "",
            *markdown_table(
                ["settings", *(TITLES[name] for name in COLUMNS)],
                [[title, *(show(cells[name]) for name in COLUMNS)] for title, cells, show in rows],
            ),
            "",
            f"Verdict (n = {summary['effect']['n_rois']}): **{summary['effect']['verdict']}**.",
            "",
            "## What each study promised, and what came of it",
            "",
            f"{summary['metric']} of a fold's held-out ROIs after voting, mean over the seeds. *Promised* is the best "
            "trial's value on its study's own folds, at the study's smaller budget. An AUC is that of the mean score "
            "or of the vote share, whichever the choice decides by, for the settings too.",
            "",
            *_folds(summary),
            "",
            _promise(summary["promise"]),
            "",
        ]
    )  # fmt: skip


def _folds(summary: dict[str, Any]) -> list[str]:
    names = list(summary["folds"][0]["params"])
    headings = ["fold", "n ROIs", "promised", "tuned", "settings", "system", *(f"`{name}`" for name in names)]
    rows = [
        [
            str(entry["fold"]),
            str(entry["n_rois"]),
            *(f"{entry[value]:.3f}" for value in ("promised", "kept_by_tuned", "kept_by_settings")),
            entry["system"],
            *(_value(entry["params"][name]) for name in names),
        ]
        for entry in summary["folds"]
    ]
    return markdown_table(headings, rows)


def _value(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _promise(promise: dict[str, float]) -> str:
    gap = promise["promised"] - promise["kept_by_tuned"]
    verdict = f"{abs(gap):.3f} too {'high' if gap > 0 else 'low, at its smaller budget'}"
    return (
        f"Means over the folds: promised {promise['promised']:.3f}, kept by the choices "
        f"{promise['kept_by_tuned']:.3f}, by the settings {promise['kept_by_settings']:.3f}. The promise, the best of "
        f"several noisy trials, was {verdict}."
    )
