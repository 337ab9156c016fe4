"""The files of the evaluation: numbers for programs, tables and pictures for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate
from mammo.evaluation.metrics import Confusion
from mammo.evaluation.scores import Scores
from mammo.evaluation.voting import roi_votes
from mammo.report.curves import (
    confusion_matrices,
    referral_picture,
    reliability_diagram,
    roc_and_precision_recall,
    training_curves,
)
from mammo.report.operation import operation_markdown
from mammo.report.rois import VotedRoi, wrong_rois_sheet
from mammo.report.tables import results_markdown
from mammo.systems.assess import FLOOR, Assessment, operation_estimates


def write_results(space: Workspace, assessment: Assessment) -> None:
    """Write `reports/evaluate/` and the flat `reports/metrics.json` that `dvc metrics diff` compares."""
    folder = space.reports / "evaluate"
    results = assessment.results
    write_json(folder / "results.json", results)
    write_json(space.reports / "metrics.json", flat_metrics(results))
    text = results_markdown(results) + operation_markdown(results, list(assessment.referrals.values()))
    write_bytes(folder / "results.md", text.encode())
    with atomic_path(folder / "predictions.csv") as temporary:
        assessment.predictions.to_csv(temporary, index=False)
    draw_results(space, assessment, folder)


def flat_metrics(results: dict[str, Any]) -> dict[str, Any]:
    """The values alone: system → metric → value, with the floor and the number of ROIs.

    The floor has no calibrator and no prediction sets.
    """
    judged = {**results["systems"], FLOOR: results[FLOOR]}
    values = {
        name: {metric: estimate["value"] for metric, estimate in entry["roi"].items()}
        | {"n_rois": entry["n_rois"]}
        for name, entry in judged.items()
    }
    for name, entry in results["systems"].items():
        values[name] |= {metric: estimate["value"] for metric, estimate in operation_estimates(entry).items()}
    return {"test": values, "selected": {"system": results["selected"]["system"]}}


def draw_results(space: Workspace, assessment: Assessment, folder: Path) -> None:
    """Draw curves, confusion matrices, reliability, referral, and each system's training and errors."""
    note = assessment.results["data"]["note"]
    judged = {**assessment.scored, FLOOR: assessment.floor}
    entries = {**assessment.results["systems"], FLOOR: assessment.results[FLOOR]}
    scores = {name: scored.scores[0] for name, scored in judged.items()}
    aucs = {name: _estimate(entries[name]["roi"]["auc_score"]) for name in judged}
    roc_and_precision_recall(assessment.test.labels, scores, aucs, folder / "curves.png", note)
    confusions = {name: Confusion(**entry["confusion"]) for name, entry in entries.items()}
    confidence = entries[FLOOR]["roi"]["accuracy"]["confidence"]
    confusion_matrices(confusions, folder / "confusion.png", note, confidence)
    draw_operation(assessment, folder)
    for name, scored in assessment.scored.items():
        history = pd.read_csv(space.reports / "train" / f"{name}.csv")
        training_curves(
            history, name, folder / f"training-{name}.png", note.replace("test ROIs", "test ROIs held out")
        )
        draw_errors(assessment, name, scored, folder / f"errors-{name}.png")


def draw_operation(assessment: Assessment, folder: Path) -> None:
    """Draw reliability before and after calibration, and coverage and referral rate against the promise."""
    results = assessment.results
    systems = {
        name: (scored.scores[0], assessment.bundles[name].calibrator.apply(scored.scores[0]))
        for name, scored in assessment.scored.items()
    }
    first = next(iter(results["systems"].values()))["calibration"]
    reliability_diagram(
        assessment.test.labels,
        systems,
        folder / "reliability.png",
        results["data"]["note"],
        binning=first["binning"],
        n_bins=first["n_bins"],
        confidence=first["raw"]["brier"]["confidence"],
    )
    folds = list(assessment.referrals.values())
    referral_picture(folds, folder / "referral.png", results["data"]["note"])


def draw_errors(assessment: Assessment, name: str, scored: Scores, path: Path) -> None:
    """Draw the sheet of a system's wrong ROIs with their votes."""
    bundle = assessment.bundles[name]
    voted = [
        VotedRoi(roi_id, image, Label(int(label)), vote)
        for roi_id, image, label, vote in zip(
            assessment.test.table["roi_id"],
            assessment.test.images,
            scored.labels,
            roi_votes(scored.patch_scores[0], bundle.vote, bundle.calibrator, bundle.conformal),
            strict=True,
        )
    ]
    corners = bundle.corners
    wrong_rois_sheet(voted, corners, path, assessment.results["data"]["note"], title=f"Wrong ROIs of {name}")


def _estimate(fields: Mapping[str, Any]) -> Estimate:
    """The inverse of `Estimate.to_dict`: null is NaN again."""
    values: dict[str, Any] = {key: float("nan") if value is None else value for key, value in fields.items()}
    return Estimate(**values)
