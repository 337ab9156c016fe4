"""MLflow's model registry: versions that are voters, and the aliases that say which one serves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.track.check import BUNDLE_TAG
from mammo.track.history import CHAMPION, NEXT, look
from mammo.track.store import MISSING, WEIGHTS_TAG, connect, store_errors, tags_of, unless

REFERENCE_TAG: Final = "mammo.reference"
"""What a version answered about the reference ROI when it was made, as JSON."""


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


def versions(workspace: Workspace, model_name: str) -> list[Version]:
    """All versions, newest first; empty if nothing is registered."""
    client = connect(workspace)
    with store_errors(workspace):
        numbers = [v.version for v in client.search_model_versions(f"name = '{model_name}'")]
        return [version_of(client, model_name, str(n)) for n in sorted(numbers, key=int, reverse=True)]


def has_champion(workspace: Workspace, model_name: str) -> bool:
    """Whether a version serves."""
    client = connect(workspace)
    with store_errors(workspace):
        return CHAMPION in look(client, model_name)[0]


def champion(workspace: Workspace, model_name: str) -> Version:
    """The version that serves.

    Raises:
        TrackingError: there is none.
    """
    client = connect(workspace)
    with store_errors(workspace):
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

    Raises:
        TrackingError: there is no such version, or the store cannot be used.
    """
    client = connect(workspace)
    with store_errors(workspace):
        version_of(client, model_name, number)
        client.set_registered_model_tag(model_name, NEXT, number)
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
        if not known:
            raise TrackingError(
                f"{model_name}: has no versions yet; register one with `dvc repro`"
            ) from error
        raise TrackingError(
            f"{model_name}: version must be one of {known}, got {number!r}; list them with `mammo runs`, register one "
            "with `dvc repro`"
        ) from error
    tags = tags_of(client, model_name, number)
    said = tags.get("mammo.synthetic")
    return Version(
        number=number,
        aliases=tuple(sorted(found.aliases)),
        system=tags.get("mammo.system", ""),
        run_id=found.run_id or "",
        weights_sha256=tags.get(WEIGHTS_TAG, ""),
        bundle_sha256=tags.get(BUNDLE_TAG, ""),
        synthetic=None if said is None else said == "true",
        reason=reason,
    )
