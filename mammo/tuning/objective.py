"""What a trial is worth: ROIs of held-out folds after voting, one fold after the other."""

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt
import optuna

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import ConfigError
from mammo.core.records import ROI_SIDE_PX
from mammo.evaluation.metrics import auc, confusion
from mammo.evaluation.voting import decisions, fitted, vote_shares, with_validation_threshold
from mammo.models.build import Classifier, build_classifier
from mammo.studies.fits import Fit
from mammo.systems.fit import EpochRecord, FitSettings, fit
from mammo.systems.score import grid_batch, grid_scores
from mammo.tuning.material import FoldRows, Rows, TrialRois, judging_data, training_data
from mammo.tuning.pruning import EpochJudge, fold_stops
from mammo.tuning.space import trial_settings
from mammo.tuning.trials import DEVICE, FIT_S, FOLDS, INDEX, JUDGE_S, PATCHES, PRUNED_BY, finished


@dataclass
class _Progress:
    """What a trial has done so far."""

    folds: list[float] = field(default_factory=list)
    last_epochs: list[float] = field(default_factory=list)
    patches: int = 0
    fit_s: float = 0.0
    judge_s: float = 0.0
    hooks_s: float = 0.0


def judge_trial(trial: optuna.Trial, material: TrialRois, config: Config) -> float:
    """Fit and judge a trial fold by fold; its value is the mean over the folds.

    Every epoch reports, at the step `fold × epochs + epoch`, the validation AUC so far: the mean of this epoch's and of
    the last epochs of the folds before. Every fold leaves its own value under `fold_values`.

    Args:
        trial: its parameters are drawn, its index is known.
        material: ROIs and folds.
        config: all settings.

    Raises:
        optuna.TrialPruned: an epoch or a fold was too bad.
        ConfigError: training diverged, or the metric is undefined on a fold.
    """
    system, settings = trial_settings(config, trial.params)
    done = _Progress()
    try:
        for number, fold in enumerate(material.folds):
            value = _judge_fold(trial, number, fold, material, system, settings, done)
            done.folds.append(value)
            trial.set_user_attr(FOLDS, done.folds)
            last = number + 1 == len(material.folds)
            if not last and fold_stops(config.tune, done.folds, _earlier(trial)):
                _stop(trial, "fold")
    finally:
        _note(trial, done, material)
    return float(np.mean(done.folds))


def _judge_fold(
    trial: optuna.Trial,
    number: int,
    fold: FoldRows,
    material: TrialRois,
    system: str,
    settings: Config,
    done: _Progress,
) -> float:
    tune, patches = settings.tune, settings.patches
    seed = fit_seed(tune.seed, int(trial.user_attrs[INDEX]), number)
    draws = patches.model_copy(update={"seed": seed})
    train, val = training_data(material, fold.train, draws), judging_data(material, fold.val)
    classifier = build_classifier(system, settings.model, seed)
    judge = EpochJudge(tune, number, _earlier(trial))
    started, hooks_s = perf_counter(), done.hooks_s

    def after_epoch(record: EpochRecord) -> None:
        entered = perf_counter()
        done.patches += tune.patches_per_epoch
        so_far = float(np.mean([*done.last_epochs, record.val_auc]))
        trial.report(so_far, number * tune.epochs + record.epoch)
        stops, is_last = judge.stops(record.epoch, so_far), record.epoch + 1 == tune.epochs
        done.hooks_s += perf_counter() - entered
        if is_last:
            done.last_epochs.append(record.val_auc)
        elif stops:
            _stop(trial, "epoch")

    try:
        fit(classifier, train, val, settings.recipe, fit_settings(settings, seed), on_epoch=after_epoch)
    finally:
        done.fit_s += perf_counter() - started - (done.hooks_s - hooks_s)
    started = perf_counter()
    value = _value_after_voting(classifier, material, fold, settings)
    done.judge_s += perf_counter() - started
    return value


def fit_settings(settings: Config, seed: int) -> FitSettings:
    """What a fit of a trial needs beside its data and its recipe."""
    patches = settings.patches
    return FitSettings(
        patches.size_px,
        coarse_stride(patches.size_px, patches.corner_patches),
        seed,
        settings.train.precision,
        patches.corner_patches,
    )


def _value_after_voting(
    classifier: Classifier, material: TrialRois, fold: FoldRows, settings: Config
) -> float:
    metric, vote = settings.tune.metric, settings.vote
    if metric != "auc" and vote.threshold == "validation":
        scores = _patch_scores(classifier, material, fold.val, settings)
        vote = with_validation_threshold(material.labels[fold.val], scores, vote)
    scores = _patch_scores(classifier, material, fold.held_out, settings)
    value = roi_value(metric, material.labels[fold.held_out], scores, vote)
    if not np.isfinite(value):
        raise ConfigError(
            f"params.yaml: tune.metric must be defined on every fold, but {metric} is not on a fold of {len(scores)} "
            "ROIs; choose auc or fewer folds"
        )
    return value


def _patch_scores(
    classifier: Classifier, material: TrialRois, rows: Rows, settings: Config
) -> npt.NDArray[np.float64]:
    """Probability of Tumor on the whole voting grid of some ROIs: `(n, n_patches)`."""
    patches, data = settings.patches, judging_data(material, rows)
    grid = grid_batch(
        len(rows), patches.size_px, patches.stride_px, data.images.device, patches.corner_patches
    )
    return grid_scores(
        classifier, data.images, grid, patches.size_px, settings.train.precision, settings.vote.views
    )


def roi_value(
    metric: str, labels: npt.NDArray[np.int64], patch_scores: npt.NDArray[np.float64], vote: VoteConfig
) -> float:
    """A metric of ROIs after voting.

    Args:
        metric: `auc` (of the vote share, or of the mean score if that decides) or one of the decisions.
        labels: `(n,)`.
        patch_scores: probability of Tumor of each grid patch, `(n, n_patches)`.
        vote: the rule.
    """
    if metric == "auc":
        shares = vote_shares(patch_scores, vote)
        return auc(labels, patch_scores.mean(axis=1) if vote.rule == "mean_score" else shares)
    return float(confusion(labels, decisions(patch_scores, vote)).metrics()[metric])


def held_out_value(metric: str, fit: Fit, vote: VoteConfig) -> float:
    """A metric of a kept fit's held-out ROIs after voting, with the threshold that its validation part gives."""
    if metric != "auc":
        vote = fitted(fit.val.labels, fit.val.patch_scores, vote)
    return roi_value(metric, fit.test.labels, fit.test.patch_scores, vote)


def fit_seed(seed: int, index: int, fold: int) -> int:
    """Training seed of one fold of one trial: by the study's seed and the trial's index, whoever fits it."""
    return int(np.random.SeedSequence([seed, index, fold]).generate_state(1)[0] % 2**31)


def coarse_stride(size_px: int, corner_patches: bool = True) -> int:
    """The stride of three votes along each axis, which judge an epoch at a fraction of the whole grid's cost."""
    return max(1, (ROI_SIDE_PX - size_px) // (2 if corner_patches else 4))


def _earlier(trial: optuna.Trial) -> list[optuna.trial.FrozenTrial]:
    return finished(trial.study.get_trials(deepcopy=False))


def _stop(trial: optuna.Trial, by: str) -> None:
    trial.set_user_attr(PRUNED_BY, by)
    raise optuna.TrialPruned


def _note(trial: optuna.Trial, done: _Progress, material: TrialRois) -> None:
    trial.set_user_attr(PATCHES, done.patches)
    trial.set_user_attr(FIT_S, round(done.fit_s, 3))
    trial.set_user_attr(JUDGE_S, round(done.judge_s, 3))
    trial.set_user_attr(DEVICE, str(material.images.device))
