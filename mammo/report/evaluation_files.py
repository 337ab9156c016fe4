"""The files of the evaluation: `reports/evaluate/`, and what `dvc metrics` and `dvc plots` show."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.records import Label
from mammo.core.systems import FLOOR
from mammo.evaluation.intervals import percent
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
    """Write `reports/evaluate/`, and what `dvc metrics` and `dvc plots` show: `reports/metrics/`, `reports/plots/`.

    `dvc metrics` shows `FEW` of each system, as many as fit a screen; `dvc plots` learning curves, ROC, reliability of
    the calibrated probabilities and confusion, each system's rows numbered by `point` in the order of drawing.
    """
    reports, results, test = workspace.reports, assessment.results, assessment.test
    bundles, note, labels = assessment.bundles, results["data"]["note"], test.labels
    entries = {**results["systems"], FLOOR: results[FLOOR]}
    histories = {name: pd.read_csv(reports / "train" / f"{name}.csv") for name in results["systems"]}
    scores = {name: one.scores[0] for name, one in {**assessment.scored, FLOOR: assessment.floor}.items()}
    calibrated = {name: bundle.calibrator.apply(scores[name]) for name, bundle in bundles.items()}

    write_json(reports / RESULTS_FILE, results)
    write_bytes((reports / RESULTS_FILE).with_suffix(".md"), results_markdown(results).encode())
    for name, entry in entries.items():
        values = {title: entry["roi"][metric]["value"] for title, metric in FEW.items()}
        rounded = {title: None if value is None else round(value, 4) for title, value in values.items()}
        write_json(reports / "metrics" / f"{name}.json", rounded)
    rates = {}
    for name, one in scores.items():
        false, true, _ = roc_curve(labels, one, drop_intermediate=False)
        rates[name] = pd.DataFrame({"false_positive_rate": false, "true_positive_rate": true})
    decided = assessment.predictions[["system", "label", "decision"]]
    tables = {
        PREDICTIONS_FILE: assessment.predictions,
        "plots/learning.csv": _stacked(histories),
        "plots/roc.csv": _stacked(rates),
        "plots/reliability.csv": _stacked(
            {
                name: pd.DataFrame(entry["calibration"]["calibrated"]["bins"])
                for name, entry in results["systems"].items()
            }
        ),
        "plots/confusion.csv": decided.rename(columns={"label": "actual", "decision": "predicted"}),
    }
    for file, table in tables.items():
        with atomic_path(reports / file) as temporary:
            table.to_csv(temporary, index=False)

    folder = reports / "evaluate"
    judged = f"{note}; {percent(results[FLOOR]['roi']['accuracy']['confidence'])} intervals"
    roc_and_precision_recall(labels, scores, entries, folder / "curves.png", judged)
    confusion_matrices(entries, folder / "confusion.png", judged)
    reliability_diagram(labels, results["systems"], calibrated, folder / "reliability.png", judged)
    referrals = [entry["referral"] for entry in results["systems"].values()]
    referral_picture(referrals, folder / "referral.png", judged)
    held_out = note.replace("test ROIs", "test ROIs held out")
    for name, bundle in bundles.items():
        training_curves(histories[name], name, folder / f"training-{name}.png", held_out)
        patch_scores = assessment.scored[name].patch_scores[0]
        votes = roi_votes(patch_scores, bundle.vote, bundle.calibrator, bundle.conformal)
        rows = zip(test.table["roi_id"], test.images, map(Label, labels), votes, strict=True)
        path, title = folder / f"errors-{name}.png", f"Wrong ROIs of {name}"
        wrong_rois_sheet([VotedRoi(*row) for row in rows], bundle.corners, path, note, title=title)


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    numbered = {name: table.assign(point=np.arange(len(table))) for name, table in tables.items()}
    return pd.concat(numbered, names=["system"]).reset_index("system").reset_index(drop=True)
