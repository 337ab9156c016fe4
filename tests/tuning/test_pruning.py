"""When trials are stopped: as Optuna's own pruners would, each on its own view of the trials."""

from collections.abc import Sequence

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from mammo.core.tune_config import TuneConfig
from mammo.tuning.objective import epoch_stops, fold_stops
from mammo.tuning.record import saved_work
from tests.settings import section

TUNE = section(TuneConfig, n_folds=5, epochs=3, patches_per_epoch=100, pruner_startup=2, warmup_epochs=0)
VALUE = st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8])


def done(index: int, epochs: Sequence[Sequence[float]], folds: Sequence[float], patches: int = 1500) -> FrozenTrial:
    complete = len(folds) == TUNE.n_folds
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        params={"head_lr": 0.01},
        distributions={"head_lr": FloatDistribution(0.001, 0.1)},
        value=sum(folds) / len(folds) if folds else 0.0,
        intermediate_values={3 * f + e: v for f, values in enumerate(epochs) for e, v in enumerate(values)},
        user_attrs={
            "index": index,
            "fold_values": list(folds),
            "patches_trained": patches,
            "fit_s": patches / 100,
            "judge_s": 0.0,
            "pruned_by": None if complete else "epoch",
        },
    )


def optuna_says(pruner: optuna.pruners.BasePruner, series: list[list[float]], mine: list[float]) -> bool:
    """What a pruner decides of a trial after others have ended with these values."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for values in series:
        trial = study.ask()
        for step, value in enumerate(values):
            trial.report(value, step)
        study.tell(trial, sum(values) / len(values))
    trial = study.ask()
    for step, value in enumerate(mine):
        trial.report(value, step)
    return trial.should_prune()


@given(
    others=st.lists(st.lists(VALUE, min_size=3, max_size=3), max_size=6),
    mine=st.lists(VALUE, min_size=1, max_size=3),
    startup=st.integers(1, 4),
    warmup=st.integers(0, 2),
)
def test_epochs_are_stopped_where_optunas_median_pruner_says_so(
    others: list[list[float]], mine: list[float], startup: int, warmup: int
) -> None:
    tune = TUNE.model_copy(update={"pruner_startup": startup, "warmup_epochs": warmup})
    earlier = [done(index, [[0.9] * 3, values], []) for index, values in enumerate(others)]
    expected = optuna_says(MedianPruner(startup, warmup), others, mine)
    assert epoch_stops(tune, 1, mine, earlier) == expected


@given(
    others=st.lists(st.lists(VALUE, min_size=5, max_size=5), min_size=1, max_size=4),
    mine=st.lists(VALUE, min_size=1, max_size=4),
)
def test_folds_are_stopped_where_optunas_wilcoxon_pruner_says_so(others: list[list[float]], mine: list[float]) -> None:
    expected = optuna_says(WilcoxonPruner(p_threshold=0.2), others, mine)
    assert fold_stops(TUNE, mine, [done(index, [], folds) for index, folds in enumerate(others)]) == expected


def test_a_trial_that_stopped_in_another_fold_still_says_how_this_one_goes() -> None:
    earlier = [done(0, [[0.9] * 3], [0.9]), done(1, [[0.9] * 3, [0.9]], [0.9])]
    assert epoch_stops(TUNE, 0, [0.8], earlier)
    assert not epoch_stops(TUNE, 1, [0.8], earlier)  # nobody has come to its end


def test_no_pruner_stops_nobody() -> None:
    tune = TUNE.model_copy(update={"epoch_pruner": "none", "wilcoxon_p": None})
    earlier = [done(i, [[0.9] * 3], [0.9] * 5) for i in range(5)]
    assert not epoch_stops(tune, 0, [0.0], earlier)
    assert not fold_stops(tune, [0.1, 0.1, 0.1], earlier)


def test_saved_work_is_what_was_not_trained() -> None:
    saved = saved_work(TUNE, [done(0, [], [0.9] * 5), done(1, [], [0.5], patches=300)])
    assert (saved["planned_patches"], saved["trained_patches"]) == (3000, 1800)
    assert saved["saved_share"] == pytest.approx(0.4)
    assert saved["saved_s"] == pytest.approx(12.0)  # 1,200 patches at 100 a second
    assert (saved["stopped_by_epoch"], saved["stopped_by_fold"]) == (1, 0)
