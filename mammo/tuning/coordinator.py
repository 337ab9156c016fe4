"""`mammo tune`: makes the study, starts workers, keeps MLflow in step with the storage, writes the reports."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import monotonic, sleep
from typing import Any, Final

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from mammo.config import Config
from mammo.entry import BAD_INPUT
from mammo.errors import MammoError
from mammo.layout import Workspace
from mammo.tuning.identity import is_alive
from mammo.tuning.material import read_trial_rois
from mammo.tuning.record import study_record, write_record
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import exclusive, hidden, journal_path, using_storage
from mammo.tuning.study import OpenStudy, make_study, mend, note_workers
from mammo.tuning.trials import RETRY_OF, WORKER
from mammo.tuning.worker import run_as_child, trial_line, worker_context

POLL_S: Final = 1.0
ORPHANS_S: Final = 20.0
"""How long to wait for the workers of a killed command to end."""
MOST_DEATHS: Final = 5
"""Of each worker, without a trial that ends between them, before the command gives up."""


@dataclass(frozen=True)
class Plan:
    """What a call of `mammo tune` is to do.

    Attributes:
        n_trials: trials of the study in all, those of earlier calls included.
        n_workers: processes on this machine; 0 leaves the trials to `mammo tune worker` elsewhere.
        url: PostgreSQL's address, or None for the journal.
        fresh: forget the study that is there.
    """

    n_trials: int
    n_workers: int
    url: str | None = None
    fresh: bool = False


def run_study(space: Workspace, config: Config, plan: Plan, console: Console) -> dict[str, Any]:
    """Make or continue the study until it has its trials; write MLflow's side and `reports/tune/`.

    Returns:
        The record, as in `reports/tune/best.yaml`.

    Raises:
        MammoError: another command runs on this study, it was made with other settings, its workers keep dying,
            or no trial completed.
    """
    check_plan(plan)
    if plan.n_workers > 0:
        worker_context()  # loads what workers need while this process reads and opens the store
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # On the CPU: this process only looks after the workers, and a GPU may admit no other beside them.
    material = read_trial_rois(space, config, torch.device("cpu"))
    with _only_command(space), using_storage(space, plan.url, config.tune.heartbeat_s) as storage:
        opened = make_study(space, config, storage, material, fresh=plan.fresh)
        if isinstance(storage, JournalStorage):
            _wait_for_orphans(opened)
        note_workers(opened, plan.n_workers)
        runs = StudyRuns(opened, plan.n_trials)
        _work_off(opened, plan, runs, console)
        record = study_record(opened)
        write_record(opened, record)
        runs.finish(record)
    return record


def check_plan(plan: Plan) -> None:
    """Refuse numbers that make no study.

    Raises:
        MammoError: no trials, no workers, or a database that is not PostgreSQL.
    """
    if plan.n_trials < 1:
        raise MammoError(
            f"--trials must be at least 1 (a study without trials chooses nothing), got {plan.n_trials}; ask for more"
        )
    if plan.n_workers < 0 or (plan.n_workers == 0 and plan.url is None):
        raise MammoError(
            f"--workers must be at least 1 (0 only with --storage, where other machines work), got {plan.n_workers}; "
            "ask for more"
        )
    if plan.url is not None:
        hidden(plan.url)


def _only_command(space: Workspace) -> AbstractContextManager[object]:
    """Two commands would write the same reports, and take each other's workers for dead."""
    path = journal_path(space).with_name("command.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout as error:
        raise MammoError(
            f"{path}: one `mammo tune` at a time may work in a workspace, and another does; wait for it, or stop it"
        ) from error


def _wait_for_orphans(opened: OpenStudy) -> None:
    """Workers of a killed command end by themselves within moments; their trials are then mended."""
    deadline = monotonic() + ORPHANS_S
    while any(is_alive(worker) for worker in _at_work(opened.trials)):
        if monotonic() > deadline:
            raise MammoError(
                "a worker of an earlier `mammo tune` still runs; stop it and run the command again"
            )
        sleep(0.05)


def _at_work(trials: list[FrozenTrial]) -> list[str]:
    running = [t for t in trials if t.state == TrialState.RUNNING]
    return [str(t.user_attrs[WORKER]) for t in running if WORKER in t.user_attrs]


def _work_off(opened: OpenStudy, plan: Plan, runs: StudyRuns, console: Console) -> None:
    """Keep workers running until every trial has ended; what dies is replaced while the study advances."""
    workers: list[BaseProcess] = []
    told = _begin(opened, plan, console)
    n_deaths = 0
    try:
        while len(opened.ended) < plan.n_trials:
            n_dead = _bury(workers)
            n_deaths += n_dead
            if n_deaths > MOST_DEATHS * plan.n_workers:
                raise MammoError(
                    f"{n_deaths} workers died without ending a trial (out of memory?); ended trials are kept: run the "
                    "same command with fewer --workers"
                )
            n_missing = min(plan.n_workers - len(workers), _takeable(opened, plan.n_trials))
            workers += [_start(opened, plan) for _ in range(n_missing)]
            runs.sync()
            if _tell(opened, told, console):
                n_deaths = 0
            wait([worker.sentinel for worker in workers], POLL_S) if workers else sleep(POLL_S)
        for worker in workers:
            worker.join(timeout=ORPHANS_S)
        _tell(opened, told, console)
    finally:
        for worker in workers:
            if worker.exitcode is None:
                worker.terminate()
                worker.join()


def _begin(opened: OpenStudy, plan: Plan, console: Console) -> set[int]:
    """Say what is to be done; returns the numbers of the trials that ended before."""
    told = {trial.number for trial in opened.ended}
    note = "PHANTOM (synthetic) ROIs" if opened.study.user_attrs["synthetic"] else "ROIs of train and val"
    console.print(
        f"study {opened.study.study_name} on {note}: {len(told)} of {plan.n_trials} trials ended before, "
        f"{plan.n_workers} {'worker' if plan.n_workers == 1 else 'workers'}. Stop at any time: the same command "
        "goes on.",
        highlight=False,
        soft_wrap=True,
    )
    return told


def _bury(workers: list[BaseProcess]) -> int:
    """Forget workers that have ended; returns how many were killed.

    Raises:
        MammoError: one could not begin; it has said why.
    """
    ended = [worker for worker in workers if worker.exitcode is not None]
    if any(worker.exitcode == BAD_INPUT for worker in ended):
        raise MammoError("a worker could not go on; its message stands above")
    workers[:] = [worker for worker in workers if worker not in ended]
    return sum(worker.exitcode != 0 for worker in ended)


def _takeable(opened: OpenStudy, n_trials: int) -> int:
    """How many trials wait for a worker, those of dead workers included."""
    with exclusive(opened.space, opened.storage, opened.study.study_name):
        mend(opened)
        trials = opened.trials
    waiting = sum(t.state == TrialState.WAITING for t in trials)
    return waiting + max(0, n_trials - sum(RETRY_OF not in t.user_attrs for t in trials))


def _start(opened: OpenStudy, plan: Plan) -> BaseProcess:
    arguments = (opened.space.root, opened.config, plan.url, plan.n_trials)
    worker: BaseProcess = worker_context().Process(target=run_as_child, args=arguments)
    worker.start()
    return worker


def _tell(opened: OpenStudy, told: set[int], console: Console) -> bool:
    """Print a line for each trial that has ended since; whether there was one."""
    new = [trial for trial in opened.ended if trial.number not in told]
    for trial in new:
        console.print(trial_line(trial, opened.config.tune.metric), highlight=False, soft_wrap=True)
    told.update(trial.number for trial in new)
    return bool(new)
