"""How the systems are operated, in markdown: thresholds, operating points, calibration, referral."""

from collections.abc import Sequence
from typing import Any, Final

from mammo.evaluation.conformal import FoldReferral
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES
from mammo.report.markdown import markdown_table
from mammo.report.referral import referral_table
from mammo.report.tables import cell, confusion_counts

_BINNINGS: Final = {"equal_mass": "equally many ROIs", "equal_width": "equal width"}


def operation_markdown(results: dict[str, Any], folds: Sequence[FoldReferral]) -> str:
    """The sections of `results.md` on thresholds, operating points, calibration and referral."""
    systems = results["systems"]
    first = next(iter(systems.values()))
    confidence = percent(first["referral"]["coverage"]["confidence"])
    calibration = first["calibration"]
    return "\n".join(
        [
            "",
            "## Decision threshold",
            "",
            "A ROI is Tumor when its vote share (rule `majority`) or its mean score (`mean_score`) is above the "
            "threshold. `fixed` is the paper's plain rule; `validation` is fitted to the system's own votes on the "
            "validation part, where it aims at balanced accuracy. That part has also chosen the epoch, so that only "
            f"the test values below are honest. {confidence} intervals: Wilson, BCa bootstrap for balanced accuracy.",
            "",
            *thresholds_table(systems),
            "",
            "## Operating points",
            "",
            "Thresholds of the mean patch score that hold one rate at its target on the validation part; both rates "
            f"are those of the test part, with {confidence} Wilson intervals.",
            "",
            *operating_points_table(systems),
            "",
            "## Calibration",
            "",
            "The calibrator (Platt, on the logit of the mean patch score) is fitted on the validation part and ships "
            f"with the model. Expected calibration error over {calibration['n_bins']} bins of "
            f"{_BINNINGS[calibration['binning']]}; on so few ROIs it is above 0 even where the scores are the true "
            "probabilities. *If perfect* is its mean then, with the value that "
            f"{confidence} of such sets stay below. {confidence} intervals: bootstrap of groups, BCa for the Brier "
            "score, basic for the calibration error (chance lifts the value, so that the interval may lie below it). "
            "Picture: `reliability.png`.",
            "",
            *calibration_table(systems),
            "",
            "## Referral",
            "",
            "Split-conformal prediction sets, fitted on the validation part; a ROI whose set holds both classes is "
            f"referred to a reader. {confidence} Wilson intervals; *missed* means that the whole interval lies below "
            "the promise. Picture: `referral.png`.",
            "",
            *referral_table(folds),
            "",
        ]
    )


def thresholds_table(systems: dict[str, Any]) -> list[str]:
    """Every system at the paper's threshold and at validation's; the one that ships is bold."""
    metrics = ("accuracy", "recall", "specificity", "balanced_accuracy")
    rows = []
    for name, entry in systems.items():
        for row in entry["thresholds"]:
            threshold = f"{row['name']}: {row['threshold']:.3f}"
            shown = f"**{threshold} (ships)**" if row["ships"] else threshold
            cells = [cell(row["roi"][metric]) for metric in metrics]
            rows.append([name, shown, confusion_counts(row["confusion"]), *cells])
    titles = [TITLES[metric] for metric in metrics]
    return markdown_table(["system", "threshold", "TP / FN / FP / TN", *titles], rows)


def operating_points_table(systems: dict[str, Any]) -> list[str]:
    """Sensitivity at fixed specificity, and the reverse."""
    rows = [
        [
            name,
            f"{point['fixed']} {point['target']:.2f}",
            f"{point['threshold']:.3f}",
            cell(point["recall"]),
            cell(point["specificity"]),
        ]
        for name, entry in systems.items()
        for point in entry["operating_points"]
    ]
    headings = ["system", "held on validation", "threshold", "Tumor recall (sensitivity)", "Specificity"]
    return markdown_table(headings, rows)


def calibration_table(systems: dict[str, Any]) -> list[str]:
    """Brier score and calibration error, raw and calibrated."""
    headings = [
        "system",
        "scores",
        "slope, intercept",
        "Brier score",
        "Expected calibration error",
        "If perfect",
    ]
    rows = []
    for name, entry in systems.items():
        line = entry["calibration"]["calibrator"]
        for kind in ("raw", "calibrated"):
            judged = entry["calibration"][kind]
            perfect = judged["calibration_error_if_perfect"]
            shown = "" if kind == "raw" else f"{line['slope']:.3f}, {line['intercept']:.3f}"
            chance = (
                "" if perfect["mean"] is None else f"{perfect['mean']:.3f} (below {perfect['upper']:.3f})"
            )
            rows.append([name, kind, shown, cell(judged["brier"]), cell(judged["calibration_error"]), chance])
    return markdown_table(headings, rows)
