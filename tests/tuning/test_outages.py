"""PostgreSQL or MLflow away, and who may join or forget a study that others work on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy import text
from typer.testing import CliRunner

from mammo.cli import app
from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.tuning.mlflow import write_runs
from mammo.tuning.objective import FOLDS, INDEX, trial_folds
from mammo.tuning.record import study_record, write_record
from mammo.tuning.space import without_fold
from mammo.tuning.storage import using_storage
from mammo.tuning.study import OpenStudy, join_study, make_study
from mammo.tuning.workers import Plan, run_tuning, take, work
from tests.docker.processes import Postgresql, answers, free_port, wait_until
from tests.tuning.conftest import PASSWORD, agrees_with_storage, line_with, study_in, tune_command

pytestmark = pytest.mark.usefixtures("without_pictures")

N_TRIALS = 4
Store = Callable[[Workspace], None]


@pytest.fixture
def opened(workspace: tuple[Workspace, Config], database_url: str) -> Iterator[OpenStudy]:
    """A fresh study on PostgreSQL."""
    with study_in(*workspace, database_url, fresh=True) as study:
        yield study
        with suppress(MammoError):  # a test has deleted it
            for trial in study.running:
                study.study.tell(trial.number, state=TrialState.FAIL)


@pytest.mark.slow
def test_an_outage_of_the_database_ends_the_command_with_one_sentence_and_the_same_command_goes_on(
    workspace: tuple[Workspace, Config], server: Postgresql, database_url: str, store_of: Store
) -> None:
    space, config = workspace
    store_of(space)
    arguments = ("--trials", str(N_TRIALS), "--workers", "2", "--storage", database_url)
    with tune_command(space, *arguments, "--fresh") as command:
        line_with(command, "trial ")
        server.stop()
        try:
            rest, errors = command.communicate(timeout=600)
        finally:
            server.start()
    assert command.returncode == 2
    assert len(errors.splitlines()) == 1, errors
    sentence = errors.strip()
    assert "the study's database must answer, and does not" in sentence
    assert sentence.endswith("then run the same command again")
    assert PASSWORD not in rest + errors
    run_tuning(space, config, Plan(N_TRIALS, 2, database_url), Console(quiet=True))
    with study_in(space, config, database_url) as opened:
        assert [t.user_attrs[INDEX] for t in opened.ended] == list(range(N_TRIALS))
        assert all(t.state.is_finished() for t in opened.trials)
        agrees_with_storage(opened)


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[None]:
    """The real server, whose runs lie in `folder`."""
    program = str(Path(sys.executable).with_name("mlflow"))
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    files = ["--artifacts-destination", str(folder / "artifacts")]
    command = [program, "server", "--port", str(port), "--workers", "1", *store, *files]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 600, lambda: "MLflow answers")
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_a_study_whose_mlflow_server_is_away_is_whole_and_is_written_by_the_same_command_later(
    workspace: tuple[Workspace, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = workspace
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=rf"^http://127\.0\.0\.1:{port}: "):
        run_tuning(space, config, Plan(2, 1), Console(quiet=True))
    record = yaml.safe_load((space.reports / "tune" / "best.yaml").read_text())
    assert record["trials"]["ended"] == 2
    with mlflow_server(port, tmp_path):
        run_tuning(space, config, Plan(2, 1), Console(quiet=True))
        with study_in(space, config) as opened:
            agrees_with_storage(opened)


@pytest.mark.parametrize("cut_off", ["create_run", "log_batch", "set_terminated", "set_tag", "log_artifact"])
def test_runs_whose_writing_was_cut_off_are_completed_without_doubles(
    workspace: tuple[Workspace, Config],
    store_of: Store,
    monkeypatch: pytest.MonkeyPatch,
    cut_off: str,
) -> None:
    store_of(workspace[0])
    with study_in(*workspace) as opened:
        for value in (0.5, 0.75):
            trial = take(opened, 2)
            assert trial is not None
            trial.report(value, 0)
            trial.set_user_attr("fold_values", [value, value])
            opened.study.tell(trial, value)
        record = study_record(opened)
        write_record(opened, record)
        written, calls = getattr(MlflowClient, cut_off), iter(range(1))

        def write_once_and_die(*what: Any, **how: Any) -> Any:
            if next(calls, None) is None:
                raise InterruptedError
            return written(*what, **how)

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, cut_off, write_once_and_die)
            with pytest.raises(TrackingError):
                write_runs(opened, record)
        assert write_runs(opened, record) == write_runs(opened, record)
        agrees_with_storage(opened)


def test_a_study_is_not_forgotten_while_a_worker_is_on_it(
    workspace: tuple[Workspace, Config], opened: OpenStudy
) -> None:
    space, config = workspace
    rois, before = trial_folds(space, config), opened.id
    trial = take(opened, 2)  # alive for four heartbeats
    assert trial is not None
    with pytest.raises(MammoError, match=r"nobody may be at work.*stop it, or leave --fresh out"):
        make_study(space, config, opened.storage, rois, fresh=True)
    opened.study.tell(trial, state=TrialState.PRUNED)
    assert make_study(space, config, opened.storage, rois, fresh=True).id != before


@pytest.mark.slow
def test_a_worker_whose_study_is_deleted_says_so(
    workspace: tuple[Workspace, Config], opened: OpenStudy, database_url: str
) -> None:
    space, config = workspace

    def delete(line: str) -> None:
        assert line.startswith("trial 0")
        make_study(space, config, opened.storage, trial_folds(space, config), fresh=True)

    with pytest.raises(MammoError, match=r"was deleted meanwhile .*; start again"):
        work(space, config, database_url, 2, say=delete)


@pytest.mark.parametrize("fold", [None, 1])
def test_a_worker_takes_the_trials_that_the_command_asked_for(
    workspace: tuple[Workspace, Config],
    database_url: str,
    store_of: Store,
    monkeypatch: pytest.MonkeyPatch,
    fold: int | None,
) -> None:
    space, config = workspace
    store_of(space)
    held_out = [] if fold is None else ["--held-out-fold", str(fold)]
    said: list[str] = []

    def judged(trial: optuna.Trial, *_: object) -> float:
        trial.set_user_attr(FOLDS, [0.25, 0.75])
        return 0.5

    def elsewhere(*_: object) -> None:
        arguments = ["tune", "worker", *held_out, "--workspace", str(space.root)]
        said.extend(CliRunner().invoke(app, arguments, catch_exceptions=False).output.splitlines())

    monkeypatch.setenv("MAMMO_TUNE_STORAGE", database_url)
    monkeypatch.setattr("mammo.tuning.workers.judge_trial", judged)
    monkeypatch.setattr("mammo.tuning.workers._work_off", elsewhere)
    asked = config if fold is None else without_fold(config, fold)
    record = run_tuning(space, asked, Plan(3, 0, database_url, fresh=True), Console(quiet=True))
    assert said[-1] == "3 trials ended here; none is left"
    assert (record["trials"]["complete"], record["study"]["held_out_fold"]) == (3, fold)
    assert config.tune.trials != 3


def test_trials_that_were_open_at_once_are_counted_whoever_took_them(opened: OpenStudy) -> None:
    alone = take(opened, 4)
    assert alone is not None
    opened.study.tell(alone, state=TrialState.PRUNED)
    assert take(opened, 4) is not None
    assert opened.study.user_attrs["n_workers"] == 1
    assert take(opened, 4) is not None
    assert opened.study.user_attrs["n_workers"] == 2


def test_a_worker_of_other_settings_is_refused(workspace: tuple[Workspace, Config], opened: OpenStudy) -> None:
    space, config = workspace
    other = config.model_copy(update={"tune": config.tune.model_copy(update={"seed": 1})})
    with pytest.raises(MammoError, match=r"tune\.seed: 0 there, 1 here\n.*the study's params\.yaml and data"):
        join_study(space, other, opened.storage, trial_folds(space, config), "command")


def test_a_worker_without_a_study_says_who_makes_it(workspace: tuple[Workspace, Config], opened: OpenStudy) -> None:
    space, config = workspace
    elsewhere = config.model_copy(update={"ingest": config.ingest.model_copy(update={"source": "mini_mias"})})
    with pytest.raises(MammoError, match="run `mammo tune` with this --storage first"):
        join_study(space, elsewhere, opened.storage, trial_folds(space, config), "command")


def test_an_unreachable_database_is_named_without_its_password(
    workspace: tuple[Workspace, Config], database_url: str
) -> None:
    wrong = database_url.replace(PASSWORD, "another-secret")
    with (
        pytest.raises(TrackingError, match=r"that the password is right") as caught,
        using_storage(workspace[0], wrong, 1),
    ):
        pass
    assert "another-secret" not in str(caught.value)


def test_the_server_misses_a_client_whose_machine_has_gone_within_a_minute(opened: OpenStudy) -> None:
    assert isinstance(opened.storage, RDBStorage)
    with opened.storage.engine.connect() as connection:
        idle, interval, count, unanswered = (
            int(connection.execute(text(f"SHOW tcp_{name}")).scalar_one())
            for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
        )
    assert idle + interval * count <= 60
    assert unanswered == 60_000  # milliseconds
