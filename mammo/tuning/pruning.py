"""When a trial is stopped: within a fold by its epochs, between folds by Wilcoxon's signed ranks.

Optuna's own pruners decide. A trial has one series of intermediate values, but each pruner needs its own view (the
epochs of one fold; one value a fold), so each decides on a study in memory that holds this view of all trials.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState

from mammo.core.tune_config import TuneConfig
from mammo.tuning.quiet import experimental
from mammo.tuning.trials import FIT_S, FOLDS, JUDGE_S, PATCHES, PRUNED_BY

Values = Sequence[float]


class EpochJudge:
    """Decides after each epoch of one fold, by how far earlier trials had come at the same epoch.

    What is compared is the mean over the folds so far: one noisy fold weighs less the later it comes.
    """

    def __init__(self, tune: TuneConfig, fold: int, earlier: Sequence[FrozenTrial]) -> None:
        pruner = epoch_pruner(tune)
        self._study = _view(pruner)
        if not isinstance(pruner, NopPruner):
            for trial in earlier:
                values = epochs_of(trial, fold, tune.epochs)
                if values:
                    _follow(self._study, values, finished=len(values) == tune.epochs)
        self._trial = self._study.ask()

    def stops(self, epoch: int, value: float) -> bool:
        """Report the validation AUC so far; whether the trial is to be stopped."""
        self._trial.report(value, epoch)
        return self._trial.should_prune()


def epoch_pruner(tune: TuneConfig) -> BasePruner:
    """Optuna's pruner for the epochs of a fold."""
    if tune.epoch_pruner == "none":
        return NopPruner()
    if tune.epoch_pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=tune.epochs, reduction_factor=3)
    return MedianPruner(n_startup_trials=tune.pruner_startup, n_warmup_steps=tune.warmup_epochs)


def fold_stops(tune: TuneConfig, values: Values, earlier: Sequence[FrozenTrial]) -> bool:
    """Whether the values of a trial's folds so far are worse than those of the best trial (Wilcoxon)."""
    best = [t.user_attrs[FOLDS] for t in earlier if t.state == TrialState.COMPLETE]
    if tune.wilcoxon_p is None or not best:
        return False
    with experimental():
        view = _view(WilcoxonPruner(p_threshold=tune.wilcoxon_p))
    top = max(best, key=lambda folds: sum(folds) / len(folds))
    _follow(view, top, finished=True, value=sum(top) / len(top))
    trial = view.ask()
    for fold, value in enumerate(values):
        trial.report(value, fold)
    return trial.should_prune()


def epochs_of(trial: FrozenTrial, fold: int, n_epochs: int) -> list[float]:
    """What a trial reported after each epoch of a fold, as far as it came."""
    steps = range(fold * n_epochs, (fold + 1) * n_epochs)
    return [trial.intermediate_values[step] for step in steps if step in trial.intermediate_values]


def _view(pruner: BasePruner) -> optuna.Study:
    # The name decides Hyperband's brackets.
    return optuna.create_study(direction="maximize", pruner=pruner, study_name="view")


def _follow(view: optuna.Study, values: Values, *, finished: bool, value: float | None = None) -> None:
    """Repeat an earlier trial in a view: Hyperband notes its rungs while it decides."""
    trial = view.ask()
    for step, reported in enumerate(values):
        trial.report(reported, step)
        if isinstance(view.pruner, HyperbandPruner):
            trial.should_prune()
    if finished:
        view.tell(trial, values[-1] if value is None else value)
    else:
        view.tell(trial, state=TrialState.PRUNED)


def saved_work(tune: TuneConfig, ended: Sequence[FrozenTrial]) -> dict[str, Any]:
    """How much work pruning saved, in training patches and in seconds of the trials' own speed.

    Args:
        tune: the budget.
        ended: finished trials, see `trials.finished`.
    """
    full = tune.n_folds * tune.epochs * tune.patches_per_epoch
    judged = [t for t in ended if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    done = [int(t.user_attrs.get(PATCHES, 0)) for t in judged]
    spent = [float(t.user_attrs.get(FIT_S, 0)) + float(t.user_attrs.get(JUDGE_S, 0)) for t in judged]
    seconds = sum(s * (full / d - 1) for s, d in zip(spent, done, strict=True) if 0 < d < full)
    pruned = [t.user_attrs.get(PRUNED_BY) for t in judged if t.state == TrialState.PRUNED]
    return {
        "planned_patches": full * len(judged),
        "trained_patches": sum(done),
        "saved_share": 1 - sum(done) / (full * len(judged)) if judged else 0.0,
        "saved_s": seconds,
        "stopped_by_epoch": sum(by == "epoch" for by in pruned),
        "stopped_by_fold": sum(by == "fold" for by in pruned),
    }
