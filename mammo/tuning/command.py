"""`mammo tune`: makes the study, starts workers, writes the record, the pictures and MLflow's side."""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import sleep
from typing import Any, Final

import optuna
from filelock import FileLock, Timeout
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import PHANTOM, MammoError, ending_on_sigterm
from mammo.core.files import Workspace
from mammo.tuning.mlflow import write_runs
from mammo.tuning.record import study_record, write_record
from mammo.tuning.rois import read_trial_rois
from mammo.tuning.storage import hidden, journal_path, using_storage
from mammo.tuning.study import OpenStudy, make_study
from mammo.tuning.workers import crew, trial_line, worker_context

POLL_S: Final = 1.0


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


def run_tuning(space: Workspace, config: Config, plan: Plan, console: Console) -> dict[str, Any]:
    """Make or continue the study until it has its trials; write `reports/tune/` and MLflow's side.

    Returns:
        The record, as in `reports/tune/best.yaml`.

    Raises:
        MammoError: another command runs on this study, it was made with other settings, it is deleted meanwhile, a
            worker died, or no trial completed. Ended trials are kept; the same command goes on.
        TrackingError: the study's storage, or MLflow's, cannot be used; likewise.
    """
    check_plan(plan)
    if plan.n_workers > 0:
        worker_context()  # loads what workers need while this process reads and opens the store
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with _only_command(space), ending_on_sigterm():
        rois = read_trial_rois(space, config)
        with using_storage(space, plan.url, config.tune.heartbeat_s) as storage:
            opened = make_study(space, config, storage, rois, fresh=plan.fresh)
            _work_off(opened, plan, say)
            record = study_record(opened)
            write_record(opened, record)
            write_runs(opened, record)
    return record


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


def _work_off(opened: OpenStudy, plan: Plan, say: Callable[[str], None]) -> None:
    """Let workers take trials until every one has ended, and say how each did."""
    told = _begin(opened, plan, say)
    with crew(opened, plan.url, plan.n_trials, plan.n_workers) as at_work:
        while True:
            ended = opened.ended
            for trial in ended:
                if trial.number not in told:
                    say(trial_line(trial, opened.config.tune.metric))
                    told.add(trial.number)
            if len(ended) >= plan.n_trials:
                break
            done, at_work = wait(at_work, POLL_S, FIRST_EXCEPTION)
            for worker in done:
                worker.result()
            if not at_work:
                sleep(POLL_S)
    say("no trial is left: writing the record, the pictures and MLflow's runs")


def _begin(opened: OpenStudy, plan: Plan, say: Callable[[str], None]) -> set[int]:
    """Say what is to be done; returns the numbers of the trials that ended before."""
    told = {trial.number for trial in opened.ended}
    note = f"{PHANTOM} ROIs" if opened.study.user_attrs["synthetic"] else "ROIs of train and val"
    said = f"study {opened.study.study_name} on {note}: {len(told)} of {plan.n_trials} trials ended before"
    if len(told) >= plan.n_trials:
        say(said)
    elif plan.n_workers == 0:
        say(f"{said}. Workers join with `mammo tune worker --storage …`; this command waits for them.")
    else:
        workers = "1 worker" if plan.n_workers == 1 else f"{plan.n_workers} workers"
        say(f"{said}, {workers}. Stop at any time: the same command goes on.")
    return told
