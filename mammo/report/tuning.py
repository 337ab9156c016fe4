"""Tuning as people read it: what the study chose, and whether tuning was worth it on ROIs that it never saw."""

from typing import Any, Final

from mammo.core.files import Workspace
from mammo.report.blocks import Block, Cell
from mammo.report.results import titles
from mammo.report.source import SourceFile
from mammo.report.studies import about, write_study

COLUMNS: Final = ("auc_score", "auc_vote_share", "accuracy", "recall", "specificity", "precision")


def tuning_blocks(source: SourceFile) -> list[Block]:
    """The study's choice beside the settings of `params.yaml`."""
    record = source.at("record")
    compared = isinstance(record.value("settings_of_params"), dict)
    rows = (
        (
            one.name,
            _range(one.value()),
            _chosen(record.at("best", "params", one.name)),
            _chosen(record.at("settings_of_params", "params", one.name)),
            record.cell("importance", one.name),
        )
        for one in record.each("space")
    )
    return record.blocks(
        "tuning",
        compared=record.blocks("compared") if compared else [],
        parameters=record.table(("parameter", "searched", "best trial", "params.yaml", "importance"), rows),
        trials_csv=Cell("tune/trials.csv", "tune/trials.csv"),
        contour=Cell("tune/contour.png", "tune/contour.png"),
        parallel=Cell("tune/parallel_coordinate.png", "tune/parallel_coordinate.png"),
        dashboard=Cell("mammo tune dashboard", code=True),
    )


def _range(parameter: dict[str, Any]) -> str:
    if parameter["type"] == "categorical":
        return ", ".join(str(choice) for choice in parameter["choices"])
    step = f" by {parameter['step']}" if parameter.get("step") not in (None, 1) else ""
    return f"{parameter['low']} to {parameter['high']}{step}{', log' if parameter['log'] else ''}"


def _chosen(place: SourceFile) -> Cell:
    """A parameter's value, with four significant digits."""
    value = place.value()
    return Cell(f"{value:.4g}", place.href()) if isinstance(value, float) else place.cell()


def write_nested(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/tune/nested.json` and `.md`; returns the Markdown for the terminal."""
    return write_study(workspace, "tune/nested", "Is tuning worth it? Nested folds", nested_blocks, summary)


def nested_blocks(nested: SourceFile) -> list[Block]:
    """The comparison on the ROIs that no study saw, then each fold's choice, its promise and what became of it."""
    params = list(nested.value("folds", 0, "params"))
    keys = ("fold", "n_rois", "promised", "kept_by_tuned", "kept_by_settings", "system")
    levels = nested.table(
        ("settings", *titles(COLUMNS)),
        (
            ("chosen by each fold's study", *nested.cells(COLUMNS, "tuned", "cells")),
            (
                f"settings of params.yaml ({nested.value('system')})",
                *nested.cells(COLUMNS, "reference", "cells"),
            ),
            ("tuned minus settings, paired", *nested.cells(COLUMNS, "effect", "cells", signed=True)),
        ),
    )
    folds = nested.table(
        ("fold", "ROIs", "promised", "tuned", "settings", "system", *params),
        (
            (*fold.cells(keys), *(_chosen(fold.at("params", name)) for name in params))
            for fold in nested.each("folds")
        ),
    )
    gap = nested.value("promise", "promised") - nested.value("promise", "kept_by_tuned")
    verdict = f"{abs(gap):.3f} too {'high' if gap > 0 else 'low, at its smaller budget'}"
    return nested.blocks(
        "nested",
        about=about(nested, "the ROIs of train and val alone (the test part stays closed)"),
        levels=levels,
        folds=folds,
        verdict=nested.cell("effect", "verdict", strong=True),
        gap=Cell(verdict, nested.href("promise")),
    )
