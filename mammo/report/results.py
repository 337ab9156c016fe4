"""The evaluation as people read it: its tables and its slices."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd

from mammo.core.config import EvaluateConfig
from mammo.core.systems import FLOOR
from mammo.evaluation.conformal import RATES
from mammo.evaluation.metrics import TITLES
from mammo.evaluation.scores import Scores
from mammo.evaluation.slices import slices_by_axis
from mammo.report.blocks import Block, Cell, Heading, Inline, Paragraph, Rows, SourceFile, Table, document

RESULTS_FILE: Final = "evaluate/results.json"
PREDICTIONS_FILE: Final = "evaluate/predictions.csv"
COLUMNS: Final = ("accuracy", "recall", "specificity", "precision", "auc_score", "auc_vote_share")
FLOOR_TITLE: Final = "floor: logistic regression on 8 intensity statistics"
_COUNTS: Final = ("tp", "fn", "fp", "tn")
_COUNTS_TITLE: Final = "TP / FN / FP / TN"
_BINNINGS: Final = {"equal_mass": "equally many ROIs", "equal_width": "equal width"}


def titles(names: Iterable[str]) -> list[str]:
    """The metrics' names that people read."""
    return [TITLES[name] for name in names]


def results_blocks(results: SourceFile) -> list[Block]:
    """The systems beside the floor and the paper, at ROI level and at patch level."""
    known = results.value("data", "n_patients") is not None
    patients = results.cell("data", "n_patients") if known else "unknown to the source"
    return results.blocks("results", systems=systems_table(results), patients=patients)


def systems_table(results: SourceFile, columns: Sequence[str] = COLUMNS, caption: str = "") -> Table:
    """ROI-level rows: our systems, the floor, and the paper's on the paper's split."""
    judged: list[tuple[Inline, SourceFile]] = [(_bold(one, results), one) for one in results.each("systems")]
    judged.append((FLOOR_TITLE, results.at(FLOOR)))
    data = results.value("data")
    if (data["source"], data["protocol"]) == ("mias_rois", "published"):
        reported = (one for one in results.each("paper", "systems") if one.value("confusion"))
        judged += [(f"paper: {one.value('system')} (as reported)", one) for one in reported]
    rows = []
    for title, one in judged:
        n_rois = Cell(str(sum(one.value("confusion", key) for key in _COUNTS)), one.href("confusion"))
        rows.append((title, n_rois, _confusion(one), *one.cells(columns, "roi")))
    return results.table(("system", "ROIs", _COUNTS_TITLE, *titles(columns)), rows, caption)


def _bold(system: SourceFile, results: SourceFile) -> Cell:
    return Cell(system.name, strong=system.name == results.value("selected", "system"))


def _confusion(judged: SourceFile) -> Cell:
    counts = " / ".join(str(judged.value("confusion", key)) for key in _COUNTS)
    return Cell(counts, judged.href("confusion"), "true and false calls of Tumor and Normal")


def choice_blocks(results: SourceFile) -> list[Block]:
    """Which system was chosen, by what, and how it stands to the floor."""
    return results.blocks(
        "choice",
        bold=lambda system: _bold(system, results),
        value=results.cell("selected", results.value("selected", "by"), digits=4),
        system=results.cell("selected", "system", strong=True),
    )


def verdict(results: SourceFile, title: str) -> list[Inline]:
    """Whether the chosen system, of this title, beats the floor, and which of the others it beats."""
    margin = results.content["selected_minus_floor_auc"]
    word = "is not shown to rank ROIs better than"
    if (margin["ci_low"] or 0) > 0:
        word = "ranks ROIs better than"
    elif (margin["ci_high"] or 0) < 0:
        word = "ranks ROIs worse than"
    standing: dict[str, list[str]] = {}
    for one in results.content["comparisons"]:
        if one["name_b"] == FLOOR:
            continue
        key = "is not distinguishable from"
        if one["decisions_differ"]:  # by McNemar's test
            key = f"decides {['fewer', 'more'][one['accuracy_difference'] > 0]} of them rightly than"
        elif one["scores_differ"]:
            key = f"ranks them {['worse', 'better'][one['auc_difference']['value'] > 0]} than"
        standing.setdefault(key, []).append(str(one["name_b"]))
    others = "; it ".join(f"{key} {', '.join(names)}" for key, names in standing.items())
    floor = f"{title} {word} the floor, eight intensity statistics without texture: AUC "
    margin_cell = results.cell("selected_minus_floor_auc", signed=True)
    return [floor, margin_cell, ". ", *([f"On these ROIs it {others}."] if others else [])]


def comparisons_blocks(results: SourceFile) -> list[Block]:
    """Whether the chosen system differs from the others, in words and in numbers."""
    verdicts = [Paragraph((one.cell("verdict"),)) for one in results.each("comparisons")]
    return results.blocks("comparisons", verdicts=verdicts)


def operation_blocks(results: SourceFile) -> list[Block]:
    """How the systems are operated: thresholds, operating points, calibration, referral."""
    systems = list(results.each("systems"))
    calibration: list[Sequence[Inline]] = []
    for system in systems:
        line = system.at("calibration", "calibrator")
        fitted = Cell(f"{line.value('slope'):.3f}, {line.value('intercept'):.3f}", line.href())
        for kind, shown in (("raw", ""), ("calibrated", fitted)):
            judged = system.at("calibration", kind)
            perfect = judged.at("calibration_error_if_perfect")
            mean, upper = perfect.value("mean"), perfect.value("upper")
            chance = "" if mean is None else Cell(f"{mean:.3f} (below {upper:.3f})", perfect.href())
            errors = judged.cells(("brier", "calibration_error"))
            calibration.append((system.name, kind, shown, *errors, chance))
    first, columns = systems[0].at("calibration"), ("Brier score", "Expected calibration error", "If perfect")

    def decides(one: SourceFile) -> Cell:
        ships = bool(one.value("ships"))
        text = f"{one.value('name')}: {one.value('threshold'):.3f}{' (ships)' if ships else ''}"
        return Cell(text, one.href("threshold"), strong=ships)

    return results.blocks(
        "operation",
        system=lambda one: one.place[1],
        decides=decides,
        confusion=_confusion,
        held=lambda one: Cell(f"{one.value('fixed')} {one.value('target'):.2f}", one.href("target")),
        calibration=results.table(("system", "scores", "slope, intercept", *columns), calibration),
        referral=referral_table(results, [system.at("referral") for system in systems]),
        n_bins=first.cell("n_bins"),
        binning=_BINNINGS[first.value("binning")],
    )


def referral_table(source: SourceFile, folds: Iterable[SourceFile], *more: Sequence[Inline]) -> Table:
    """What prediction sets promised and what came of it, one row a fold; `more` rows below."""
    rows: Rows = [
        (
            *fold.cells(("fold", "n_calibration")),
            fold.cell("promise", digits=2),
            *fold.cells((*RATES, "verdict")),
        )
        for fold in folds
    ]
    headings = ("fold", "ROIs that fitted", "promise", *RATES.values(), "promise was")
    return source.table(headings, [*rows, *more])


def results_markdown(results: dict[str, Any]) -> str:
    """All tables of one evaluation."""
    source = SourceFile(RESULTS_FILE, results)
    blocks = [*results_blocks(source), *choice_blocks(source), Heading("Are they different?")]
    blocks += [*comparisons_blocks(source), *operation_blocks(source)]
    return document("Test results", blocks, synthetic=results["data"]["synthetic"])


def slices_blocks(slices: SourceFile, systems: Sequence[str]) -> list[Block]:
    """A table of the systems on the slices of each axis, or that the source does not know it."""
    blocks: list[Block] = []
    for axis in slices.each("axes"):
        title, known = axis.value("title"), axis.value("systems", systems[0])
        if not known:
            blocks.append(Paragraph((f"{title}: unknown to the source for all of these ROIs. No slice.",)))
            continue
        names = list(known[0]["metrics"])
        rows: list[Sequence[Inline]] = []
        for index in range(len(known)):
            for system in systems:
                row = axis.at("systems", system, index)
                counts, metrics = row.cells(("n_rois", "n_tumor")), row.cells(names, "metrics")
                rows.append((f"{row.value('value')}: {system}", *counts, *metrics))
        caption = f"{title}. n/a: the slice lacks what the metric needs."
        if axis.value("of_lesions"):
            caption += " The AUC sets the slice's Tumor ROIs against all Normal ROIs."
        blocks.append(slices.table(("slice: system", "ROIs", "Tumor", *titles(names)), rows, caption))
    return blocks


def slice_report(
    predictions: pd.DataFrame, rois: pd.DataFrame, config: EvaluateConfig, data: dict[str, Any]
) -> dict[str, Any]:
    """Every system of `read_predictions` on every slice of the ROI table, ready for JSON.

    Beside `data`, what `assess.describe_data` says of the judged part, stand the `axes` of `slices_by_axis`.
    """
    judged = {str(system): Scores.of_predictions(rows) for system, rows in predictions.groupby("system", sort=False)}
    return {"data": data, "axes": slices_by_axis(judged, rois, **config.resampling)}
