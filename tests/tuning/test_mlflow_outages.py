"""MLflow's server goes away in the middle of a study: the trials go on, and its side is written later."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.exceptions import MlflowException

from mammo.config import Config
from mammo.layout import Workspace
from mammo.tuning.claims import claim
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import open_storage
from mammo.tuning.study import join_study, make_study
from tests.docker.processes import free_port, running
from tests.tuning.conftest import agrees_with_storage, line_with, tune_command

N_TRIALS = 4


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[None]:
    """The real server, whose runs outlive it in `folder`."""
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    files = ["--artifacts-destination", str(folder / "artifacts")]
    command = ["mlflow", "server", "--port", str(port), "--workers", "1", *store, *files]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running(command, os.environ | {"PATH": path}, folder, f"http://127.0.0.1:{port}/health"):
        yield


@pytest.mark.slow
def test_a_study_whose_mlflow_server_stays_away_is_whole_and_is_written_by_the_same_command_later(
    workspace: tuple[Workspace, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = workspace
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # for it would be waited for four minutes
    arguments = ("--trials", str(N_TRIALS), "--workers", "1")
    with ExitStack() as server:
        server.enter_context(mlflow_server(port, folder))
        with tune_command(space, *arguments) as command:
            line_with(command, "trial 0")
            server.close()
            rest, errors = command.communicate(timeout=180)
    assert command.returncode == 2
    assert rest.count("The trials go on") == 1
    assert f"127.0.0.1:{port}" in errors
    assert "Traceback" not in errors
    record = yaml.safe_load((space.reports / "tune" / "best.yaml").read_text())
    assert record["trials"]["ended"] == N_TRIALS
    with mlflow_server(port, folder):
        with tune_command(space, *arguments) as command:
            _, errors = command.communicate(timeout=180)
        assert (command.returncode, errors) == (0, "")
        opened = join_study(space, config, open_storage(space, None, None), read_trial_rois(space, config))
        agrees_with_storage(opened, StudyRuns(opened, N_TRIALS))


def test_an_absence_of_mlflow_is_said_once_and_what_was_missed_is_written_at_its_return(
    workspace: tuple[Workspace, Config],
    store_of: Callable[[Workspace], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, config = workspace
    store_of(space)
    storage = open_storage(space, None, None)
    opened = make_study(space, config, storage, read_trial_rois(space, config), fresh=False)
    runs = StudyRuns(opened, 2)
    said: list[str] = []
    for _ in range(2):
        trial = claim(opened, 2)
        assert trial is not None
        opened.study.tell(trial, 0.5)

    create_run = runs._client.create_run

    def make_and_go_away(*where: Any, **what: Any) -> None:
        create_run(*where, **what)
        patch.setattr(runs._client, "create_run", is_away)
        is_away()

    def is_away(*_: Any, **__: Any) -> None:
        raise MlflowException("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(runs._client, "create_run", make_and_go_away)
        runs.keep_up(said.append)
        runs.keep_up(said.append)
    runs.keep_up(said.append)
    runs.keep_up(said.append)
    assert ["is away" in said[0], "answers again" in said[1], len(said)] == [True, True, 2]
    agrees_with_storage(opened, runs)
