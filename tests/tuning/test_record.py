"""Which pictures of a study are drawn, and which parameters explain the spread of its values."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from mammo.core.config import Config
from mammo.tuning.record import importances, trials_table, write_plots
from mammo.tuning.space import distributions
from tests.tuning.conftest import make_workspace, study_in

PROJECT_SPACE = Config.load(Path(__file__).parents[2] / "params.yaml").tune.model_dump(mode="json")["space"]
DRAWN = {"history", "slice", "importance", "contour", "parallel_coordinate"}
ONE_VALUE = {
    "stride_px": {"type": "int", "low": 12, "high": 12},
    "weight_decay": {"type": "float", "low": 0.01, "high": 0.01, "log": True},
    "head_lr": {"type": "float", "low": 0.0001, "high": 0.01, "log": True},
}


def drawn_trial(index: int, drawn: optuna.Trial, *, pruned: bool = False) -> FrozenTrial:
    """A trial whose value hangs on `head_lr` alone; pruned ones reported one epoch."""
    value = 0.8 + 0.05 * float(np.log10(drawn.params["head_lr"]) + 3)
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None if pruned else value,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values={0: value},
        user_attrs={"index": index, "fold_values": [] if pruned else [value]},
    )


@pytest.mark.parametrize(
    ("space", "n_trials", "pictures"),
    [
        (PROJECT_SPACE, 6, DRAWN),
        (ONE_VALUE, 6, DRAWN - {"contour"}),
        (PROJECT_SPACE, 1, {"history", "slice"}),
    ],
    ids=["the project's space", "ranges of one value", "a single trial"],
)
def test_pictures_are_drawn_where_values_differ(
    tmp_path: Path, space: dict[str, Any], n_trials: int, pictures: set[str]
) -> None:
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with study_in(*make_workspace(tmp_path / "space", space=space)) as opened:
        for index in range(n_trials):
            drawn = random.ask(distributions(opened.config.tune))
            opened.study.add_trial(drawn_trial(index, drawn, pruned=index % 3 == 2))
        shares = importances(opened.ended)
        write_plots(opened, shares, tmp_path)
        assert {path.stem for path in tmp_path.glob("*.png")} == pictures
        assert list(trials_table(opened)["index"]) == list(range(n_trials))


def test_a_value_that_hangs_on_one_parameter_is_explained_by_it() -> None:
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0.001, 1.0) for name in ("head_lr", "weight_decay")
    }
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = importances([drawn_trial(index, random.ask(space)) for index in range(40)])
    assert next(iter(found)) == "head_lr"
    assert found["head_lr"]["value"] > 0.9
    assert sum(share["value"] for share in found.values()) == pytest.approx(1)
    assert {share["n"] for share in found.values()} == {40}


def test_pruned_trials_and_equal_values_explain_nothing() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(
        {"head_lr": optuna.distributions.FloatDistribution(0.001, 1.0)}
    )
    assert importances([drawn_trial(index, trial) for index in range(5)]) == {}
    assert importances([drawn_trial(index, trial, pruned=True) for index in range(5)]) == {}
    assert importances([]) == {}
