"""The section on how a system is operated: thresholds, operating points, calibration, referral to a reader."""

from mammo.report.document import (
    Block,
    Cell,
    Inline,
    PageSection,
    SourceFile,
    Table,
    picture_of_file,
    shown,
)
from mammo.report.report_inputs import ReportInputs

_RATES = ("coverage", "coverage_normal", "coverage_tumor", "referral_rate")


def operation_section(inputs: ReportInputs) -> PageSection:
    """What the evaluation says about thresholds, calibration and referral; missing when it says nothing."""
    results = inputs.results
    tables = (_thresholds(results), _points(results), _calibration(results), _referral(results))
    captions = {
        "reliability": "Reliability before and after calibration.",
        "referral": "Coverage and referral rate against the promise.",
    }
    pictures = (
        picture_of_file(inputs.space, f"evaluate/{name}.png", caption) for name, caption in captions.items()
    )
    blocks: list[Block] = [table for table in tables if table.rows]
    blocks += [picture for picture in pictures if picture is not None]
    missing = "dvc repro evaluate"
    return PageSection(
        "operation",
        "Thresholds, calibration and referral",
        tuple(blocks),
        inputs.synthetic,
        missing,
    )


def _systems_with(results: SourceFile, key: str) -> list[str]:
    return [name for name, entry in results.content["systems"].items() if entry.get(key)]


def _thresholds(results: SourceFile) -> Table:
    metrics = ("accuracy", "recall", "specificity", "balanced_accuracy")
    rows: list[tuple[Inline, ...]] = []
    for system in _systems_with(results, "thresholds"):
        for index, row in enumerate(results.value("systems", system, "thresholds")):
            keys = ("systems", system, "thresholds", index)
            ships = " (ships)" if row["ships"] else ""
            threshold = Cell(
                f"{row['name']}: {shown(row['threshold'])}{ships}",
                results.href(*keys, "threshold"),
                strong=row["ships"],
            )
            rows.append((system, threshold, *(results.estimate(*keys, "roi", metric) for metric in metrics)))
    headings = ("system", "threshold", "Accuracy", "Tumor recall", "Specificity", "Balanced accuracy")
    caption = (
        "Decision threshold: the paper's (fixed) and the one fitted on the validation part, on the test part."
    )
    return Table(caption, headings, tuple(rows), results.path)


def _points(results: SourceFile) -> Table:
    rows: list[tuple[Inline, ...]] = []
    for system in _systems_with(results, "operating_points"):
        for index, point in enumerate(results.value("systems", system, "operating_points")):
            keys = ("systems", system, "operating_points", index)
            held = Cell(f"{point['fixed']} {point['target']:.2f}", results.href(*keys, "target"))
            threshold = results.cell(*keys, "threshold")
            estimates = (results.estimate(*keys, rate) for rate in ("recall", "specificity"))
            rows.append((system, held, threshold, *estimates))
    headings = ("system", "held on validation", "threshold", "Tumor recall", "Specificity")
    caption = "Operating points: one rate held at its target on the validation part, both as found on the test part."
    return Table(caption, headings, tuple(rows), results.path)


def _calibration(results: SourceFile) -> Table:
    columns = [(kind, name) for name in ("brier", "calibration_error") for kind in ("raw", "calibrated")]
    rows: tuple[tuple[Inline, ...], ...] = tuple(
        (system, *(results.estimate("systems", system, "calibration", *column) for column in columns))
        for system in _systems_with(results, "calibration")
    )
    headings = (
        "system",
        "Brier, raw",
        "Brier, calibrated",
        "calibration error, raw",
        "calibration error, calibrated",
    )
    return Table(
        "Calibration of the mean patch score; the calibrator is fitted on the validation part. Chance lifts the "
        "calibration error of so few ROIs, so that its interval may lie below it.",
        headings,
        rows,
        results.path,
    )


def _referral(results: SourceFile) -> Table:
    rows: tuple[tuple[Inline, ...], ...] = tuple(
        (
            system,
            results.cell("systems", system, "referral", "promise", digits=2),
            *(results.estimate("systems", system, "referral", rate) for rate in _RATES),
            results.cell("systems", system, "referral", "verdict"),
        )
        for system in _systems_with(results, "referral")
    )
    headings = ("system", "promise", "Coverage", "of Normal", "of Tumor", "Referral rate", "promise was")
    return Table(
        "Referral: a ROI whose prediction set holds both classes goes to a reader.",
        headings,
        rows,
        results.path,
    )
