"""MLflow's server goes away in the middle of a study: the trials go on, and its side is written later."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.exceptions import MlflowException

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.tuning.claims import claim
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import open_storage
from mammo.tuning.study import join_study, make_study
from tests.docker.processes import answers, free_port, wait_until
from tests.tuning.conftest import agrees_with_storage, line_with, tune_command

N_TRIALS = 8


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[Callable[[], None]]:
    """The real server, whose runs outlive it in `folder`; gives what kills it as a loss of power would."""
    program = str(Path(sys.executable).with_name("mlflow"))
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    files = ["--artifacts-destination", str(folder / "artifacts")]
    command = [program, "server", "--port", str(port), "--workers", "1", *store, *files]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120, lambda: "MLflow answers")
        yield kill
    finally:
        kill()


@pytest.mark.slow
def test_a_study_whose_mlflow_server_stays_away_is_whole_and_is_written_by_the_same_command_later(
    workspace: tuple[Workspace, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = workspace
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else it is waited for four minutes
    arguments = ("--trials", str(N_TRIALS), "--workers", "1")
    with mlflow_server(port, folder) as kill, tune_command(space, *arguments) as command:
        line_with(command, "trial 0")
        kill()
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
