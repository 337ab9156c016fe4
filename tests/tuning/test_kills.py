"""Kills at random moments: nothing lost, nothing doubled, and on the journal the trials of an undisturbed study."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy import text

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.tuning.mlflow import write_runs
from mammo.tuning.objective import FOLDS, INDEX, WORKER, finished, state_of
from mammo.tuning.record import study_record, write_record
from mammo.tuning.storage import journal_path, using_storage
from mammo.tuning.study import OpenStudy, study_name
from mammo.tuning.workers import Plan, run_tuning, take, work
from tests.docker.processes import wait_until
from tests.tuning.conftest import (
    agrees_with_storage,
    line_with,
    make_workspace,
    study_in,
    tune_command,
)

N_TRIALS = 6
N_KILLS = 10
N_REPORTS = 4
"""At most, of epochs, between two kills."""
Store = Callable[[Workspace], None]


def what_counts(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All of a finished trial that the machine's speed and the number of kills may not touch."""
    return [
        {
            "index": trial.user_attrs[INDEX],
            "state": trial.state,
            "value": trial.value,
            "params": trial.params,
            "epochs": trial.intermediate_values,
            "folds": trial.user_attrs.get(FOLDS),
        }
        for trial in finished(trials)
    ]


def kill_ten_times(forked: ForkServerContext, opened: OpenStudy, url: str | None, n_workers: int, seed: int) -> None:
    """Kill -9 a worker ten times, each after a random number of epochs; then let them end, and write the results.

    Each time all others are killed with it, and a new command takes up the study, as far as a worker can tell.
    """
    rng = np.random.default_rng(seed)
    ended: list[FrozenTrial] = []
    for kill in range(N_KILLS):
        until = n_reported(opened) + int(rng.integers(1, N_REPORTS))
        workers = started(forked, opened, url, n_workers, f"command {kill}")
        while n_reported(opened) < until:
            workers[0].join(0.03)
            assert workers[0].exitcode is None, "the study ended before the last kill"
        for worker in workers:
            worker.kill()
            worker.join()
            assert worker.exitcode == -9
        if isinstance(opened.storage, RDBStorage):  # as if the four heartbeats had been waited for
            with opened.storage.engine.begin() as connection:
                connection.execute(text("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 minute'"))
        assert what_counts([opened.trials[trial.number] for trial in ended]) == what_counts(ended)
        ended = opened.ended
    for worker in started(forked, opened, url, n_workers, "the last command"):
        worker.join(600)
        assert worker.exitcode == 0
    record = study_record(opened)
    write_record(opened, record)
    write_runs(opened, record)


def started(
    forked: ForkServerContext, opened: OpenStudy, url: str | None, n_workers: int, command: str
) -> list[BaseProcess]:
    """A command's workers, on a study."""
    arguments = (opened.workspace, opened.config, url, N_TRIALS, command)
    workers: list[BaseProcess] = [forked.Process(target=work, args=arguments) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    return workers


def n_reported(opened: OpenStudy) -> int:
    return sum(len(trial.intermediate_values) for trial in opened.trials)


def is_whole(opened: OpenStudy, n_trials: int = N_TRIALS, n_died: int = 5) -> None:
    """Every index once, nothing left open, and MLflow says so too."""
    assert [trial.user_attrs[INDEX] for trial in opened.ended] == list(range(n_trials))
    ended = [trial for trial in opened.trials if state_of(trial) != "retried"]
    assert len(ended) == n_trials
    assert all(trial.state.is_finished() for trial in opened.trials)
    assert len(opened.trials) - len(ended) >= n_died
    agrees_with_storage(opened)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_study_killed_ten_times_ends_with_the_trials_of_an_undisturbed_one(
    tmp_path: Path, forked: ForkServerContext, store_of: Store
) -> None:
    calm, config = make_workspace(tmp_path / "calm")
    shaken, _ = make_workspace(tmp_path / "shaken")
    store_of(shaken)
    with study_in(calm, config) as undisturbed, study_in(shaken, config) as disturbed:
        (worker,) = started(forked, undisturbed, None, 1, "the only command")
        worker.join(600)
        kill_ten_times(forked, disturbed, None, 1, seed=0)
        assert what_counts(disturbed.trials) == what_counts(undisturbed.trials)
        assert {"pruned", "complete"} <= {state_of(trial) for trial in disturbed.trials}
        is_whole(disturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_two_workers_killed_ten_times_on_postgresql_lose_and_double_nothing(
    workspace: tuple[Workspace, Config], forked: ForkServerContext, database_url: str, store_of: Store
) -> None:
    space, config = workspace
    store_of(space)
    with study_in(space, config, database_url, fresh=True) as opened:
        kill_ten_times(forked, opened, database_url, 2, seed=1)
        is_whole(opened)


@pytest.mark.slow
@pytest.mark.usefixtures("hears_interrupts", "without_pictures")
def test_a_command_that_is_stopped_or_loses_a_worker_says_one_line_and_goes_on_when_run_again(
    workspace: tuple[Workspace, Config], store_of: Store
) -> None:
    space, config = workspace
    store_of(space)
    n_trials = 10

    def ended_by(line: str, end: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
        with tune_command(space, "--trials", str(n_trials), "--workers", "1") as command:
            line_with(command, line)
            end(command)
            _, said = command.communicate(timeout=600)
        return command.returncode, said

    killer = threading.Thread(target=kill_the_first_worker, args=(space, config))
    killer.start()
    with pytest.raises(MammoError, match=r"^a worker died .*; ended trials are kept: run the same command again"):
        run_tuning(space, config, Plan(n_trials, 1), Console(quiet=True))
    killer.join()
    stopped = "stopped; run the same command to go on\n"
    # A terminal sends it to all of its processes.
    assert ended_by("ended before", lambda c: os.killpg(c.pid, signal.SIGINT)) == (130, stopped)
    assert ended_by("trial ", lambda c: c.send_signal(signal.SIGTERM)) == (143, stopped)
    assert ended_by("trial ", lambda c: c.kill())[0] == -signal.SIGKILL
    run_tuning(space, config, Plan(n_trials, 1), Console(quiet=True))
    with study_in(space, config) as opened:
        is_whole(opened, n_trials, n_died=1)


def kill_the_first_worker(space: Workspace, config: Config) -> None:
    """Kill -9 the worker that takes the first trial, as soon as it has."""

    def workers() -> list[str]:
        with using_storage(space, None, None) as storage:
            if study_name(config) not in optuna.get_all_study_names(storage):
                return []
            trials = optuna.load_study(study_name=study_name(config), storage=storage).trials
        return [trial.user_attrs[WORKER] for trial in trials if WORKER in trial.user_attrs]

    wait_until(lambda: bool(workers()), 120, lambda: "a worker takes a trial")
    os.kill(int(workers()[0].split(":")[1]), signal.SIGKILL)


@pytest.mark.parametrize("n_writes", range(1, 12))
def test_a_taker_that_dies_leaves_its_index_to_the_next(
    workspace: tuple[Workspace, Config], n_writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = workspace
    with study_in(space, config) as opened:
        backend = type(opened.storage._backend)  # type: ignore[attr-defined]
        append, left = backend.append_logs, iter(range(n_writes))

        def write_or_die(self: object, logs: list[dict[str, Any]]) -> None:
            if next(left, None) is None:
                raise InterruptedError
            append(self, logs)

        with monkeypatch.context() as patch:
            patch.setattr(backend, "append_logs", write_or_die)
            try:
                died = take(opened, 2) is None
            except InterruptedError:
                died = True
        taken = take(opened, 2)
        assert taken is not None
        assert taken.user_attrs[INDEX] == (0 if died else 1)
        assert set(taken.params) == set(config.tune.space)


def test_half_a_line_that_a_killed_writer_left_is_cut_off(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    with study_in(space, config) as opened:
        assert take(opened, 5) is not None
        with journal_path(space).open("ab") as journal:
            journal.write(b'{"op_code":6,"worker_')
    with study_in(space, config) as again:
        again.study.set_user_attr("after", "the kill")
    with study_in(space, config) as later:
        assert later.study.user_attrs["after"] == "the kill"
        assert [trial.state for trial in later.trials] == [TrialState.FAIL]
