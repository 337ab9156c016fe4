"""Where an answer comes from: version → run → commit, data, settings and the ROIs that trained it."""

import io
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

import mlflow
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.serve.log import read_log
from mammo.track.history import CODE_TAG
from mammo.track.registry import Version, version_of
from mammo.track.store import FITTED, connect, tags_of

PREDICTION: Final = re.compile(r"v(?P<version>\d+)\.(?P<weights>[0-9a-f]{8})\.(?P<pixels>[0-9a-f]{16})")


@dataclass(frozen=True)
class Trace:
    """What made a version, and with it an answer.

    Attributes:
        version, commit, code_sha256: what votes.
        data_md5: DVC's hashes of the data sets.
        settings: of the run, as dotted keys.
        rois: number of ROIs by part, of those that the fit saw.
        training_roi: the ROI that has the picture's very pixels, where the fit saw it; null otherwise.
        answers: lines of the prediction log about the picture and the version.
    """

    version: dict[str, Any]
    run_id: str
    experiment: str
    trained: str
    commit: str
    code_sha256: str
    data_md5: dict[str, str]
    settings: dict[str, str]
    rois: dict[str, int]
    training_roi: str | None = None
    answers: tuple[dict[str, Any], ...] = ()


def trace(workspace: Workspace, name: str, what: str) -> Trace:
    """Trace a version's number or a `prediction_id`.

    Raises:
        TrackingError: this registry does not know the version, or knows other weights under its number.
    """
    client, found = connect(workspace), PREDICTION.fullmatch(what)
    number = found["version"] if found else what.removeprefix("v")
    if not found and not number.isdigit():
        raise TrackingError(
            f"{what}: must be a version of {name} such as 2, or a prediction_id such as v2.1a2b3c4d.0123456789abcdef; "
            "list the versions with `mammo runs`"
        )
    version = version_of(client, name, number)
    if found and not version.weights_sha256.startswith(found["weights"]):
        raise TrackingError(
            f"{what}: version {number} of this registry has the weights {version.weights_sha256[:8]}, so another "
            "registry's version gave this answer; name its store in MLFLOW_TRACKING_URI"
        )
    made = traced(client, version, tags_of(client, name, number).get(CODE_TAG, ""))
    if not found:
        return made
    rois = fitted_rois(client, version.run_id)
    same = rois["roi_id"][rois["sha256"].str.startswith(found["pixels"])]
    lines = tuple(line for line in read_log(workspace.predictions) if line["prediction_id"] == what)
    return Trace(**asdict(made) | {"training_roi": next(iter(same), None), "answers": lines})


def traced(client: MlflowClient, version: Version, code_sha256: str) -> Trace:
    """What the registry and the run say of a version."""
    run = client.get_run(version.run_id)
    lock = yaml.safe_load(text_of(version.run_id, "evaluate/dvc.lock") or "{}") or {}
    outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
    return Trace(
        version=asdict(version),
        run_id=version.run_id,
        experiment=client.get_experiment(run.info.experiment_id).name,
        trained=pd.Timestamp(run.info.start_time, unit="ms", tz="UTC").isoformat(timespec="seconds"),
        commit=run.data.tags.get("mammo.git_commit", ""),
        code_sha256=code_sha256,
        data_md5={
            out["path"]: out["md5"] for out in outs if out["path"].startswith("data/") and "md5" in out
        },
        settings=dict(run.data.params),
        rois={
            str(part): int(n)
            for part, n in fitted_rois(client, version.run_id)["part"].value_counts().items()
        },
    )


def text_of(run_id: str, path: str) -> str | None:
    """A text that a run keeps; None where it keeps none."""
    try:
        return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"))
    except (MlflowException, OSError):
        return None


def fitted_rois(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """The ROIs of training and validation, with the hashes of their pixels: `roi_id`, `part`, `sha256`."""
    text = text_of(run_id, FITTED)
    return (
        pd.DataFrame(columns=["roi_id", "part", "sha256"]) if text is None else pd.read_csv(io.StringIO(text))
    )
