"""When trials are stopped, and what that saved."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import wilcoxon

from mammo.core.tune_config import TuneConfig
from mammo.tuning.pruning import EpochJudge, epochs_of, fold_stops, saved_work

TUNE = TuneConfig(n_folds=5, epochs=3, patches_per_epoch=100, pruner_startup=2, warmup_epochs=0)


def done(index: int, epochs: list[list[float]], folds: list[float], patches: int = 1500) -> FrozenTrial:
    complete = len(folds) == TUNE.n_folds
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        params={"head_lr": 0.01},
        distributions={"head_lr": FloatDistribution(0.001, 0.1)},
        value=sum(folds) / len(folds) if folds else 0.0,
        intermediate_values={3 * f + e: v for f, values in enumerate(epochs) for e, v in enumerate(values)},
        user_attrs={
            "index": index,
            "fold_values": folds,
            "patches_trained": patches,
            "fit_s": patches / 100,
            "judge_s": 0.0,
            "pruned_by": None if complete else "epoch",
        },
    )


def test_epochs_below_the_median_of_the_same_fold_are_stopped() -> None:
    earlier = [done(i, [[0.9] * 3, [0.6] * 3], [0.9, 0.6]) for i in range(3)]
    assert EpochJudge(TUNE, 0, earlier).stops(0, 0.8)
    assert not EpochJudge(TUNE, 1, earlier).stops(0, 0.8)
    assert not EpochJudge(TUNE, 2, earlier).stops(0, 0.1)  # nobody has been there


def test_a_trial_that_stopped_in_another_fold_still_says_how_this_one_goes() -> None:
    earlier = [done(0, [[0.9] * 3], [0.9]), done(1, [[0.9] * 3, [0.9]], [0.9])]
    assert epochs_of(earlier[1], 1, 3) == [0.9]
    assert EpochJudge(TUNE, 0, earlier).stops(0, 0.8)
    assert not EpochJudge(TUNE, 1, earlier).stops(0, 0.8)


def test_too_few_earlier_trials_stop_nobody() -> None:
    assert not EpochJudge(TUNE, 0, [done(0, [[0.9] * 3], [0.9])]).stops(0, 0.1)


def test_hyperband_decides_alike_when_the_history_is_replayed() -> None:
    tune = TUNE.model_copy(update={"epoch_pruner": "hyperband"})
    earlier = [done(i, [[0.5 + 0.04 * i] * 3], [0.5]) for i in range(9)]

    def decisions() -> list[bool]:
        judge = EpochJudge(tune, 0, earlier)
        return [judge.stops(epoch, 0.3) for epoch in range(3)]

    assert decisions() == decisions()


def test_no_pruner_stops_nobody() -> None:
    tune = TUNE.model_copy(update={"epoch_pruner": "none", "wilcoxon_p": None})
    earlier = [done(i, [[0.9] * 3], [0.9] * 5) for i in range(5)]
    assert not EpochJudge(tune, 0, earlier).stops(0, 0.0)
    assert not fold_stops(tune, [0.1, 0.1, 0.1], earlier)


@pytest.mark.parametrize("values", [[0.5, 0.6, 0.5], [0.85, 0.95, 0.7], [0.5, 0.5], [0.95, 0.6, 0.85, 0.7]])
def test_folds_are_stopped_where_wilcoxon_says_so(values: list[float]) -> None:
    best = [0.9, 0.92, 0.88, 0.91, 0.87]
    earlier = [done(0, [], best), done(1, [], [0.6] * 5)]
    worse = [value - other for value, other in zip(values, best, strict=False)]
    p = wilcoxon(worse, alternative="less", zero_method="zsplit").pvalue
    ahead = sum(values) / len(values) >= sum(best) / len(best)
    assert fold_stops(TUNE, values, earlier) == (p < 0.2 and not ahead)


def test_saved_work_is_what_was_not_trained() -> None:
    ended = [done(0, [], [0.9] * 5), done(1, [], [0.5], patches=300)]
    saved = saved_work(TUNE, ended)
    assert (saved["planned_patches"], saved["trained_patches"]) == (3000, 1800)
    assert saved["saved_share"] == pytest.approx(0.4)
    assert saved["saved_s"] == pytest.approx(12.0)  # 1,200 patches at 100 a second
    assert (saved["stopped_by_epoch"], saved["stopped_by_fold"]) == (1, 0)


def test_pruning_never_writes_to_the_study() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(done(0, [[0.9] * 3], [0.9] * 5))
    before = study.trials
    EpochJudge(TUNE, 0, study.trials).stops(0, 0.1)
    fold_stops(TUNE, [0.1, 0.1, 0.1], study.trials)
    assert study.trials == before
