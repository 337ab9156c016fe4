"""The section on tuning: what the study chose and why, and whether tuning was worth it on ROIs that it never saw."""

from typing import Any, Final

from mammo.evaluation.metrics import TITLES
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
from mammo.report.nested import COLUMNS
from mammo.report.report_inputs import ReportInputs

PICTURES: Final = (
    ("history.png", "Every trial in its order."),
    ("slice.png", "Value over each parameter, one panel each."),
    ("importance.png", "Share of the spread of the values that each parameter explains (fANOVA)."),
)
Row = tuple[Inline, ...]


def tuning_section(inputs: ReportInputs) -> PageSection:
    """The study's choice beside the settings of `params.yaml`, its pictures, and the nested folds."""
    study, nested = (SourceFile.read(inputs.space, f"tune/{name}.json") for name in ("study", "nested"))
    blocks: list[Block] = []
    if study is not None:
        blocks += [_about(study), _parameters(study)]
        found = (picture_of_file(inputs.space, f"tune/{name}", caption) for name, caption in PICTURES)
        blocks += [picture for picture in found if picture is not None]
        blocks.append(_more())
    if nested is not None:
        blocks += [_about_nested(nested), _levels(nested), _folds(nested), _choices(nested)]
    synthetic = any(
        bool(source.value(*keys))
        for source, keys in ((study, ("record", "study", "synthetic")), (nested, ("data", "synthetic")))
        if source is not None
    )
    return PageSection("tune", "Tuning", tuple(blocks), synthetic, missing="mammo tune")


def _about(study: SourceFile) -> Paragraph:
    def of(*keys: str) -> Inline:
        return study.cell("record", *keys)

    own = study.value("record", "settings_of_params")
    beside: tuple[Inline, ...] = (
        (
            "; the settings of params.yaml as one of its trials: ",
            of("best", "metric"),
            " of the ",
            of("settings_of_params", "evidence"),
            " ",
            of("settings_of_params", "value"),
        )
        if isinstance(own, dict)
        else ()
    )
    return Paragraph(
        (
            of("trials", "ended"),
            " trials on ",
            of("study", "n_rois"),
            " ROIs (",
            of("study", "n_tumor"),
            " Tumor) of train and val, ",
            of("budget", "n_folds"),
            " grouped folds; the test part is never read. ",
            of("trials", "complete"),
            " complete, ",
            of("trials", "pruned"),
            " pruned, which saved ",
            of("pruning", "saved_share"),
            " of the training. Best: trial ",
            of("best", "trial"),
            ", ",
            of("best", "metric"),
            " of the ",
            of("best", "evidence"),
            " ",
            of("best", "value"),
            " (standard error over the folds ",
            of("best", "fold_standard_error"),
            ")",
            *beside,
            ". The best of several noisy trials looks better than it is: see the nested folds.",
        )
    )


def _parameters(study: SourceFile) -> Table:
    own = isinstance(study.value("record", "settings_of_params"), dict)
    rows: list[Row] = []
    for name, parameter in study.value("record", "space").items():
        rows.append(
            (
                name,
                _range(parameter),
                study.cell("record", "best", "params", name, digits=4),
                study.cell("record", "settings_of_params", "params", name, digits=4) if own else "",
                study.estimate("record", "importance", name),
            )
        )
    headings = ("parameter", "searched", "best trial", "params.yaml", "importance")
    caption = "What was searched. Importance: share of the spread by fANOVA, with interval over the complete trials."
    return Table(caption, headings, tuple(rows), study.path)


def _range(parameter: dict[str, Any]) -> str:
    if parameter["type"] == "categorical":
        return ", ".join(str(choice) for choice in parameter["choices"])
    step = f" by {parameter['step']}" if parameter.get("step") not in (None, 1) else ""
    return f"{parameter['low']} to {parameter['high']}{step}{', log' if parameter['log'] else ''}"


def _more() -> Paragraph:
    return Paragraph(
        (
            "Every trial: ",
            Cell("tune/trials.csv", "tune/trials.csv"),
            "; pairs of parameters: ",
            Cell("tune/contour.png", "tune/contour.png"),
            ", ",
            Cell("tune/parallel_coordinate.png", "tune/parallel_coordinate.png"),
            "; live: ",
            Cell("mammo tune dashboard", code=True),
            ".",
        )
    )


def _about_nested(nested: SourceFile) -> Paragraph:
    return Paragraph(
        (
            "Nested folds: each of ",
            nested.cell("settings", "n_folds"),
            " folds is held out from a study of ",
            nested.cell("trials_of_each_study"),
            " trials on the others, and judges what that study chose; ",
            nested.cell("data", "n_rois"),
            " ROIs, ",
            nested.cell("settings", "n_seeds"),
            " training seeds. Promised by the studies: mean ",
            nested.cell("metric"),
            " ",
            nested.cell("promise", "promised"),
            "; kept on ROIs that they never saw: ",
            nested.cell("promise", "kept_by_tuned"),
            ", by the settings of params.yaml there: ",
            nested.cell("promise", "kept_by_settings"),
            ". Verdict: ",
            nested.cell("effect", "verdict"),
            ".",
        )
    )


def _levels(nested: SourceFile) -> Table:
    rows: tuple[Row, ...] = (
        (
            "chosen by each fold's study",
            *(nested.estimate("tuned", "cells", name) for name in COLUMNS),
        ),
        (
            "settings of params.yaml",
            *(nested.estimate("reference", "cells", name) for name in COLUMNS),
        ),
        (
            "tuned minus settings",
            *(nested.difference("effect", "cells", name) for name in COLUMNS),
        ),
    )
    caption = "On the held-out ROIs of every fold, at the full budget; the difference is paired."
    return Table(caption, ("settings", *(TITLES[name] for name in COLUMNS)), rows, nested.path)


def _folds(nested: SourceFile) -> Table:
    keys = ("fold", "n_rois", "promised", "kept_by_tuned", "kept_by_settings", "system")
    rows = tuple(
        tuple(nested.cell("folds", row, key) for key in keys) for row in range(len(nested.content["folds"]))
    )
    headings = ("fold", "ROIs", "promised", "tuned", "settings", "chosen system")
    return Table(
        "What each study promised for its choice, and what the fold gave.", headings, rows, nested.path
    )


def _choices(nested: SourceFile) -> Table:
    names = [name for name in nested.content["folds"][0]["params"] if name != "fusion"]
    rows: tuple[Row, ...] = tuple(
        (
            nested.cell("folds", row, "fold"),
            *(nested.cell("folds", row, "params", name, digits=4) for name in names),
        )
        for row in range(len(nested.content["folds"]))
    )
    return Table("What each study chose.", ("fold", *names), rows, nested.path)
