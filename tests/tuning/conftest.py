"""A small workspace to search in: 40 pictures of noise and discs, trials of a fraction of a second."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.tuning.objective import state_of, trial_folds
from mammo.tuning.storage import using_storage
from mammo.tuning.study import OpenStudy, make_study
from mammo.tuning.workers import PRELOADED
from tests.disc_rois import disc_rois, workspace_of
from tests.docker.processes import Postgresql, postgresql
from tests.settings import TINY_MODEL, laid_over, params

PASSWORD = "secret-of-the-test"
SPACE = {
    "size_px": {"type": "int", "low": 72, "high": 96, "step": 24},
    "head_lr": {"type": "float", "low": 0.001, "high": 0.01, "log": True},
    "fusion": {"type": "categorical", "choices": ["baseline", "model1"]},
    "vote_rule": {"type": "categorical", "choices": ["majority", "mean_score"]},
}
TUNE = {
    "n_folds": 3,
    "epochs": 2,
    "patches_per_epoch": 32,
    "startup_trials": 3,
    "pruner_startup": 2,
    "warmup_epochs": 0,
    "heartbeat_s": 1,
    "space": SPACE,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ingest": {"source": "phantom"},
    "patches": {"tumor_draws": 4, "normal_draws": 4, "stride_px": 24},
    "split": {"protocol": "grouped_cv"},
    "model": TINY_MODEL,
    "train": {"device": "cpu", "precision": "float32"},
    "tune": TUNE,
}


def make_workspace(root: Path, **tune: Any) -> tuple[Workspace, Config]:
    """A workspace whose stages up to `split` have run; the last eight ROIs are the test part."""
    values = laid_over(params(**SETTINGS), {"tune": tune})
    parts = 2 * (12 * ["train"] + 4 * ["val"] + 4 * ["test"])
    return workspace_of(root, values, disc_rois(20, 20), [f"g{i // 2:02d}" for i in range(40)], parts)


@pytest.fixture
def workspace(tmp_path: Path) -> tuple[Workspace, Config]:
    """One of these."""
    return make_workspace(tmp_path / "space")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are written without their pictures, which take seconds and have tests of their own."""
    monkeypatch.setattr("mammo.tuning.record.write_plots", lambda *_: None)


@pytest.fixture(scope="session")
def forked() -> ForkServerContext:
    """Processes that begin in milliseconds, because what they import is loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "alembic.command", "psycopg"])
    return context


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    """A PostgreSQL server, with a database for studies."""
    with postgresql("tuner", PASSWORD, "studies") as running:
        yield running


@pytest.fixture(scope="module")
def database_url(server: Postgresql) -> str:
    """Its address, with the password."""
    return f"postgresql+psycopg://tuner:{PASSWORD}@127.0.0.1:{server.port}/studies"


@contextmanager
def tune_command(space: Workspace, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The real `mammo tune` as a process of its own group; killed at the end, if it still runs."""
    mammo = [str(Path(sys.executable).with_name("mammo")), "tune", "--workspace", str(space.root)]
    command = subprocess.Popen(
        [*mammo, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with command:
        try:
            yield command
        finally:
            command.kill()


def line_with(command: subprocess.Popen[str], text: str) -> str:
    """The next line of the command's output that holds a text."""
    assert command.stdout is not None
    for line in command.stdout:
        if text in line:
            return line
    raise AssertionError(f"the command has ended: {command.communicate()}")


@contextmanager
def study_in(space: Workspace, config: Config, url: str | None = None, *, fresh: bool = False) -> Iterator[OpenStudy]:
    """A study as its command has it open."""
    with using_storage(space, url, config.tune.heartbeat_s) as storage:
        yield make_study(space, config, storage, trial_folds(space, config), fresh=fresh)


def agrees_with_storage(opened: OpenStudy) -> None:
    """MLflow holds one run of the study, and one nested run for each try, with its state, parameters and values."""
    from mammo.track.store import connect

    client = connect(opened.workspace)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, f"tags.`mammo.study` = '{opened.id}' and tags.`mammo.trial` = 'study'")
    assert parent.info.status == "FINISHED"
    found = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    nested = {int(run.data.tags["mammo.trial"]): run for run in found}
    assert sorted(int(run.data.tags["mammo.trial"]) for run in found) == [t.number for t in opened.trials]
    for trial in opened.trials:
        run, state = nested[trial.number], state_of(trial)
        assert run.data.tags["mammo.state"] == state
        statuses = {"complete": "FINISHED", "pruned": "KILLED", "retried": "FAILED"}
        assert run.info.status == statuses[state]
        for name, value in trial.params.items():
            assert run.data.params[name] == str(value)
        history = client.get_metric_history(run.info.run_id, "val_auc_so_far")
        assert {m.step: m.value for m in history} == trial.intermediate_values
        assert len(history) == len(trial.intermediate_values)
        if state == "complete":
            assert run.data.metrics["value"] == trial.value
