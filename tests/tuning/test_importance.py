"""Which parameters explain the spread of the values, and how sure that is."""

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mammo.tuning.importance import importances

UNIT = FloatDistribution(0.0, 1.0)


def trial(x: float, y: float, value: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return create_trial(
        state=state,
        params={"x": x, "y": y},
        distributions={"x": UNIT, "y": UNIT},
        value=value if state == TrialState.COMPLETE else None,
    )


def test_a_value_that_hangs_on_one_parameter_is_explained_by_it() -> None:
    drawn = np.random.default_rng(0).random((60, 2))
    found = importances([trial(x, y, x**2) for x, y in drawn], n_resamples=20)
    assert next(iter(found)) == "x"
    assert found["x"]["value"] > 0.9
    assert found["x"]["ci_low"] > 0.8
    assert found["y"]["ci_high"] < 0.2
    assert sum(one["value"] for one in found.values()) == pytest.approx(1)
    assert found["x"]["n"] == 60


def test_few_trials_of_noise_leave_wide_intervals() -> None:
    rng = np.random.default_rng(1)
    found = importances([trial(rng.random(), rng.random(), rng.random()) for _ in range(6)], n_resamples=40)
    assert all(one["ci_high"] - one["ci_low"] > 0.3 for one in found.values())


def test_pruned_trials_and_equal_values_explain_nothing() -> None:
    same = [trial(0.1 * k, 0.5, 0.8) for k in range(5)]
    pruned = [trial(0.1 * k, 0.5, 0.0, TrialState.PRUNED) for k in range(5)]
    assert importances(same) == {}
    assert importances(pruned) == {}
    assert importances([]) == {}
