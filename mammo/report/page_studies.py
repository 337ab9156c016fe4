"""Sections on the studies of many fits: the ledger, the ablation of the paper's defects, the choice of settings."""

from typing import Final

from mammo.evaluation.metrics import TITLES
from mammo.report.document import (
    Block,
    Inline,
    PageSection,
    Paragraph,
    Picture,
    SourceFile,
    Table,
    picture_of_file,
)
from mammo.report.report_inputs import ReportInputs
from mammo.report.variants import VERDICTS, settings_in_words

LEVELS: Final = ("accuracy", "recall", "precision", "auc_score")
EFFECTS: Final = ("auc_score", "accuracy", "recall", "specificity")
Row = tuple[Inline, ...]


def ledger_section(inputs: ReportInputs) -> PageSection:
    """Every system under the published and the honest protocol, what it adds to the floor, and the gap between them."""
    title, source = "Ledger", SourceFile.read(inputs.space, "ledger/ledger.json")
    if source is None:
        return PageSection("ledger", title, missing="mammo ledger")
    metrics = tuple(TITLES[name] for name in LEVELS)
    tables = [
        Table(
            "Mean over the runs, with interval. Honest: a fold is held out, an inner one chooses.",
            ("protocol", "system", "ROIs", "runs", *metrics),
            tuple(_level(source, row) for row in range(len(source.content["rows"]))),
            source.path,
        ),
        Table(
            "Minus the floor, paired on the same ROIs under the same protocol.",
            ("protocol", "system", *metrics),
            _differences(source, "minus_floor"),
            source.path,
        ),
        Table(
            "Between the systems, paired on the same ROIs, seeds and folds.",
            ("protocol", "systems", *metrics),
            _differences(source, "between_systems"),
            source.path,
        ),
        Table(
            "Published minus honest: as the two protocols report it, and on the published test ROIs alone.",
            ("system", "accuracy", "AUC", "accuracy, same ROIs", "AUC, same ROIs"),
            tuple(_gap(source, row) for row in range(len(source.content["gaps"]))),
            source.path,
        ),
        Table(
            "Prediction sets of the system that each honest fold's validation part chose: promise and delivery.",
            ("fold", "promised coverage", "coverage", "referral rate", "verdict"),
            tuple(_referral(source, row) for row in range(len(source.content["referral"]))),
            source.path,
        ),
    ]
    blocks: list[Block] = [_about(source), *(table for table in tables if table.rows)]
    blocks += _pictures(
        inputs,
        ("ledger/ledger.png", "The ledger's intervals by protocol."),
        ("ledger/referral.png", "Coverage and referral rate by honest fold."),
    )
    return PageSection("ledger", title, tuple(blocks), bool(source.value("data", "synthetic")))


def ablation_section(inputs: ReportInputs) -> PageSection:
    """Each defect of the paper's recipe, toggled alone."""
    title, source = "Ablation of the paper's defects", SourceFile.read(inputs.space, "ablate/ablate.json")
    if source is None:
        return PageSection("ablate", title, missing="mammo ablate")
    table = Table(
        f"With the defect minus without it, paired on the same ROIs; {source.content['system']}.",
        ("defect", "in our settings", *(TITLES[name] for name in EFFECTS), "ROIs", *VERDICTS),
        tuple(_defect(source, row) for row in range(len(source.content["defects"]))),
        source.path,
    )
    return PageSection("ablate", title, (_about(source), table), bool(source.value("data", "synthetic")))


def choices_section(inputs: ReportInputs) -> PageSection:
    """What `mammo study` compared within train and val to choose settings by."""
    blocks: list[Block] = []
    synthetic = False
    for file in sorted((inputs.space.reports / "study").glob("*.json")):
        source = SourceFile.read(inputs.space, f"study/{file.name}")
        if source is None:
            continue
        synthetic |= bool(source.value("data", "synthetic"))
        differs = settings_in_words(source.value("reference", "overrides") or {}).replace("`", "")
        reference = f"params.yaml with {differs}" if differs else "params.yaml as it was"
        question = Paragraph((f"{source.value('name')}: {source.value('question') or ''}".strip(": "),))
        table = Table(
            f"Variant minus reference ({reference}), within train and val; {source.content['system']}.",
            ("variant", *(TITLES[name] for name in EFFECTS), "ROIs", *VERDICTS),
            tuple(
                (
                    source.cell("variants", row, "name"),
                    *(source.difference("variants", row, "effect", "cells", name) for name in EFFECTS),
                    source.cell("variants", row, "effect", "n_rois"),
                    source.cell("variants", row, "effect", "verdict"),
                    source.cell("variants", row, "effect", "together", "verdict"),
                )
                for row in range(len(source.content["variants"]))
            ),
            source.path,
        )
        blocks += [question, _about(source), table]
    missing = "mammo study pipelines/studies/choices.yaml"
    return PageSection("study", "Choice of settings", tuple(blocks), synthetic, missing=missing)


def _about(source: SourceFile) -> Paragraph:
    return Paragraph(
        (
            source.cell("data", "name"),
            ": ",
            source.cell("data", "n_rois"),
            " (",
            source.cell("data", "n_tumor"),
            " Tumor) in ",
            source.cell("data", "n_groups"),
            " groups; folds ",
            source.cell("settings", "n_folds"),
            ", repeats ",
            source.cell("settings", "n_repeats"),
            ", seeds ",
            source.cell("settings", "n_seeds"),
            ".",
        )
    )


def _level(source: SourceFile, row: int) -> Row:
    head = (source.cell("rows", row, key) for key in ("protocol", "name", "n_rois", "n_runs"))
    return (*head, *(source.estimate("rows", row, "cells", name) for name in LEVELS))


def _differences(source: SourceFile, key: str) -> tuple[Row, ...]:
    return tuple(
        (
            source.cell(key, row, "protocol"),
            source.cell(key, row, "name"),
            *(source.difference(key, row, "cells", name) for name in LEVELS),
        )
        for row in range(len(source.content.get(key, [])))
    )


def _gap(source: SourceFile, row: int) -> Row:
    cells = (
        source.difference("gaps", row, rois, name)
        for rois in ("cells", "same_rois")
        for name in ("accuracy", "auc_score")
    )
    return (source.cell("gaps", row, "name"), *cells)


def _referral(source: SourceFile, row: int) -> Row:
    return (
        source.cell("referral", row, "fold"),
        source.cell("referral", row, "promise", digits=2),
        source.estimate("referral", row, "coverage"),
        source.estimate("referral", row, "referral_rate"),
        source.cell("referral", row, "verdict"),
    )


def _defect(source: SourceFile, row: int) -> Row:
    at = ("defects", row)
    head = tuple(source.cell(*at, key) for key in ("name", "in_reference"))
    if source.value(*at, "effect") is None:
        return (*head, *("" for _ in EFFECTS), "", str(source.value(*at, "reason")), "")
    return (
        *head,
        *(source.difference(*at, "effect", "cells", name) for name in EFFECTS),
        source.cell(*at, "effect", "n_rois"),
        source.cell(*at, "effect", "verdict"),
        source.cell(*at, "effect", "together", "verdict"),
    )


def _pictures(inputs: ReportInputs, *wanted: tuple[str, str]) -> list[Picture]:
    found = (picture_of_file(inputs.space, path, caption) for path, caption in wanted)
    return [picture for picture in found if picture is not None]
