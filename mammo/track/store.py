"""MLflow's store and its runs: one for each trained system, with all that is needed to compare and to rebuild it.

The store lies under `mlruns/` of the workspace unless `MLFLOW_TRACKING_URI` names another.
"""

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any, Final

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.track.check import BUNDLE_TAG, sqlite_path, tracking_uri

WEIGHTS_TAG: Final = "mammo.weights_sha256"
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"
REFUSALS: Final = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
HEADLINE: Final = "test/auc"
FITTED: Final = "rois.csv"
"""Of a run: names and pixel hashes of the ROIs of training and validation, with their part. No pixels."""
VIEW: Final = "test-metrics"
"""Under this key an experiment keeps which columns its table of runs shows, the main ones first."""
COLUMNS: Final = [
    "attributes.`Run Name`",
    "runDateAndNestInfo",
    *(f"metrics.`test/{name}`" for name in ("auc", "accuracy", "recall", "specificity")),
    "duration",
    "attributes.`Models`",
]
EXPERIMENT_TAGS: Final = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": COLUMNS, "columnOrder": COLUMNS}),
}


def connect(workspace: Workspace) -> MlflowClient:
    """Point MLflow at the workspace's store, made on first use, and return a client; errors as of `store_errors`."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It logs the traceback of every error that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri, path = tracking_uri(workspace), sqlite_path(workspace)
    is_named = "MLFLOW_TRACKING_URI" in os.environ
    with store_errors(workspace), ExitStack() as meanwhile:
        if path is None:  # MLflow would try a server that is not there for four minutes
            meanwhile.enter_context(_unless_set("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():  # fail at once where SQLAlchemy would retry a locked file for minutes
                with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            # One process makes the tables; the others wait for it.
            meanwhile.enter_context(FileLock(path.with_name(".making-tables.lock")))
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        if not is_named:  # MLflow exports the address; a second workspace would take it for the user's wish
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def store_errors(workspace: Workspace, kinds: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """Say in a line what MLflow's store refuses.

    Raises:
        TrackingError: the store is locked, damaged or out of reach, or does not know what it is asked for.
    """
    try:
        yield
    except kinds as error:
        said = first_line(error)
        remedy = "check that the server runs or that no other program holds the file, or name another store in"
        remedy += " MLFLOW_TRACKING_URI"
        if re.search("error code 40[13]|Permission denied", said):
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"
            remedy += " that may do so"
        raise TrackingError(
            f"{without_password(tracking_uri(workspace))}: the tracking store cannot be used ({said}); {remedy}"
        ) from error


@contextmanager
def using_store(workspace: Workspace) -> Iterator[MlflowClient]:
    """Yield a client of the workspace's store; errors as of `store_errors`."""
    client = connect(workspace)
    with store_errors(workspace):
        yield client


@contextmanager
def unless(*codes: str) -> Iterator[None]:
    """Go on after what MLflow refuses with one of these codes."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


def without_addresses() -> AbstractContextManager[None]:
    """A server's runs print where to look at them as they end: too much where they are many."""
    return _unless_set("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


@contextmanager
def _unless_set(name: str, value: str) -> Iterator[None]:
    """Set a variable that MLflow reads at every call, but for what the user has set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def first_line(error: Exception) -> str:
    """What an error says in a line, without the password of an address that it quotes."""
    lines = str(error).strip().splitlines()
    # SQLAlchemy may put advice to programmers before what the database said.
    said = next((line for line in lines if "Error) " in line), lines[0] if lines else type(error).__name__)
    return without_password(said)[:300]


def without_password(text: str) -> str:
    """`http://user:secret@host` → `http://host`, and `password=secret` → `password=…`, wherever they stand in a text.

    A password may hold slashes, so an address is cut up to its last @, even if that costs some of its path.
    """
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1…", re.sub(r"://\S*@", "://", text))


@dataclass(frozen=True)
class Run:
    """An MLflow run, whether open or not: what is added later leaves its status and its duration alone."""

    client: MlflowClient
    run_id: str

    def log_metrics(self, metrics: dict[str, float], step: int = 0, voter: str = "", use: str = "") -> None:
        """Log several metrics in one call, where named those of a logged model on the data set of that `use`.

        Values that are not finite are left out.
        """
        now, whose = int(time.time() * 1000), {"run_id": self.run_id, "model_id": voter or None}
        for given in self.client.get_run(self.run_id).inputs.dataset_inputs if use else ():
            if use in (tag.value for tag in given.tags):
                whose |= {"dataset_name": given.dataset.name, "dataset_digest": given.dataset.digest}
        finite = [Metric(*one, now, step, **whose) for one in metrics.items() if isfinite(one[1])]
        self.client.log_batch(self.run_id, finite)

    def log_data(self, name: str, table: pd.DataFrame, dvc_md5: str, use: str) -> None:
        """Name ROIs as an input; `use` is MLflow's word: `training`, `validation` or `testing`."""
        # MLflow's schema inference warns of integer columns that may hold nulls elsewhere; not of floats.
        plain = table.astype(dict.fromkeys(table.select_dtypes("integer").columns, "float64"))
        dataset = mlflow.data.from_pandas(plain, source=CodeDatasetSource({"dvc.path": "data/rois"}), name=name)
        tags = InputTag("mlflow.data.context", use), InputTag("dvc_md5", dvc_md5 or "not versioned")
        self.client.log_inputs(self.run_id, [DatasetInput(dataset._to_mlflow_entity(), list(tags))])

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Add a file to the run's artifacts."""
        try:
            self.client.log_artifact(self.run_id, str(path), folder)
        except OSError as error:
            raise TrackingError(
                f"{path}: cannot be added to run {self.run_id} ({error}); the store keeps its files where it was made. "
                "If that folder was moved, empty mlruns/"
            ) from error

    def log_table(self, table: pd.DataFrame, file: str) -> None:
        """Write a table that `mlflow.load_table` reads; `mlflow.log_table` would add its rows to those of before."""
        self.client.log_text(self.run_id, table.to_json(orient="split", index=False), file)
        self.tag({"mlflow.loggedArtifacts": json.dumps([{"path": file, "type": "table"}])})

    def tag(self, tags: dict[str, str]) -> None:
        """Set several tags in one call."""
        self.client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])


@contextmanager
def open_run(
    workspace: Workspace,
    experiment: str,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: Sequence[tuple[str, pd.DataFrame, str, str]] = (),
    unfinished: str | None = None,
) -> Iterator[Run]:
    """Open a run, or go on with the one that a killed process left `unfinished`; it ends FAILED if the block raises.

    Comparable runs (one source, one protocol) share an `experiment`. `datasets` are arguments of `Run.log_data`.
    """
    client = connect(workspace)
    with store_errors(workspace, (MlflowException,)):  # the block trains: a full disk is not the store's fault
        mlflow.set_experiment(experiment_id=experiment_id(client, workspace, experiment))
        kept = unfinished if unfinished is not None and _exists(client, unfinished) else None
        with mlflow.start_run(kept, run_name=None if kept else name, log_system_metrics=True) as active:
            run = Run(client, active.info.run_id)
            if kept is None:
                mlflow.log_params({name: str(value)[:6000] for name, value in params.items()})
                mlflow.set_tags(tags)
                # MLflow's page compares runs by the metric that came first.
                mlflow.log_metric(HEADLINE, nan)
                for data in datasets:
                    run.log_data(*data)
            yield run


def experiment_id(client: MlflowClient, workspace: Workspace, name: str) -> str:
    """Id of an experiment, made if it is not there; its artifacts lie in the workspace. A deleted one comes back.

    The experiment that MLflow puts into every new store goes, if it is empty: it would head the list.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":  # its name cannot be given again
            client.restore_experiment(found.experiment_id)
        for tag in EXPERIMENT_TAGS.items() - found.tags.items():
            client.set_experiment_tag(found.experiment_id, *tag)
        return str(found.experiment_id)
    local = tracking_uri(workspace).startswith("sqlite:///")
    location = (workspace.mlruns / "artifacts" / name).resolve().as_uri() if local else None
    made = str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
    with suppress(MlflowException):
        if local and not client.search_runs(["0"], max_results=1):
            client.delete_experiment("0")
    return made


def _exists(client: MlflowClient, run_id: str) -> bool:
    with suppress(MlflowException):
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    return False


def find_run(client: MlflowClient, bundle_sha256: str, tag: str = "") -> str | None:
    """Id of the newest run that made the bundle with this hash (`BUNDLE_TAG`) and has this tag, or None."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{BUNDLE_TAG}` = '{bundle_sha256}'" + f" and tags.`{tag}` != ''" * bool(tag)
    found = client.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time DESC"])
    return str(found[0].info.run_id) if found else None


def text_of(run_id: str, path: str) -> str | None:
    """A text that a run of the connected store keeps; None where none can be had."""
    try:
        return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"))
    except REFUSALS:
        return None


def tags_of(client: MlflowClient, name: str, number: str) -> dict[str, str]:
    """Tags of a version, or of its logged model where people registered it on MLflow's page; none of a deleted one."""
    tags: dict[str, str] = {}
    with unless(MISSING):
        found = client.get_model_version(name, number)
        tags = dict(found.tags)
        if WEIGHTS_TAG not in tags and found.source.startswith("models:/m-"):
            tags = dict(client.get_logged_model(found.source.removeprefix("models:/")).tags)
    return tags


def flat_params(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as dotted keys: `{"train": {"seed": 0}}` → `{"train.seed": 0}`."""
    (flat,) = pd.json_normalize(values).to_dict("records")
    return {str(name): value for name, value in flat.items()}


def comparison_rows(workspace: Workspace, most: int = 200) -> list[dict[str, Any]]:
    """One row for each of the newest runs of systems, newest first: the table of `mammo runs`."""
    client = connect(workspace)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    runs = client.search_runs(
        list(names), "tags.`mammo.system` != ''", max_results=most, order_by=["attributes.start_time DESC"]
    )
    return [
        {
            "experiment": names[run.info.experiment_id],
            "experiment_id": run.info.experiment_id,
            "run_id": run.info.run_id,
            "system": run.data.tags.get("mammo.system", ""),
            "status": run.info.status,
            "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            "metrics": {name: value for name, value in run.data.metrics.items() if isfinite(value)},
            "result": run.data.tags.get("mlflow.note.content", "").partition(";")[0],
            "params": dict(run.data.params),
        }
        for run in runs
    ]
