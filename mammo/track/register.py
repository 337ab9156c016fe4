"""Making versions: the best system's bundle becomes a logged model, and that a version with an alias."""

import json
import warnings
from contextlib import redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from mammo.core.files import DESCRIPTION_FILE, WEIGHTS_FILE, Workspace, read_json, sha256_of, tree_sha256
from mammo.data.decode import PHANTOM_ROI, read_roi
from mammo.models.bundle import load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from mammo.track.check import BUNDLE_TAG
from mammo.track.history import CHALLENGER, CHAMPION, CODE_TAG, History, Step, move
from mammo.track.registry import REFERENCE_TAG, Version, version_of
from mammo.track.store import WEIGHTS_TAG, connect, store_errors

BEFORE_ALL: Final = -1
"""A logged model takes every metric of its step for its own: also the machine's, and a test result not yet there."""
PACKAGE: Final = Path(__file__).parents[1]
REQUIREMENTS: Final = (
    "mlflow numpy pandas pillow pyarrow pydantic pydicom pyyaml safetensors scipy torch torchvision"
)
"""The libraries that a voter imports."""


def signature() -> ModelSignature:
    """One row for each ROI: `image` (bytes of a picture file) or `pixels` (rows of grey levels)."""
    inputs = {"image": DataType.binary, "pixels": Array(Array(DataType.long))}
    outputs = {
        "label": DataType.string,
        "vote_share": DataType.double,
        "votes": Array(DataType.long),
        "score": DataType.double,
        "model_name": DataType.string,
        "model_version": DataType.string,
        "probability": DataType.double,
        "threshold": DataType.double,
        "decided_by": DataType.string,
        "prediction_set": Array(DataType.string),
        "referral": DataType.boolean,
        "in_domain": DataType.boolean,
        "domain_reason": DataType.string,
        "prediction_id": DataType.string,
    }
    return ModelSignature(
        Schema([ColSpec(kind, name=name, required=False) for name, kind in inputs.items()]),
        Schema(
            [ColSpec(kind, name=name, required=name != "domain_reason") for name, kind in outputs.items()]
        ),
    )


def voter_of(client: MlflowClient, run_id: str, bundle: Path) -> str:
    """Id of the logged model that votes as a bundle does, made once in the run of its training."""
    description, digest = read_json(bundle / DESCRIPTION_FILE), sha256_of(bundle / DESCRIPTION_FILE)
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if model.status == LoggedModelStatus.READY and model.tags.get(BUNDLE_TAG) == digest:
            return str(model.model_id)
    system = description["architecture"]["system"]
    mlflow.set_experiment(experiment_id=experiment)
    with warnings.catch_warnings():
        # The signature is explicit. MLflow would rather infer one from type hints, or run an example.
        for message in (".*input example was not provided.*", ".*type hint.*"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        logged = Model.log(  # what `mlflow.pyfunc.log_model` calls, which wants the run open
            None,
            mlflow.pyfunc,
            run_id=run_id,
            name=system,
            step=BEFORE_ALL,
            tags={
                WEIGHTS_TAG: description["weights_sha256"],
                BUNDLE_TAG: digest,
                CODE_TAG: tree_sha256(PACKAGE),
                REFERENCE_TAG: json.dumps(reference_answer(bundle)),
                "mammo.system": system,
                "mammo.synthetic": str(description["synthetic"]).lower(),
            },
            python_model=str(PACKAGE / "serve" / "voter.py"),
            artifacts={name: str(bundle / name) for name in (WEIGHTS_FILE, DESCRIPTION_FILE)},
            code_paths=[str(PACKAGE)],
            signature=signature(),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS.split()],
            metadata={"intended_use": "research software, no medical device"},
        )
    return str(logged.model_id)


def register(workspace: Workspace, model_name: str, run_id: str, bundle: Path) -> Version:
    """Register a bundle's logged model as a version, once: the same bundle gives the version that is already there.

    The version's description is the run's note. It becomes champion where there is none, else challenger.

    Raises:
        TrackingError: the store cannot be used.
    """
    client = connect(workspace)
    digest = sha256_of(bundle / DESCRIPTION_FILE)
    with store_errors(workspace):
        known = client.search_model_versions(f"name = '{model_name}'")
        number = next((str(one.version) for one in known if one.tags.get(BUNDLE_TAG) == digest), None)
        number = number or _create_version(client, model_name, voter_of(client, run_id, bundle))
        note = client.get_run(run_id).data.tags.get("mlflow.note.content", "")
        client.update_model_version(model_name, number, note)
        reason = ""

        def first_or_challenger(now: History) -> Step | None:
            nonlocal reason
            to: dict[str, str | None] = {}
            if (champion := now.told.get(CHAMPION)) is None:
                reason, to[CHAMPION] = "there was no champion", number
                if now.told.get(CHALLENGER) == number:
                    to[CHALLENGER] = None
            elif number in now.told.values():
                reason = f"version {number} is already registered"
            else:
                reason, to[CHALLENGER] = (
                    f"version {champion} is champion: promote with `mammo promote VERSION`",
                    number,
                )
            return Step("register", to, reason) if to else None

        move(workspace, client, model_name, first_or_challenger)
        return version_of(client, model_name, number, reason)


def reference_answer(bundle: Path) -> dict[str, Any]:
    """Score and votes of a bundle on the reference ROI: what a version has to answer wherever it is loaded."""
    scorer = RoiScorer.on(load_bundle(bundle), choose_device("auto"))
    (vote,) = scorer.votes(read_roi(PHANTOM_ROI)[None])
    return {"score": vote.score, "votes": list(vote.votes)}


def _create_version(client: MlflowClient, model_name: str, model_id: str) -> str:
    if not client.search_registered_models(f"name = '{model_name}'"):
        client.create_registered_model(
            model_name, description="Normal or Tumor: patch voting on mammographic ROIs."
        )
    tags = {name: text for name, text in client.get_logged_model(model_id).tags.items() if "mammo." in name}
    with redirect_stderr(StringIO()):  # where it tells what it does
        made = mlflow.register_model(f"models:/{model_id}", model_name, tags=tags)
    return str(made.version)
