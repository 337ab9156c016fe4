"""MLflow's model registry: versions that are voters, and the aliases that say which one serves."""

import json
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.files import Workspace, read_json, sha256_of, tree_sha256
from mammo.data.decode import PHANTOM_ROI, read_roi
from mammo.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE, load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from mammo.systems.train import best_system
from mammo.track.check import BUNDLE_TAG
from mammo.track.store import WEIGHTS_TAG, connect, store_errors

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS_TAG: Final = "mammo.previous_champion"
CODE_TAG: Final = "mammo.code_sha256"
"""Of the package that a version carries and votes with."""
REFERENCE_TAG: Final = "mammo.reference"
"""What a version answered about the reference ROI when it was made, as JSON."""
BEFORE_ALL: Final = -1
"""A logged model takes every metric of its step for its own: also the machine's, and a test result not yet there."""
PACKAGE: Final = Path(__file__).parents[1]
REQUIREMENTS: Final = (
    "mlflow numpy pandas pillow pyarrow pydantic pydicom pyyaml safetensors scipy torch torchvision"
)
"""The libraries that a voter imports."""


@dataclass(frozen=True)
class Version:
    """A registered version."""

    number: str
    aliases: tuple[str, ...]
    system: str
    run_id: str
    weights_sha256: str
    reason: str = ""


def chosen(workspace: Workspace, config: Config) -> dict[str, Any]:
    """The system with the best validation result, for `reports/champion.json`: the same in every clone.

    Raises:
        DataError: a trained system is missing.
    """
    results = {system: read_json(workspace.reports / "train" / f"{system}.json") for system in config.systems}
    by = config.register_.select_by
    system = best_system(results, by)
    return {
        "model_name": config.register_.model_name,
        "system": system,
        "chosen_by": by,
        "value": results[system][by],
        "weights_sha256": read_json(workspace.description(system))["weights_sha256"],
    }


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
        champion = _aliased(client, model_name, CHAMPION)
        is_challenger = _aliased(client, model_name, CHALLENGER) == number
        reason = f"version {number} is already registered"
        if champion is None:
            client.set_registered_model_alias(model_name, CHAMPION, number)
            reason = "there was no champion"
            if is_challenger:
                client.delete_registered_model_alias(model_name, CHALLENGER)
        elif champion != number and not is_challenger:
            client.set_registered_model_alias(model_name, CHALLENGER, number)
            reason = f"version {champion} is champion: promote with `mammo promote VERSION`"
        return _version(client, model_name, number, reason)


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


def versions(workspace: Workspace, model_name: str) -> list[Version]:
    """All versions, newest first; empty if nothing is registered."""
    client = connect(workspace)
    with store_errors(workspace):
        numbers = [v.version for v in client.search_model_versions(f"name = '{model_name}'")]
        return [_version(client, model_name, str(n)) for n in sorted(numbers, key=int, reverse=True)]


def promote(workspace: Workspace, model_name: str, number: str) -> Version:
    """Make a version champion; the old champion is remembered for `rollback`.

    Raises:
        TrackingError: there is no such version.
    """
    client = connect(workspace)
    with store_errors(workspace):
        known = [str(v.version) for v in client.search_model_versions(f"name = '{model_name}'")]
        if number not in known:
            raise TrackingError(
                f"{model_name}: version must be one of {sorted(known, key=int)}, got {number!r}; "
                "list them with `mammo runs`, register one with `dvc repro`"
            )
        old = _aliased(client, model_name, CHAMPION)
        if old == number:
            return _version(client, model_name, number, f"version {number} is champion already")
        if old is not None:
            client.set_model_version_tag(model_name, number, PREVIOUS_TAG, old)
        client.set_registered_model_alias(model_name, CHAMPION, number)
        if _aliased(client, model_name, CHALLENGER) == number:
            client.delete_registered_model_alias(model_name, CHALLENGER)
        return _version(client, model_name, number, f"champion was version {old or 'none'}")


def rollback(workspace: Workspace, model_name: str) -> Version:
    """Give the champion alias back to the version that held it before the last promotion.

    Raises:
        TrackingError: there is no champion, or nothing to go back to.
    """
    client = connect(workspace)
    with store_errors(workspace):
        current = champion(workspace, model_name)
        tags = client.get_model_version(model_name, current.number).tags
        previous = tags.get(PREVIOUS_TAG)
        if previous is None:
            raise TrackingError(
                f"{model_name}: rollback needs an earlier promotion, version {current.number} has been the only "
                "champion; promote another with `mammo promote VERSION`"
            )
        client.set_registered_model_alias(model_name, CHAMPION, previous)
        client.delete_model_version_tag(model_name, current.number, PREVIOUS_TAG)
        return _version(client, model_name, previous, f"rolled back from version {current.number}")


def champion(workspace: Workspace, model_name: str) -> Version:
    """The version that serves.

    Raises:
        TrackingError: there is none.
    """
    client = connect(workspace)
    with store_errors(workspace):
        number = _aliased(client, model_name, CHAMPION)
        if number is None:
            raise TrackingError(
                f"{model_name}: no version has the alias {CHAMPION} in this store; run `dvc repro`, which registers "
                "the best system"
            )
        return _version(client, model_name, number)


def aliases(workspace: Workspace, client: MlflowClient, model_name: str) -> dict[str, str]:
    """The version of each alias; there is a champion among them.

    Raises:
        TrackingError: there is no champion, or the store cannot be used.
    """
    with store_errors(workspace):
        found = client.get_registered_model(model_name).aliases
    if CHAMPION not in found:
        raise TrackingError(
            f"{model_name}: no version has the alias {CHAMPION}; give it with `mammo promote VERSION`"
        )
    return {alias: str(number) for alias, number in found.items()}


def _aliased(client: MlflowClient, model_name: str, alias: str) -> str | None:
    try:
        aliases = client.get_registered_model(model_name).aliases
    except MlflowException as error:
        # Any other failure is no proof that there is no champion: a new version would take its place.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    number = aliases.get(alias)
    return None if number is None else str(number)


def tags_of(client: MlflowClient, found: ModelVersion) -> dict[str, str]:
    """A version's tags; those of its logged model where people have registered it on MLflow's page."""
    if WEIGHTS_TAG not in found.tags and found.source.startswith("models:/m-"):
        return dict(client.get_logged_model(found.source.removeprefix("models:/")).tags)
    return dict(found.tags)


def _version(client: MlflowClient, model_name: str, number: str, reason: str = "") -> Version:
    found = client.get_model_version(model_name, number)
    tags = tags_of(client, found)
    return Version(
        number=number,
        aliases=tuple(sorted(found.aliases)),
        system=tags.get("mammo.system", ""),
        run_id=found.run_id or "",
        weights_sha256=tags.get(WEIGHTS_TAG, ""),
        reason=reason,
    )
