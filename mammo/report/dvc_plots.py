"""Tables behind `dvc plots show`: all systems in one, told apart by the column `system`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from mammo.evaluation.calibration import reliability
from mammo.systems.assess import FLOOR, Assessment


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
