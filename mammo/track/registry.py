"""MLflow's model registry: versions that are voters, and the aliases that say which one serves.

The best system's bundle becomes a logged model, and that a version with an alias.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Final

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from mammo.core.errors import TrackingError
from mammo.core.files import DESCRIPTION_FILE, WEIGHTS_FILE, Workspace, read_json, sha256_of, tree_sha256
from mammo.data.decode import PHANTOM_ROI, read_roi
from mammo.evaluation.voting import RoiVote
from mammo.track.check import BUNDLE_TAG, CARD
from mammo.track.history import CHALLENGER, CHAMPION, CODE_TAG, NEXT, History, Step, look, move
from mammo.track.store import EXISTS, MISSING, WEIGHTS_TAG, store_errors, tags_of, unless, using_store

REFERENCE_TAG: Final = "mammo.reference"
"""What a version answered about the reference ROI when it was made, as JSON."""
BEFORE_ALL: Final = -1
"""A logged model takes every metric of its step for its own: also the machine's, and a test result not yet there."""
PACKAGE: Final = Path(__file__).parents[1]
REQUIREMENTS: Final = "mlflow numpy pandas pillow pyarrow pydantic pydicom pyyaml safetensors scipy torch torchvision"
"""The libraries that a voter imports."""


@dataclass(frozen=True)
class Version:
    """A registered version."""

    number: str
    aliases: tuple[str, ...]
    system: str
    run_id: str
    weights_sha256: str
    bundle_sha256: str
    synthetic: bool | None
    """Whether it knows phantoms alone; None where nobody said."""
    reason: str = ""

    @property
    def mark(self) -> str:
        """What its every `prediction_id` begins with."""
        return f"v{self.number}.{self.weights_sha256[:8]}"


def versions(workspace: Workspace, model_name: str) -> list[Version]:
    """All versions, newest first; empty if nothing is registered."""
    with using_store(workspace) as client:
        numbers = [v.version for v in client.search_model_versions(f"name = '{model_name}'")]
        return [version_of(client, model_name, str(n)) for n in sorted(numbers, key=int, reverse=True)]


def champion(workspace: Workspace, model_name: str) -> Version:
    """The version that serves; `TrackingError` where there is none."""
    with using_store(workspace) as client:
        return version_of(client, model_name, aliases(workspace, client, model_name)[0][CHAMPION])


def aliases(workspace: Workspace, client: MlflowClient, model_name: str) -> tuple[dict[str, str], str | None]:
    """The version of each alias, with a champion among them; and the version that may become champion soon.

    Raises:
        TrackingError: there is no champion, or the store cannot be used.
    """
    with store_errors(workspace):
        found, tags = look(client, model_name)
    if CHAMPION not in found:
        raise TrackingError(
            f"{model_name}: no version has the alias {CHAMPION} in this store; run `dvc repro`, which registers the "
            "best system, or give it to a version with `mammo promote VERSION`"
        )
    return found, tags.get(NEXT)


@contextmanager
def announced(workspace: Workspace, model_name: str, number: str) -> Iterator[None]:
    """Services load a version while the block decides whether it becomes champion.

    A process that is killed leaves the tag: one version that stands by until the next announcement.
    """
    with using_store(workspace) as client:
        client.set_registered_model_tag(model_name, NEXT, version_of(client, model_name, number).number)
    try:
        yield
    finally:
        with store_errors(workspace), unless(MISSING):  # another's block ended first
            client.delete_registered_model_tag(model_name, NEXT)


def version_of(client: MlflowClient, model_name: str, number: str, reason: str = "") -> Version:
    """A version with what its tags know.

    Raises:
        TrackingError: there is no such version.
    """
    try:
        found = client.get_model_version(model_name, number)
    except MlflowException as error:
        if error.error_code not in (MISSING, "INVALID_PARAMETER_VALUE"):
            raise
        known = sorted(int(one.version) for one in client.search_model_versions(f"name = '{model_name}'"))
        choice = f"version must be one of {known}, got {number!r}; list them with `mammo runs`, register one"
        choice = choice if known else "has no versions yet; register one"
        raise TrackingError(f"{model_name}: {choice} with `dvc repro`") from error
    tags = tags_of(client, model_name, number)
    synthetic = tags.get("mammo.synthetic")
    return Version(
        number=str(found.version),  # MLflow finds 2 as 02 too
        aliases=tuple(sorted(found.aliases)),
        system=tags.get("mammo.system", ""),
        run_id=found.run_id or "",
        weights_sha256=tags.get(WEIGHTS_TAG, ""),
        bundle_sha256=tags.get(BUNDLE_TAG, ""),
        synthetic=None if synthetic is None else synthetic == "true",
        reason=reason,
    )


def signature() -> ModelSignature:
    """In: `image` (bytes of a picture file) or `pixels` (rows of grey levels) of each ROI; out: `RoiVote.row`."""
    inputs = {"image": DataType.binary, "pixels": Array(Array(DataType.long))}
    vote = RoiVote("Tumor", 1.0, (1,), (1.0,), 1.0, 1.0, 0.5, ("Tumor",), "shows …", "majority")
    row = vote.row("mammo-roi", "1") | {"prediction_id": ""}
    outputs = infer_signature(model_output=pd.DataFrame([row])).outputs.inputs
    return ModelSignature(
        Schema([ColSpec(kind, name=name, required=False) for name, kind in inputs.items()]),
        Schema([ColSpec(one.type, one.name, required=one.name != "domain_reason") for one in outputs]),
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
        # The signature is explicit: MLflow would rather infer one from type hints. It compares columns with a range.
        for message in (".*type hint.*", "Operation with range is deprecated"):
            warnings.filterwarnings("ignore", message=message)
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
                "mammo.threshold": str(description["vote"]["share_threshold"]),
                "mammo.synthetic": str(description["synthetic"]).lower(),
            },
            python_model=str(PACKAGE / "serve" / "voter.py"),
            artifacts={name: str(bundle / name) for name in (WEIGHTS_FILE, DESCRIPTION_FILE)},
            code_paths=[str(PACKAGE)],
            signature=signature(),
            input_example=pd.DataFrame({"image": [PHANTOM_ROI.read_bytes()]}),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS.split()],
            metadata={"intended_use": "research software, no medical device"},
        )
    return str(logged.model_id)


def register(workspace: Workspace, model_name: str, run_id: str, bundle: Path) -> Version:
    """Register a bundle's logged model as a version, once: the same bundle gives the version that is already there.

    The version's description is the run's note, with a link to the run's model card. The version becomes champion where
    there is none, else challenger, but for one whose alias was taken back other than by a later version's: whoever did
    that meant it.
    """
    digest = sha256_of(bundle / DESCRIPTION_FILE)
    with using_store(workspace) as client:
        known = client.search_model_versions(f"name = '{model_name}'")
        number = next((str(one.version) for one in known if one.tags.get(BUNDLE_TAG) == digest), None)
        number = number or _create_version(client, model_name, voter_of(client, run_id, bundle))
        run = client.get_run(run_id)
        note = run.data.tags.get("mlflow.note.content", "")
        if any(file.path == CARD for file in client.list_artifacts(run_id)):
            place = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts/{CARD}"
            note += f" [Model card]({place})."
        client.update_model_version(model_name, number, note)

        def first_or_challenger(now: History) -> Step:
            if (champion := now.told.get(CHAMPION)) is None:
                return Step("register", now.crowning(number), "there was no champion")
            left = (start for one in now.entries if one.kind != "register" for start, _ in one.moves.values())
            if number in now.told.values() or number in left:
                return Step("register", {}, f"version {number} is already registered")
            reason = f"version {champion} is champion: promote with `mammo promote VERSION`"
            return Step("register", {CHALLENGER: number}, reason)

        done = move(workspace, client, model_name, first_or_challenger)
        return version_of(client, model_name, number, done.reason)


def reference_answer(bundle: Path) -> dict[str, Any]:
    """Score and votes of a bundle on the reference ROI: what a version has to answer wherever it is loaded."""
    from mammo.models.bundle import load_bundle
    from mammo.systems.devices import choose_device
    from mammo.systems.score import RoiScorer

    scorer = RoiScorer.on(load_bundle(bundle), choose_device("auto"))
    (vote,) = scorer.votes(read_roi(PHANTOM_ROI)[None])
    return {"score": vote.score, "votes": list(vote.votes)}


def _create_version(client: MlflowClient, model_name: str, model_id: str) -> str:
    with unless(EXISTS):
        about = "Normal or Tumor: patch voting on mammographic ROIs."
        client.create_registered_model(model_name, description=about)
    tags = {name: text for name, text in client.get_logged_model(model_id).tags.items() if "mammo." in name}
    with redirect_stderr(StringIO()):  # where it tells what it does
        made = mlflow.register_model(f"models:/{model_id}", model_name, tags=tags)
    return str(made.version)
