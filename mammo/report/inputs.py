"""What the page and the model card rest on, read once; the slices and the provenance, which no earlier stage knows."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo.core.config import Config
from mammo.core.files import Workspace, missing_file, read_json, read_table, write_json
from mammo.core.provenance import fingerprint, library_versions
from mammo.core.records import SPLITS, Label
from mammo.data.rois import read_rois
from mammo.models.bundle import DESCRIPTION_FILE
from mammo.report.results import PREDICTIONS_FILE, RESULTS_FILE
from mammo.report.slices import slice_report
from mammo.report.source import SourceFile


@dataclass(frozen=True)
class ReportInputs:
    """The files of one report.

    Attributes:
        workspace: the workspace.
        config: its settings.
        results: `reports/evaluate/results.json`.
        champion: `reports/champion.json`.
        model: the description of the champion's bundle.
        slices: `reports/slices.json`.
        provenance: `reports/provenance.json`.
        predictions: `reports/evaluate/predictions.csv`.
    """

    workspace: Workspace
    config: Config
    results: SourceFile
    champion: SourceFile
    model: SourceFile
    slices: SourceFile
    provenance: SourceFile
    predictions: pd.DataFrame

    @property
    def system(self) -> str:
        """The champion's system."""
        return str(self.champion.content["system"])

    @property
    def synthetic(self) -> bool:
        """The judged ROIs are phantoms."""
        return bool(self.results.content["data"]["synthetic"])


def gather(workspace: Workspace, config: Config) -> ReportInputs:
    """Read the inputs; compute and write the slices and the provenance, which no earlier stage knows.

    Raises:
        DataError: a file that the evaluation or the registration makes is missing or damaged.
    """
    results, champion = (SourceFile.read(workspace, path) for path in (RESULTS_FILE, "champion.json"))
    model = SourceFile.read(workspace, f"../models/{champion.content['system']}/{DESCRIPTION_FILE}")
    predictions_file = workspace.reports / PREDICTIONS_FILE
    if not predictions_file.is_file():
        raise missing_file(predictions_file)
    predictions, rois = pd.read_csv(predictions_file), read_rois(workspace.rois).table
    slices = SourceFile(
        "slices.json", slice_report(predictions, rois, config.evaluate, results.content["data"])
    )
    provenance = SourceFile("provenance.json", _provenance(workspace, config, rois, model.content))
    for source in (slices, provenance):
        write_json(workspace.reports / source.path, source.content)
    return ReportInputs(workspace, config, results, champion, model, slices, provenance, predictions)


def _provenance(
    workspace: Workspace, config: Config, rois: pd.DataFrame, model: dict[str, Any]
) -> dict[str, Any]:
    """Parts of the data, hashes and versions. Nothing that differs from clone to clone: no commit, no run id."""
    split = rois.merge(read_table(workspace.split), on="roi_id", validate="one_to_one")
    parts = {
        name: {
            "n_rois": len(part),
            "n_tumor": int((part["label"] == Label.TUMOR).sum()),
            "n_normal": int((part["label"] == Label.NORMAL).sum()),
            "n_groups": int(part["group_id"].nunique()),
            "n_patients": None if part["patient_id"].isna().any() else int(part["patient_id"].nunique()),
        }
        for name in SPLITS
        if len(part := split[split["split"] == name])
    }
    return {
        "parts": parts,
        "weights_sha256": {
            system: read_json(workspace.bundle(system) / DESCRIPTION_FILE)["weights_sha256"]
            for system in config.systems
        },
        "data_md5": model["provenance"].get("data_md5", {}),
        "params_fingerprint": fingerprint(config.model_dump()),
        "libraries": library_versions(),
    }
