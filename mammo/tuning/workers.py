"""`mammo tune`: the command makes the study and writes its results; workers take its trials until none is left.

Workers have one thread each, so that bits do not depend on the load. On a GPU several may share the device, each with
the ROI images in its own memory (a few MiB).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from os import getpid
from platform import node
from time import perf_counter, sleep
from typing import Any, Final
from uuid import uuid4

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from mammo.core.config import Config
from mammo.core.errors import PHANTOM, MammoError, ending_on_sigterm
from mammo.core.files import Workspace
from mammo.core.processes import context_without_threads, deaf_to_interrupts
from mammo.data.splits import Fold
from mammo.studies.crew import crew
from mammo.tuning import objective
from mammo.tuning.objective import INDEX, judge_trial, trial_folds
from mammo.tuning.record import study_record, write_record
from mammo.tuning.space import distributions, own_params
from mammo.tuning.storage import alone, hidden, journal_path, using_storage
from mammo.tuning.study import COMMAND, N_TRIALS, N_WORKERS, OpenStudy, join_study, kept_trials, make_study

POLL_S: Final = 0.5
PRELOADED: Final = ("mammo.tuning.workers", "sklearn.model_selection", "scipy.stats")


@dataclass(frozen=True)
class Plan:
    """What a call of `mammo tune` is to do.

    Raises:
        MammoError: no workers on the journal, or a database that is not PostgreSQL.
    """

    n_trials: int
    """Trials of the study in all, those of earlier calls included."""
    n_workers: int
    """Processes on this machine; 0 leaves the trials to `mammo tune worker` elsewhere."""
    url: str | None = None
    """PostgreSQL's address, or None for the journal."""
    fresh: bool = False
    """Forget the study that is there."""

    def __post_init__(self) -> None:
        if self.n_workers == 0 and self.url is None:
            raise MammoError(
                "--workers must be at least 1 (0 only with --storage, where other machines work), got 0; ask for more"
            )
        if self.url is not None:
            hidden(self.url)


def run_tuning(workspace: Workspace, config: Config, plan: Plan, console: Console) -> dict[str, Any]:
    """Make or continue the study until it has its trials; write `reports/tune/` and MLflow's side; give the record."""
    if plan.n_workers > 0:
        context_without_threads(PRELOADED)  # loads what workers need while this process reads
    from mammo.tuning.mlflow import write_runs  # MLflow would keep every worker waiting

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with _only_command(workspace), ending_on_sigterm():
        folds = trial_folds(workspace, config)
        with using_storage(workspace, plan.url, config.tune.heartbeat_s) as storage:
            opened = make_study(workspace, config, storage, folds, fresh=plan.fresh)
            opened.study.set_user_attr(N_TRIALS, plan.n_trials)
            _work_off(opened, plan, say)
            record = study_record(opened)
            write_record(opened, record)
            write_runs(opened, record)
    return record


def to_do(workspace: Workspace, configs: Sequence[Config], plan: Plan) -> str:
    """How many trials of these studies are left and how long they take, for people; no study is made or changed."""
    kept = [[] if plan.fresh else kept_trials(workspace, one, plan.url) for one in configs]
    n_left = sum(max(0, plan.n_trials - len(of_study)) for of_study in kept)
    return _in_words([trial for of_study in kept for trial in of_study], n_left, plan.n_workers)


def _in_words(ended: Sequence[FrozenTrial], n_left: int, n_workers: int) -> str:
    said = f"{n_left} trials to do, {len(ended)} ended before"
    return f"{said}; workers: {n_workers}, {_time_left(ended, n_left, n_workers)}" if n_left else said


def _time_left(ended: Sequence[FrozenTrial], n_left: int, n_workers: int) -> str:
    """How long trials will take at the pace of ended ones."""
    if not ended:
        return "how long shows once a trial has ended"
    if n_workers == 0:
        return "how long hangs on the workers that join"
    mean_s = float(np.mean([trial.user_attrs[objective.TRIAL_S] for trial in ended]))
    left = timedelta(seconds=round(mean_s * n_left / min(n_workers, n_left)))
    return f"about {left} (hours:minutes:seconds)"


@contextmanager
def _only_command(workspace: Workspace) -> Iterator[None]:
    """Two commands would write the same reports, and take each other's workers for dead."""
    path = journal_path(workspace).with_name("command.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise MammoError(
            f"{path}: one `mammo tune` at a time may work in a workspace, and another does; wait for it, or stop it"
        ) from error


def _work_off(opened: OpenStudy, plan: Plan, say: Callable[[str], None]) -> None:
    """Let workers take trials until every one has ended, and say how each did."""
    told = {trial.number for trial in opened.ended}
    n_left = max(0, plan.n_trials - len(told))
    note = f"{PHANTOM} ROIs" if opened.study.user_attrs["synthetic"] else "ROIs of train and val"
    said = _in_words(opened.ended, n_left, plan.n_workers)
    if n_left > 0 and plan.n_workers == 0:
        said += ". Workers join with `mammo tune worker --storage …`; this command waits for them."
    elif n_left > 0:
        said += ". Stop at any time: the same command goes on."
    say(f"study {opened.study.study_name} on {note}: {said}")
    n_workers = min(plan.n_workers, n_left)
    with crew(max(1, n_workers), PRELOADED, "ended trials", "--workers") as executor:
        with deaf_to_interrupts():
            task = (opened.workspace, opened.config, plan.url, plan.n_trials, opened.command)
            at_work = {executor.submit(work, *task) for _ in range(n_workers)}
        while True:
            ended = opened.ended
            for trial in ended:
                if trial.number not in told:
                    told.add(trial.number)
                    left = plan.n_trials - len(told)
                    then = f"; {left} left, {_time_left(ended, left, n_workers)}" if left > 0 else ""
                    say(f"{trial_line(trial, opened.config.tune.metric)}{then}")
            if len(ended) >= plan.n_trials:
                break
            done, at_work = wait(at_work, POLL_S, FIRST_EXCEPTION)
            for worker in done:
                worker.result()
            if not at_work:
                sleep(POLL_S)
    say("no trial is left: writing the record, the pictures and MLflow's runs")


def work(
    workspace: Workspace,
    config: Config,
    url: str | None = None,
    n_trials: int | None = None,
    command: str | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Join the study and take trials until it has `n_trials`; returns how many this worker ended.

    None takes as many as `mammo tune` asked for. `command` signs its trials, see `OpenStudy`; None for a worker that no
    command has started. `say` is told one line for each trial that it ended.
    """
    torch.set_num_threads(1)
    n_ended = 0
    with using_storage(workspace, url, config.tune.heartbeat_s) as storage:
        folds = trial_folds(workspace, config)
        opened = join_study(workspace, config, storage, folds, command or uuid4().hex[:12])
        wanted = n_trials or opened.study.user_attrs.get(N_TRIALS, config.tune.trials)
        while True:
            started = perf_counter()
            trial = take(opened, wanted)
            if trial is not None:
                if (ended := _end(opened, trial, folds, started)) is not None:
                    n_ended += 1
                    if say is not None:
                        say(trial_line(ended, config.tune.metric))
            elif opened.running:  # comes back if its worker dies
                sleep(POLL_S)
            else:
                return n_ended


def take(opened: OpenStudy, n_trials: int) -> optuna.Trial | None:
    """Take the trial of the lowest free index; None when all are taken.

    The index is free again where a worker has died on it. Its parameters hang on the seed, the index and the trials
    that have ended, so that with one worker the next try draws what the dead one drew.
    """
    study, tune = opened.study, opened.config.tune
    with alone(opened.workspace, opened.storage, study.study_name):
        opened.reap()
        running = opened.running
        taken = {trial.user_attrs[INDEX] for trial in (*opened.ended, *running)}
        index = next(index for index in count() if index not in taken)
        if index >= n_trials:
            return None
        if len(running) >= study.user_attrs.get(N_WORKERS, 0):
            study.set_user_attr(N_WORKERS, len(running) + 1)
        # A generator of its own: what a process has drawn before does not matter.
        seed = int(np.random.SeedSequence([tune.seed, index]).generate_state(1)[0])
        study.sampler = TPESampler(seed=seed, n_startup_trials=tune.startup_trials)
        if own := own_params(opened.config) if index == 0 else None:
            study.sampler = PartialFixedSampler(own, study.sampler)
        trial = study.ask(distributions(tune))
        if isinstance(opened.storage, RDBStorage):
            opened.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(INDEX, index)
        if own:
            trial.set_user_attr(objective.OWN, True)
        trial.set_user_attr(objective.WORKER, f"{node()}:{getpid()}")
        trial.set_user_attr(COMMAND, opened.command)
        return trial


def _end(opened: OpenStudy, trial: optuna.Trial, folds: list[Fold], started: float) -> FrozenTrial | None:
    """Judge a trial and tell how it ended; None if it counted as dead meanwhile."""
    value = None
    try:
        with _heartbeat(opened, trial):
            try:
                value = judge_trial(trial, folds, opened.config, opened.workspace)
                state = TrialState.COMPLETE
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            except MammoError as error:
                trial.set_user_attr(objective.ERROR, str(error))
                state = TrialState.FAIL
            trial.set_user_attr(objective.TRIAL_S, round(perf_counter() - started, 3))
        told = opened.study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return None
    return told if told.state == state else None


@contextmanager
def _heartbeat(opened: OpenStudy, trial: optuna.Trial) -> Iterator[None]:
    """Say again and again that the trial's worker lives, where the storage listens."""
    storage, ended = opened.storage, threading.Event()

    def beat() -> None:
        while isinstance(storage, RDBStorage) and not ended.wait(opened.config.tune.heartbeat_s):
            with suppress(SQLAlchemyError, StorageInternalError):  # the trial itself will meet them
                storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def trial_line(trial: FrozenTrial, metric: str) -> str:
    """One line for people: how a trial ended, with its value or its error."""
    attrs = trial.user_attrs
    value = f"{metric} {trial.value:.4f}" if trial.state == TrialState.COMPLETE else ""
    n_folds = len(attrs.get(objective.FOLDS, []))
    said = [objective.state_of(trial), value, f"folds {n_folds}", attrs.get(objective.ERROR, "")]
    return f"trial {attrs[INDEX]}: {', '.join(filter(None, said))}"
