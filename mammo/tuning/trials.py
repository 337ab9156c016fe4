"""What a trial leaves in the storage, and which of its tries counts.

A trial whose worker died is told FAIL and enqueued again with the same *index*. Seeds hang on the index, not on
Optuna's number, so a retry does what the dead try would have done. Every index counts once: by the try that ended.
"""

from collections.abc import Sequence
from itertools import count
from typing import Final

from optuna.trial import FrozenTrial, TrialState

INDEX: Final = "index"
RETRY_OF: Final = "retry_of"
OWN: Final = "settings_of_params"
"""Marks the trial of what `params.yaml` says, and its retries."""
WORKER: Final = "worker"
ERROR: Final = "error"
FOLDS: Final = "fold_values"
PRUNED_BY: Final = "pruned_by"
PATCHES: Final = "patches_trained"
FIT_S: Final = "fit_s"
JUDGE_S: Final = "judge_s"
TRIAL_S: Final = "trial_s"
DEVICE: Final = "device"


def index_of(trial: FrozenTrial) -> int | None:
    """The trial's place in the study; None for a try that died while it was being made."""
    index = trial.user_attrs.get(INDEX)
    return None if index is None else int(index)


def retried_numbers(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the tries that another try replaces."""
    return {int(t.user_attrs[RETRY_OF]) for t in trials if RETRY_OF in t.user_attrs}


def state_of(trial: FrozenTrial, retried: set[int]) -> str:
    """`complete`, `pruned`, `failed`, `retried`, `running` or `waiting`."""
    if trial.number in retried:
        return "retried"
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return names.get(trial.state, trial.state.name.lower())


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """One trial for each finished index, in order: complete, pruned, or failed by its own error.

    Should an outage of the database have made two tries of one index, the earlier counts.
    """
    retried = retried_numbers(trials)
    ended = [
        t
        for t in trials
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (t.state == TrialState.FAIL and ERROR in t.user_attrs and t.number not in retried)
    ]
    first = {index_of(t): t for t in sorted(ended, key=lambda t: t.number, reverse=True)}
    return sorted(first.values(), key=lambda t: index_of(t) or 0)


def indices(trials: Sequence[FrozenTrial]) -> set[int]:
    """The indices that tries have been given."""
    return {index for trial in trials if (index := index_of(trial)) is not None}


def free_index(trials: Sequence[FrozenTrial]) -> int:
    """The lowest index that no try has: of a study's indices none is left out."""
    given = indices(trials)
    return next(index for index in count() if index not in given)
