"""What a run's artifacts say of a system: 40 ROIs in 20 groups, of which the candidate and the champion miss few."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

LEAKED = "test/Tumor (19)"
COLUMNS = ["system", "part", "roi_id", "group_id", "label", "decision", "vote_share", "score", "probability"]


def predictions(*systems: str) -> pd.DataFrame:
    """Of each system and the floor. Systems rank all ROIs rightly, the floor one of ten of each class wrongly.

    Probabilities are 0.1 for Normal and 0.9 for Tumor. One ROI more is leaked, and missed by all.
    """
    rows: list[list[Any]] = []
    for system in (*systems, "floor"):
        for label in ("Normal", "Tumor"):
            for index in range(20 if label == "Normal" else 19):
                wrong = system == "floor" and index % 10 == 0
                tumor = (label == "Tumor") != wrong
                score = (0.6 if tumor else 0.2) + index / 100
                probability = None if system == "floor" else 0.9 if tumor else 0.1
                decision = "Tumor" if tumor else "Normal"
                roi = f"test/{label} ({index})"
                rows.append([system, "test", roi, f"g{index // 2}", label, decision, score, score, probability])
        rows.append([system, "test", LEAKED, "g9", "Tumor", "Normal", 0.0, 0.0, None if system == "floor" else 0.0])
    return pd.DataFrame(rows, columns=COLUMNS)


def write_beside_results(reports: Path, *systems: str) -> None:
    """Predictions, the audit's list and counts, and expectations that are kept."""
    for folder in ("evaluate", "audit", "expectations"):
        (reports / folder).mkdir(parents=True, exist_ok=True)
    predictions(*systems).to_csv(reports / "evaluate" / "predictions.csv", index=False)
    flagged = [[LEAKED, "test", "train", ""], ["test/Normal (3)", "test", "", "train"]]
    table = pd.DataFrame(flagged, columns=["roi_id", "split", "tissue_in", "patient_in"])
    table.to_csv(reports / "audit" / "flagged_rois.csv", index=False)
    (reports / "audit" / "summary.json").write_text(json.dumps({"n_test_rois": 40, "n_leaked_test_rois": 1}))
    rules = {
        "rows": {"severity": "critical", "kept": True},
        "n_parts": {"severity": "warning", "kept": False},
    }
    for name in ("rois", "leakage", "patches"):
        (reports / "expectations" / f"{name}.json").write_text(json.dumps({"expectations": rules}))
