"""How the trials of a study are handed out, one at a time, and given again where a worker died."""

from collections.abc import Collection, Sequence
from typing import Final

import optuna
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mammo.tuning.identity import is_alive, myself
from mammo.tuning.quiet import experimental
from mammo.tuning.space import distributions
from mammo.tuning.storage import exclusively
from mammo.tuning.study import OpenStudy
from mammo.tuning.trials import ERROR, INDEX, OWN, RETRY_OF, WORKER, free_index, index_of, indices

N_WORKERS: Final = "n_workers"
"""How many workers were on a study at once at most, whoever started them."""


def mend(opened: OpenStudy, dead: Collection[str] = ()) -> None:
    """Tell the trials of dead workers FAIL and enqueue them again. Call it under the lock.

    A kill between the two steps loses nothing: the next call enqueues what no try replaces yet.

    Args:
        opened: the study.
        dead: workers that are known to be dead, before their heartbeats are missed.
    """
    study = opened.study
    with experimental():
        fail_stale_trials(study)
    watched = isinstance(opened.storage, RDBStorage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial, watched, dead):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    replaced = {t.user_attrs.get(RETRY_OF) for t in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs and trial.number not in replaced:
            _enqueue_again(opened, trial)


def _is_dead(trial: FrozenTrial, watched: bool, dead: Collection[str]) -> bool:
    """Whether nobody works on a running trial. PostgreSQL's are watched by their heartbeats.

    The worker's name is the last thing written while a trial is taken, under the lock; where it is missing, the
    taker died.
    """
    worker = trial.user_attrs.get(WORKER)
    return worker is None or worker in dead or (not watched and not is_alive(str(worker)))


def _enqueue_again(opened: OpenStudy, trial: FrozenTrial) -> None:
    index = index_of(trial)
    if index is None:
        index = free_index(opened.trials)
    # What was not drawn to the end is drawn again, by the same generator, but for what was never drawn at random.
    whole = set(trial.params) == set(opened.config.tune.space)
    params = trial.params if whole else trial.system_attrs.get("fixed_params", {})
    own = {OWN: True} if trial.user_attrs.get(OWN) else {}
    opened.study.enqueue_trial(params, user_attrs={INDEX: index, RETRY_OF: trial.number, **own})


def claim(opened: OpenStudy, n_trials: int) -> optuna.Trial | None:
    """Take the next trial: first one whose worker died, then a new one; None when all are taken.

    Args:
        opened: the study.
        n_trials: how many indices the study shall have in all.
    """
    study = opened.study

    def take() -> optuna.Trial | None:
        mend(opened)
        while True:
            trials = study.get_trials(deepcopy=False)
            waiting = any(t.state == TrialState.WAITING for t in trials)
            if not waiting and len(indices(trials)) >= n_trials:
                return None
            _note_workers(opened, 1 + sum(t.state == TrialState.RUNNING for t in trials))
            trial = _take(opened, trials)
            if trial is not None:
                return trial

    return exclusively(opened.space, opened.storage, study.study_name, take)


def _note_workers(opened: OpenStudy, n_workers: int) -> None:
    """With more than one at once, which trials end before another begins is left to chance."""
    if n_workers > int(opened.study.user_attrs.get(N_WORKERS, 0)):
        opened.study.set_user_attr(N_WORKERS, n_workers)


def _take(opened: OpenStudy, trials: Sequence[FrozenTrial]) -> optuna.Trial | None:
    """Ask for a trial; None if it killed its workers too often and is given up."""
    study, tune = opened.study, opened.config.tune
    with experimental():
        trial = study.ask(distributions(tune))
    if INDEX not in trial.user_attrs:
        trial.set_user_attr(INDEX, free_index(trials))
    n_died = sum(1 for t in trials if t.number != trial.number and index_of(t) == trial.user_attrs[INDEX])
    if n_died > tune.max_retries:
        trial.set_user_attr(
            ERROR, f"its worker died {n_died} times; fewer workers or a smaller space may help"
        )
        study.tell(trial, state=TrialState.FAIL)
        return None
    if isinstance(opened.storage, RDBStorage):
        opened.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(WORKER, myself())
    return trial
