"""Workers: processes that take trials until none is left. One thread each, so that bits do not depend on the load.

On a GPU several may share the device, each with the ROI images in its own memory (a few MiB).
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import active_children
from multiprocessing.context import BaseContext
from os import getpid
from pathlib import Path
from platform import node
from time import perf_counter, sleep
from typing import Final
from uuid import uuid4

import numpy as np
import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.core.processes import context_without_threads, deaf_to_interrupts, end_with_parent
from mammo.systems.devices import choose_device
from mammo.tuning.objective import ERROR, FOLDS, INDEX, OWN, TRIAL_S, WORKER, judge_trial, state_of
from mammo.tuning.rois import TrialRois, read_trial_rois
from mammo.tuning.space import distributions, own_params
from mammo.tuning.storage import alone, experimental, using_storage
from mammo.tuning.study import COMMAND, OpenStudy, join_study

POLL_S: Final = 0.5
PRELOADED: Final = ("mammo.tuning.workers", "sklearn.model_selection", "scipy.stats")
N_WORKERS: Final = "n_workers"
"""How many workers were on a study at once at most, whoever started them."""


def silent(line: str) -> None:
    """Say nothing."""


def work(
    root: Path,
    config: Config,
    url: str | None,
    n_trials: int,
    command: str | None = None,
    say: Callable[[str], None] = silent,
) -> int:
    """Join the study and take trials until none is left; returns how many this worker ended.

    Args:
        root: the workspace.
        config: all settings.
        url: the storage's address, or None for the workspace's journal.
        n_trials: how many trials the study shall have in all.
        command: signs its trials, see `OpenStudy`; None for a worker that no command has started.
        say: told one line for each trial that this worker ended.

    Raises:
        MammoError: there is no such study, it was made with other settings or data, or is deleted meanwhile.
        TrackingError: the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    space = Workspace(root)
    n_ended = 0
    with using_storage(space, url, config.tune.heartbeat_s) as storage:
        rois = read_trial_rois(space, config)
        opened = join_study(space, config, storage, rois, command or uuid4().hex[:12])
        while True:
            started = perf_counter()
            trial = take(opened, n_trials)
            if trial is not None:
                ended = _end(opened, trial, rois, started)
                if ended is not None:
                    n_ended += 1
                    say(trial_line(ended, config.tune.metric))
            elif opened.running:  # comes back if its worker dies
                sleep(POLL_S)
            else:
                return n_ended


def take(opened: OpenStudy, n_trials: int) -> optuna.Trial | None:
    """Take the trial of the lowest free index; None when all are taken.

    The index is free again where a worker has died on it. Its parameters hang on the seed, the index and the trials
    that have ended, so that with one worker the next try draws what the dead one drew.

    Raises:
        MammoError: the study is deleted meanwhile.
    """
    study = opened.study
    with alone(opened.space, opened.storage, study.study_name), experimental():
        opened.reap()
        running = opened.running
        taken = {trial.user_attrs[INDEX] for trial in (*opened.ended, *running)}
        index = next(index for index in count() if index not in taken)
        if index >= n_trials:
            return None
        if len(running) >= study.user_attrs.get(N_WORKERS, 0):
            study.set_user_attr(N_WORKERS, len(running) + 1)
        own = own_params(opened.config) if index == 0 else None
        study.sampler = sampler_of(opened.config.tune.seed, index, opened.config.tune.startup_trials, own)
        trial = study.ask(distributions(opened.config.tune))
        if isinstance(opened.storage, RDBStorage):
            opened.storage.record_heartbeat(trial._trial_id)
        notes = {INDEX: index, **({OWN: True} if own else {}), WORKER: f"{node()}:{getpid()}"}
        for name, value in (notes | {COMMAND: opened.command}).items():
            trial.set_user_attr(name, value)
        return trial


def sampler_of(seed: int, index: int, startup_trials: int, own: dict[str, object] | None) -> BaseSampler:
    """TPE with a generator of its own for one trial: what a process has drawn before does not matter.

    Args:
        seed: the study's.
        index: the trial's.
        startup_trials: drawn at random before TPE learns.
        own: parameters that are not drawn.
    """
    state = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    sampler = TPESampler(seed=state, n_startup_trials=startup_trials)
    return PartialFixedSampler(own, sampler) if own else sampler


def _end(opened: OpenStudy, trial: optuna.Trial, rois: TrialRois, started: float) -> FrozenTrial | None:
    """Judge a trial and tell how it ended; None if it counted as dead meanwhile."""
    value = None
    device = choose_device(opened.config.train.device)
    try:
        with _heartbeat(opened, trial):
            try:
                value, state = judge_trial(trial, rois, opened.config, device), TrialState.COMPLETE
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            except MammoError as error:
                trial.set_user_attr(ERROR, str(error))
                state = TrialState.FAIL
            trial.set_user_attr(TRIAL_S, round(perf_counter() - started, 3))
        told = opened.study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return None
    return told if told.state == state else None


@contextmanager
def _heartbeat(opened: OpenStudy, trial: optuna.Trial) -> Iterator[None]:
    """Say again and again that the trial's worker lives, where the storage listens."""
    storage = opened.storage
    if not isinstance(storage, RDBStorage):
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(opened.config.tune.heartbeat_s):
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
    folds = trial.user_attrs.get(FOLDS, [])
    n_folds = f"{len(folds)} {'fold' if len(folds) == 1 else 'folds'}"
    head = f"trial {trial.user_attrs[INDEX]}: {state_of(trial)}"
    if trial.state == TrialState.COMPLETE:
        return f"{head}, {metric} {trial.value:.4f} over {n_folds}"
    return f"{head} after {n_folds}{': ' + trial.user_attrs[ERROR] if ERROR in trial.user_attrs else ''}"


def worker_context() -> BaseContext:
    """How worker processes are started."""
    return context_without_threads(PRELOADED)


@contextmanager
def crew(opened: OpenStudy, url: str | None, n_trials: int, n_workers: int) -> Iterator[set[Future[int]]]:
    """Worker processes of this machine, that end with the block however it ends.

    Args:
        opened: the study.
        url: its storage's address, or None for the journal.
        n_trials: how many trials the study shall have in all.
        n_workers: how many at most.

    Raises:
        MammoError: one died, or could not use the GPU.
    """
    others, finished_well = set(active_children()), False
    executor = ProcessPoolExecutor(max(1, n_workers), worker_context(), _begin)
    task = (opened.space.root, opened.config, url, n_trials, opened.command)
    n_workers = min(n_workers, n_trials - len(opened.ended))
    try:
        with deaf_to_interrupts():
            futures = {executor.submit(work, *task) for _ in range(n_workers)}
        yield futures
        finished_well = True
    except (BrokenProcessPool, torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise MammoError(
            f"a worker died ({str(error).splitlines()[0]}); ended trials are kept: run the same command again, with "
            "fewer --workers if memory is short"
        ) from error
    finally:
        if not finished_well:
            for worker in set(active_children()) - others:
                worker.terminate()
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """Let a worker end with the command."""
    threading.Thread(target=end_with_parent, daemon=True).start()
