"""Which parameters explain the spread of the values."""

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
    found = importances([trial(x, y, x**2) for x, y in drawn])
    assert next(iter(found)) == "x"
    assert found["x"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_pruned_trials_and_equal_values_explain_nothing() -> None:
    same = [trial(0.1 * k, 0.5, 0.8) for k in range(5)]
    pruned = [trial(0.1 * k, 0.5, 0.0, TrialState.PRUNED) for k in range(5)]
    assert importances(same) == {}
    assert importances(pruned) == {}
    assert importances([]) == {}
