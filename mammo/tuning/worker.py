"""A worker: takes trials until none is left. One thread, so that its bits do not depend on the machine's load.

On a GPU several workers may share the device, each as a process with the ROI images in its own memory (a few MiB).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError, guarded
from mammo.core.files import Workspace
from mammo.core.processes import context_without_threads, end_with_parent
from mammo.tuning.claims import claim
from mammo.tuning.material import TrialRois, read_trial_rois
from mammo.tuning.objective import judge_trial
from mammo.tuning.storage import hidden, silent, using_storage
from mammo.tuning.study import OpenStudy, join_study, noticing_deletion
from mammo.tuning.trials import ERROR, FOLDS, INDEX, TRIAL_S, state_of

POLL_S: Final = 0.5
PRELOADED: Final = ("mammo.tuning.worker", "sklearn.model_selection", "scipy.stats")


def work(
    root: Path,
    config: Config,
    url: str | None,
    n_trials: int,
    say: Callable[[str], None] = silent,
    is_known: bool = False,
) -> int:
    """Join the study and take trials until none is left; returns how many this worker ended.

    Args:
        root: the workspace.
        config: all settings.
        url: the storage's address, or None for the workspace's journal.
        n_trials: how many trials the study shall have in all.
        say: told one line for each trial that this worker ended, and when the database is away.
        is_known: see `open_storage`.

    Raises:
        MammoError: there is no such study, it was made with other settings or data, or is deleted meanwhile.
        TrackingError: the database has been away for too long.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    space = Workspace(root)
    if url is not None:
        hidden(url)
    material = read_trial_rois(space, config)
    with using_storage(space, url, config.tune.heartbeat_s, say, is_known) as storage:
        opened = join_study(space, config, storage, material)
        with noticing_deletion(opened):
            return _take_all(opened, n_trials, material, say)


def _take_all(opened: OpenStudy, n_trials: int, material: TrialRois, say: Callable[[str], None]) -> int:
    n_ended = 0
    started = perf_counter()
    while (trial := _next_trial(opened, n_trials)) is not None:
        ended = _end_trial(opened, trial, material, started)
        if ended is not None:
            n_ended += 1
            say(trial_line(ended, opened.config.tune.metric))
        started = perf_counter()
    return n_ended


def _next_trial(opened: OpenStudy, n_trials: int) -> optuna.Trial | None:
    """Take a trial; while others still work, wait: their trials come back if they die."""
    while True:
        trial = claim(opened, n_trials)
        if trial is not None or not any(t.state == TrialState.RUNNING for t in opened.trials):
            return trial
        sleep(POLL_S)


def trial_line(trial: FrozenTrial, metric: str) -> str:
    """One line for people: how a trial ended, with its value or its error."""
    folds = trial.user_attrs.get(FOLDS, [])
    n_folds = f"{len(folds)} {'fold' if len(folds) == 1 else 'folds'}"
    head = f"trial {trial.user_attrs[INDEX]}: {state_of(trial, set())}"
    if trial.state == TrialState.COMPLETE:
        return f"{head}, {metric} {trial.value:.4f} over {n_folds}"
    return f"{head} after {n_folds}{': ' + trial.user_attrs[ERROR] if ERROR in trial.user_attrs else ''}"


def _end_trial(
    opened: OpenStudy, trial: optuna.Trial, material: TrialRois, started: float
) -> FrozenTrial | None:
    """Judge a trial and tell how it ended; None if it was given to another worker meanwhile."""
    try:
        with _heartbeat(opened, trial):
            state, value = _judge(trial, material, opened.config)
            trial.set_user_attr(TRIAL_S, round(perf_counter() - started, 3))
        told = opened.study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return None
    return told if told.state == state else None


def _judge(trial: optuna.Trial, material: TrialRois, config: Config) -> tuple[TrialState, float | None]:
    try:
        return TrialState.COMPLETE, judge_trial(trial, material, config)
    except optuna.TrialPruned:
        return TrialState.PRUNED, None
    except TrackingError:  # the storage is away: nothing that the trial did
        raise
    except MammoError as error:
        trial.set_user_attr(ERROR, str(error))
        return TrialState.FAIL, None


@contextmanager
def _heartbeat(opened: OpenStudy, trial: optuna.Trial) -> Iterator[None]:
    """Say again and again that the trial's worker lives, where the storage listens."""
    storage = opened.storage
    if not isinstance(storage, RDBStorage):
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        with suppress(TrackingError, KeyError):  # the trial itself will meet them
            while not ended.wait(opened.config.tune.heartbeat_s):
                storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def worker_context() -> Any:
    """How worker processes are started."""
    return context_without_threads(PRELOADED)


def run_as_child(root: Path, config: Config, url: str | None, n_trials: int) -> None:
    """The body of a worker process that `mammo tune` starts; it never outlives its parent."""
    threading.Thread(target=end_with_parent, daemon=True).start()

    def take_trials() -> None:
        work(root, config, url, n_trials, is_known=True)

    guarded(take_trials)
