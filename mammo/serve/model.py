"""What the service says of a version: its grid and rule from the bundle, its honest numbers from its run."""

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mlflow.exceptions import MlflowException

from mammo.core.files import Workspace, read_json
from mammo.data.patches import grid_corners
from mammo.evaluation.metrics import TITLES
from mammo.serve.follow import Follower
from mammo.serve.loaded import VersionFiles, fetch_version
from mammo.track.store import connect

SHOWN: Final = ("auc_score", "accuracy", "recall", "specificity")


def describe(follower: Follower, number: str) -> dict[str, Any]:
    """A version for people: system, data, grid, rule, and estimates with intervals where its run has them."""
    described: dict[str, Any] = json.loads(_described(follower.workspace, follower.name, number))
    return described


@lru_cache(maxsize=16)
def _described(workspace: Workspace, name: str, number: str) -> str:
    files = fetch_version(workspace, name, number)
    bundle = files.description
    grid = (bundle["size_px"], bundle["stride_px"])
    corners = grid_corners(*grid, corner_patches=bundle["corner_patches"])
    data, estimates = _tested(workspace, files)
    return json.dumps(
        {
            "model_name": name,
            "model_version": number,
            "system": files.system,
            "synthetic": bundle["synthetic"],
            "data": data,
            "size_px": bundle["size_px"],
            "corners_px": corners.tolist(),
            "vote": bundle["vote"],
            "coverage": round(1 - bundle["conformal"]["alpha"], 12),
            "estimates": estimates,
        }
    )


def _tested(workspace: Workspace, files: VersionFiles) -> tuple[str, list[dict[str, Any]]]:
    """What the version's run says of the test part; nothing where it has not been tested."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = connect(workspace).download_artifacts(files.run_id, "evaluate/results.json", folder)
        except (MlflowException, OSError):
            return "not tested", []
        results = read_json(Path(found))
    judged = results["systems"].get(files.system, {"roi": {}})["roi"]
    kept = ("value", "ci_low", "ci_high", "n")
    rows = [
        {"name": TITLES[name]} | {key: judged[name][key] for key in kept} for name in SHOWN if name in judged
    ]
    return results["data"]["note"], rows
