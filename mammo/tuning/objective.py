"""What a trial is worth: ROIs of held-out folds after voting, one fold after the other; and when it is stopped."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import wilcoxon

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import ConfigError
from mammo.core.files import Workspace
from mammo.core.records import ROI_SIDE_PX
from mammo.core.tune_config import GridConfig, TuneConfig
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from mammo.data.splits import Fold, development_rois, grouped_folds
from mammo.evaluation.metrics import auc, confusion
from mammo.evaluation.voting import decisions, fitted, vote_shares, with_validation_threshold
from mammo.models.build import Classifier, build_classifier
from mammo.studies.fits import Fit
from mammo.systems.devices import choose_device
from mammo.systems.fit import EpochRecord, fit
from mammo.systems.train import fit_data, fit_settings, patch_scores
from mammo.tuning.space import trial_settings

INDEX: Final = "index"
"""A trial's place in its study. Seeds hang on it, not on Optuna's number: who takes the place of a try whose worker
died does what that one would have done."""
OWN: Final = "settings_of_params"
"""Marks the trial of what `params.yaml` says."""
ERROR: Final = "error"
FOLDS: Final = "fold_values"
PRUNED_BY: Final = "pruned_by"
PATCHES: Final = "patches_trained"
FIT_S: Final = "fit_s"
JUDGE_S: Final = "judge_s"
TRIAL_S: Final = "trial_s"
DEVICE: Final = "device"
WORKER: Final = "worker"


def state_of(trial: FrozenTrial) -> str:
    """`complete`, `pruned`, `failed` (by its own error), `retried` (its worker died) or `running`."""
    if trial.state == TrialState.FAIL:
        return "failed" if ERROR in trial.user_attrs else "retried"
    return trial.state.name.lower()


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """One trial for each finished index, in order: complete, pruned, or failed by its own error."""
    ended = [trial for trial in trials if state_of(trial) in ("complete", "pruned", "failed")]
    # The earlier counts, should an outage of the database have let two workers take one index.
    first = {int(trial.user_attrs[INDEX]): trial for trial in reversed(ended)}
    return [first[index] for index in sorted(first)]


def nested_folds(rois: Rois, tune: TuneConfig) -> list[Fold]:
    """The folds that judge studies: the held-out ROIs of each are what its study must not see."""
    return _folds(rois, tune.nested_folds, tune.seed + 1)


def trial_folds(workspace: Workspace, config: Config) -> list[Fold]:
    """The folds that judge every trial: each over all ROIs of train and val, without `tune.held_out_fold`."""
    rois, tune = development_rois(workspace), config.tune
    if tune.held_out_fold is not None:
        parts = nested_folds(rois, tune)[tune.held_out_fold].rois.table["split"]
        rois = rois.only((parts != "test").to_numpy(bool))
    return _folds(rois, tune.n_folds, tune.seed)


def _folds(rois: Rois, n_folds: int, seed: int) -> list[Fold]:
    return grouped_folds(rois, GridConfig(n_folds=n_folds, n_repeats=1, n_seeds=1, seed=seed))


def judge_trial(trial: optuna.Trial, folds: Sequence[Fold], config: Config, workspace: Workspace) -> float:
    """Fit and judge a trial, whose index is known, on each of `trial_folds`; its value is the mean over them.

    Every epoch reports, at the step `fold × epochs + epoch`, the validation AUC so far: the mean of this epoch's and of
    the last epochs of the folds before. Every fold leaves its own value under `fold_values`.

    Raises:
        optuna.TrialPruned: an epoch or a fold was too bad.
        ConfigError: training diverged, or the metric is undefined on a fold.
    """
    system, settings = trial_settings(config, trial.params)
    values, val_aucs, cost = list[float](), list[float](), {FIT_S: 0.0, JUDGE_S: 0.0}
    try:
        for number, fold in enumerate(folds):
            classifier = _fitted(trial, number, fold.rois, system, settings, workspace, val_aucs, cost)
            started = perf_counter()
            values.append(_value_after_voting(classifier, fold.rois, settings, workspace))
            cost[JUDGE_S] += perf_counter() - started
            trial.set_user_attr(FOLDS, values)
            if number + 1 < len(folds) and fold_stops(config.tune, values, _earlier(trial)):
                _stop(trial, "fold")
    finally:
        trial.set_user_attr(PATCHES, len(val_aucs) * config.tune.patches_per_epoch)
        for name, spent in cost.items():
            trial.set_user_attr(name, round(spent, 3))
        trial.set_user_attr(DEVICE, str(choose_device(config.train.device)))
    return float(np.mean(values))


def _fitted(
    trial: optuna.Trial,
    number: int,
    rois: Rois,
    system: str,
    settings: Config,
    workspace: Workspace,
    val_aucs: list[float],
    cost: dict[str, float],
) -> Classifier:
    """Fit one fold; the validation AUCs of all epochs so far, and `cost`, are added to as it goes."""
    tune, patches, part, val_part = settings.tune, settings.patches, rois.part("train"), rois.part("val")
    seed = fit_seed(tune.seed, int(trial.user_attrs[INDEX]), number)
    classifier = build_classifier(system, settings.model, seed, workspace)
    drawn = drawn_patches(part.table, patches.model_copy(update={"seed": seed}))
    train = fit_data(part, drawn, classifier, settings, workspace, to_train=True)
    # The grid alone judges an epoch.
    none = drawn_patches(val_part.table.iloc[:0], patches)
    val = fit_data(val_part, none, classifier, settings, workspace, to_train=False)
    stride_px = coarse_stride(patches.size_px, patches.corner_patches)
    how = replace(fit_settings(settings, seed), stride_px=stride_px)
    earlier, so_far, last_epochs = _earlier(trial), list[float](), val_aucs[tune.epochs - 1 :: tune.epochs]
    started = perf_counter()

    def after_epoch(record: EpochRecord) -> None:
        entered = perf_counter()
        val_aucs.append(record.val_auc)
        so_far.append(float(np.mean([*last_epochs, record.val_auc])))
        trial.report(so_far[-1], number * tune.epochs + record.epoch)
        stops = record.epoch + 1 < tune.epochs and epoch_stops(tune, number, so_far, earlier)
        cost[FIT_S] -= perf_counter() - entered
        if stops:
            _stop(trial, "epoch")

    try:
        fit(classifier, train, val, settings.recipe, how, on_epoch=after_epoch)
    finally:
        cost[FIT_S] += perf_counter() - started
    return classifier


def _value_after_voting(classifier: Classifier, rois: Rois, settings: Config, workspace: Workspace) -> float:
    metric, vote = settings.tune.metric, settings.vote
    val, held_out = rois.part("val"), rois.part("test")
    if metric != "auc" and vote.threshold == "validation":
        on_val = patch_scores(classifier, val, settings, workspace)
        vote = with_validation_threshold(val.labels, on_val, vote)
    value = roi_value(metric, held_out.labels, patch_scores(classifier, held_out, settings, workspace), vote)
    if not np.isfinite(value):
        raise ConfigError(
            f"params.yaml: tune.metric must be defined on every fold, but {metric} is not on a fold of "
            f"{len(held_out.labels)} ROIs; choose auc or fewer folds"
        )
    return value


def roi_value(
    metric: str, labels: npt.NDArray[np.int64], patch_scores: npt.NDArray[np.float64], vote: VoteConfig
) -> float:
    """A metric of ROIs after voting: `auc` (of the vote share, or of a deciding mean score) or one of the decisions.

    `labels` are `(n,)`, `patch_scores` the probability of Tumor of each grid patch, `(n, n_patches)`.
    """
    if metric != "auc":
        return float(confusion(labels, decisions(patch_scores, vote)).metrics()[metric])
    by_mean = vote.rule == "mean_score"
    return auc(labels, patch_scores.mean(axis=1) if by_mean else vote_shares(patch_scores, vote))


def held_out_value(metric: str, kept: Fit, vote: VoteConfig) -> float:
    """A metric of a kept fit's held-out ROIs after voting, with the threshold that its validation part gives."""
    if metric != "auc":
        vote = fitted(kept.val.labels, kept.val.patch_scores, vote)
    return roi_value(metric, kept.test.labels, kept.test.patch_scores, vote)


def fit_seed(seed: int, index: int, fold: int) -> int:
    """Training seed of one fold of one trial: by the study's seed and the trial's index, whoever fits it."""
    return int(np.random.SeedSequence([seed, index, fold]).generate_state(1)[0] % 2**31)


def coarse_stride(size_px: int, corner_patches: bool = True) -> int:
    """The stride of three votes along each axis, which judge an epoch at a fraction of the whole grid's cost."""
    return max(1, (ROI_SIDE_PX - size_px) // (2 if corner_patches else 4))


def epoch_stops(tune: TuneConfig, fold: int, so_far: Sequence[float], earlier: Sequence[FrozenTrial]) -> bool:
    """Whether a trial's best epoch of a fold is below the median of earlier trials at this one's.

    The rule of Optuna's median pruner, for each fold alone. Only finished trials that ended the fold count; `so_far` is
    the reported validation AUC after each epoch of the fold.
    """
    steps = range(fold * tune.epochs, (fold + 1) * tune.epochs)
    whole = [t.intermediate_values for t in earlier if all(step in t.intermediate_values for step in steps)]
    epoch = len(so_far) - 1
    if tune.epoch_pruner == "none" or epoch < tune.warmup_epochs or len(whole) < tune.pruner_startup:
        return False
    return max(so_far) < float(np.median([values[steps[epoch]] for values in whole]))


def fold_stops(tune: TuneConfig, values: Sequence[float], earlier: Sequence[FrozenTrial]) -> bool:
    """Whether the values of a trial's folds so far are worse than those of the best trial (Wilcoxon's signed ranks).

    The rule of Optuna's Wilcoxon pruner: at least two folds, and never a trial whose mean is not below the best's.
    """
    complete = [t.user_attrs[FOLDS] for t in earlier if t.state == TrialState.COMPLETE]
    if tune.wilcoxon_p is None or not complete or len(values) < 2:
        return False
    best = max(complete, key=np.mean)
    worse = np.subtract(values, best[: len(values)])
    p = wilcoxon(worse, alternative="less", zero_method="zsplit").pvalue
    return bool(p < tune.wilcoxon_p and np.mean(values) < np.mean(best))


def _earlier(trial: optuna.Trial) -> list[FrozenTrial]:
    return finished(trial.study.get_trials(deepcopy=False))


def _stop(trial: optuna.Trial, by: str) -> None:
    trial.set_user_attr(PRUNED_BY, by)
    raise optuna.TrialPruned
