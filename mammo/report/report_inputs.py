"""Everything that the report rests on, read once: files of earlier stages, and of commands that may not have run."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo.core.config import Config
from mammo.core.files import Workspace, missing_file, read_json, read_table, write_json
from mammo.core.provenance import fingerprint, library_versions
from mammo.core.records import SPLITS, Label
from mammo.data.rois import read_rois
from mammo.models.bundle import DESCRIPTION_FILE
from mammo.report.document import SourceFile
from mammo.report.slices import slice_report

SLICES_FILE = "slices.json"
PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True)
class ReportInputs:
    """The files of one report.

    Attributes:
        space: the workspace.
        config: its settings.
        results: `reports/evaluate/results.json`.
        champion: `reports/champion.json`.
        model: the description of the champion's bundle.
        slices: `reports/slices.json`.
        provenance: `reports/provenance.json`.
        predictions: `reports/evaluate/predictions.csv`.
    """

    space: Workspace
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


def gather(space: Workspace, config: Config) -> ReportInputs:
    """Read the inputs; compute and write the slices and the provenance, which no earlier stage knows.

    Raises:
        DataError: a file that the evaluation or the registration makes is missing or damaged.
    """
    results = _required(space, "evaluate/results.json")
    champion = _required(space, "champion.json")
    model = _required(space, f"../models/{champion.content['system']}/{DESCRIPTION_FILE}")
    predictions_file = space.reports / "evaluate" / "predictions.csv"
    if not predictions_file.is_file():
        raise missing_file(predictions_file)
    predictions = pd.read_csv(predictions_file)
    rois = read_rois(space.rois).table
    slices = slice_report(predictions, rois, config.evaluate, results.content["data"])
    provenance = describe_provenance(space, config, rois, model.content)
    write_json(space.reports / SLICES_FILE, slices)
    write_json(space.reports / PROVENANCE_FILE, provenance)
    return ReportInputs(
        space,
        config,
        results,
        champion,
        model,
        SourceFile(SLICES_FILE, slices),
        SourceFile(PROVENANCE_FILE, provenance),
        predictions,
    )


def _required(space: Workspace, path: str) -> SourceFile:
    source = SourceFile.read(space, path)
    if source is None:
        raise missing_file(space.reports / path)
    return source


def describe_provenance(
    space: Workspace, config: Config, rois: pd.DataFrame, model: dict[str, Any]
) -> dict[str, Any]:
    """Parts of the data, hashes and versions. Nothing that differs from clone to clone: no commit, no run id."""
    split = rois.merge(read_table(space.split), on="roi_id", validate="one_to_one")
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
    weights = {
        system: read_json(space.bundle(system) / DESCRIPTION_FILE)["weights_sha256"]
        for system in config.systems
    }
    return {
        "parts": parts,
        "weights_sha256": weights,
        "data_md5": model["provenance"].get("data_md5", {}),
        "params_fingerprint": fingerprint(config.model_dump()),
        "libraries": library_versions(),
    }
