"""`mammo tune`: makes the study, starts workers, keeps MLflow in step with the storage, writes the reports."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Final

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import PHANTOM, ConfigError, MammoError, TrackingError, ending_on_sigterm
from mammo.core.files import Workspace
from mammo.core.settings import read_record
from mammo.track.store import few_retries
from mammo.tuning.claims import mend
from mammo.tuning.crew import Crew
from mammo.tuning.database import Database
from mammo.tuning.identity import is_alive
from mammo.tuning.material import read_trial_rois
from mammo.tuning.record import BEST_FILE, report_folder, study_record, write_record
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import exclusively, hidden, journal_path, set_aside_damaged, using_storage
from mammo.tuning.study import OpenStudy, make_study, noticing_deletion
from mammo.tuning.trials import WORKER, indices
from mammo.tuning.worker import trial_line, worker_context

POLL_S: Final = 1.0
ORPHANS_S: Final = 20.0
"""How long to wait for the workers of a killed command to end."""


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


def run_tuning(space: Workspace, config: Config, plan: Plan, console: Console) -> dict[str, Any]:
    """Make or continue the study until it has its trials; write MLflow's side and `reports/tune/`.

    Returns:
        The record, as in `reports/tune/best.yaml`.

    Raises:
        MammoError: another command runs on this study, it was made with other settings, it is deleted meanwhile, its
            workers keep dying, or no trial completed.
        TrackingError: the study's storage cannot be used, or has been away for too long.
    """
    check_plan(plan)
    if plan.n_workers > 0:
        worker_context()  # loads what workers need while this process reads and opens the store
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # On the CPU: this process only looks after the workers, and a GPU may admit no other beside them.
    material = read_trial_rois(space, config, torch.device("cpu"))

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with _only_command(space), ending_on_sigterm():
        if plan.fresh and plan.url is None and (aside := set_aside_damaged(space)) is not None:
            say(f"the journal could not be read; it lies in {aside} now, and all its studies start anew")
        with using_storage(space, plan.url, config.tune.heartbeat_s, say) as storage:
            opened = make_study(space, config, storage, material, fresh=plan.fresh)
            if isinstance(storage, JournalStorage):
                _wait_for_orphans(opened)
            return _run(opened, plan, say)


def _run(opened: OpenStudy, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    _announce_replacement(opened, say)
    runs = StudyRuns(opened, plan.n_trials)
    crew = Crew(opened, plan.url, plan.n_trials, plan.n_workers)
    with _ended_when_stopped(opened, crew, runs), noticing_deletion(opened):
        _work_off(opened, plan, crew, runs, say)
        record = study_record(opened)
        write_record(opened, record)
        runs.finish(record, say)
    return record


def _announce_replacement(opened: OpenStudy, say: Callable[[str], None]) -> None:
    """Say beforehand that the record of another study will make way: its trials may be gone already."""
    record = report_folder(opened.space, opened.config.tune.held_out_fold) / BEST_FILE
    with suppress(ConfigError):
        before = read_record(record)["study"]["id"]
        if before != opened.id:
            say(f"{record} is that of study {before}; at the end of this study ({opened.id}) it is replaced")


@contextmanager
def _ended_when_stopped(opened: OpenStudy, crew: Crew, runs: StudyRuns) -> Iterator[None]:
    """Leave no worker, and no run of MLflow that seems to go on, however the command ends."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MammoError) as ended:
        crew.end()
        if isinstance(opened.storage, Database):
            opened.storage.give_up()
        # Without the storage, or without the study, there is nothing more to be said of the trials.
        with suppress(TrackingError, KeyError):
            _mend(opened, crew)
        with suppress(TrackingError, KeyError), few_retries():
            runs.sync()
        with suppress(TrackingError), few_retries():
            runs.stop(failed=isinstance(ended, MammoError))
        raise
    finally:
        crew.end()


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


def _work_off(opened: OpenStudy, plan: Plan, crew: Crew, runs: StudyRuns, say: Callable[[str], None]) -> None:
    """Keep workers at it until every trial has ended; what dies is replaced while the study advances."""
    told = _begin(opened, plan, say)
    while len(opened.ended) < plan.n_trials:
        crew.bury()
        crew.fill(_takeable(_mend(opened, crew), plan.n_trials))
        if _tell(opened, told, say):
            crew.forgive()
        runs.keep_up(say)
        crew.watch(POLL_S)
    crew.leave()
    _tell(opened, told, say)
    say("no trial is left: writing the record, the importances and the plots")


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


def _mend(opened: OpenStudy, crew: Crew) -> list[FrozenTrial]:
    """Give back the trials of dead workers; returns all tries after that."""

    def under_lock() -> list[FrozenTrial]:
        mend(opened, crew.dead)
        return opened.trials

    return exclusively(opened.space, opened.storage, opened.study.study_name, under_lock)


def _takeable(trials: list[FrozenTrial], n_trials: int) -> int:
    """How many trials wait for a worker, those of dead workers included."""
    waiting = sum(t.state == TrialState.WAITING for t in trials)
    return waiting + max(0, n_trials - len(indices(trials)))


def _tell(opened: OpenStudy, told: set[int], say: Callable[[str], None]) -> bool:
    """Say a line for each trial that has ended since; whether there was one."""
    new = [trial for trial in opened.ended if trial.number not in told]
    for trial in new:
        say(trial_line(trial, opened.config.tune.metric))
    told.update(trial.number for trial in new)
    return bool(new)
