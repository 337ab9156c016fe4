"""The files of the evaluation: `reports/evaluate/`, and what `dvc metrics` and `dvc plots` show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.records import Label
from mammo.core.systems import FLOOR
from mammo.evaluation.calibration import reliability
from mammo.evaluation.intervals import Estimate
from mammo.evaluation.metrics import Confusion
from mammo.evaluation.voting import roi_votes
from mammo.report.curves import (
    confusion_matrices,
    referral_picture,
    reliability_diagram,
    roc_and_precision_recall,
    training_curves,
)
from mammo.report.results import PREDICTIONS_FILE, RESULTS_FILE, results_markdown
from mammo.report.rois import VotedRoi, wrong_rois_sheet
from mammo.systems.assess import Assessment

FEW: Final = {
    "auc": "auc_score",
    **{name: name for name in ("accuracy", "recall", "specificity", "balanced_accuracy")},
}
"""What `dvc metrics` shows of a system, and the estimates that it comes from."""


def write_results(workspace: Workspace, assessment: Assessment) -> None:
    """Write `reports/evaluate/`, and what `dvc metrics` and `dvc plots` show: `reports/metrics/`, `reports/plots/`."""
    folder, results = workspace.reports / "evaluate", assessment.results
    write_json(workspace.reports / RESULTS_FILE, results)
    for system, values in few_metrics(results).items():
        write_json(workspace.reports / "metrics" / f"{system}.json", values)
    histories = {
        name: pd.read_csv(workspace.reports / "train" / f"{name}.csv") for name in results["systems"]
    }
    for name, table in plot_tables(assessment, histories).items():
        with atomic_path(workspace.reports / "plots" / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    write_bytes(folder / "results.md", results_markdown(results).encode())
    with atomic_path(workspace.reports / PREDICTIONS_FILE) as temporary:
        assessment.predictions.to_csv(temporary, index=False)
    _draw(assessment, histories, folder)


def few_metrics(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The main test results of each system, as many as fit a screen."""
    return {
        name: {title: _rounded(entry["roi"][metric]["value"]) for title, metric in FEW.items()}
        for name, entry in {**results["systems"], FLOOR: results[FLOOR]}.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _draw(assessment: Assessment, histories: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Draw curves, confusion matrices, reliability, referral, and each system's training and errors."""
    results, test = assessment.results, assessment.test
    note, labels = results["data"]["note"], test.labels
    entries = {**results["systems"], FLOOR: results[FLOOR]}
    scores = {name: one.scores[0] for name, one in {**assessment.scored, FLOOR: assessment.floor}.items()}
    aucs = {name: Estimate.from_dict(entries[name]["roi"]["auc_score"]) for name in scores}
    roc_and_precision_recall(labels, scores, aucs, folder / "curves.png", note)
    confusions = {name: Confusion(**entry["confusion"]) for name, entry in entries.items()}
    confidence = entries[FLOOR]["roi"]["accuracy"]["confidence"]
    confusion_matrices(confusions, folder / "confusion.png", note, confidence)
    bundles, first = assessment.bundles, next(iter(entries.values()))["calibration"]
    systems = {name: (scores[name], bundles[name].calibrator.apply(scores[name])) for name in bundles}
    how = {"binning": first["binning"], "n_bins": first["n_bins"], "confidence": confidence}
    reliability_diagram(labels, systems, folder / "reliability.png", note, **how)
    referral_picture(list(assessment.referrals.values()), folder / "referral.png", note)
    held_out = note.replace("test ROIs", "test ROIs held out")
    for name, bundle in bundles.items():
        training_curves(histories[name], name, folder / f"training-{name}.png", held_out)
        patch_scores = assessment.scored[name].patch_scores[0]
        votes = roi_votes(patch_scores, bundle.vote, bundle.calibrator, bundle.conformal)
        rows = zip(test.table["roi_id"], test.images, map(Label, labels), votes, strict=True)
        path, title = folder / f"errors-{name}.png", f"Wrong ROIs of {name}"
        wrong_rois_sheet([VotedRoi(*row) for row in rows], bundle.corners, path, note, title=title)


def plot_tables(assessment: Assessment, histories: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables `learning`, `roc`, `reliability` (of calibrated probabilities) and `confusion` of the test part.

    `point` numbers a system's rows in the order in which they are drawn.
    """
    labels, entries = assessment.test.labels, assessment.results["systems"]
    scores = {name: one.scores[0] for name, one in {**assessment.scored, FLOOR: assessment.floor}.items()}
    rates = {name: roc_curve(labels, one, drop_intermediate=False) for name, one in scores.items()}
    bins = {}
    for name, bundle in assessment.bundles.items():
        cut = entries[name]["calibration"]
        bins[name] = reliability(
            labels,
            bundle.calibrator.apply(scores[name]),
            binning=cut["binning"],
            n_bins=cut["n_bins"],
            confidence=entries[name]["roi"]["accuracy"]["confidence"],
        )
    decided = assessment.predictions[["system", "label", "decision"]]
    return {
        "learning": _stacked(histories),
        "roc": _stacked(
            {
                name: pd.DataFrame({"false_positive_rate": false, "true_positive_rate": true})
                for name, (false, true, _) in rates.items()
            }
        ),
        "reliability": _stacked(bins),
        "confusion": decided.rename(columns={"label": "actual", "decision": "predicted"}),
    }


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    numbered = {name: table.assign(point=np.arange(len(table))) for name, table in tables.items()}
    return pd.concat(numbered, names=["system"]).reset_index("system").reset_index(drop=True)
