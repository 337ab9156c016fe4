"""How much of the spread of the trials' values each parameter explains, and how sure that is."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

CONFIDENCE: Final = 0.95
N_RESAMPLES: Final = 100
N_TREES: Final = 32
"""Of fANOVA's forest: half of Optuna's default, so that a hundred resamples take seconds."""


def importances(trials: Sequence[FrozenTrial], n_resamples: int = N_RESAMPLES) -> dict[str, dict[str, Any]]:
    """fANOVA's share of each parameter (Hutter et al. 2014), largest first; empty where fewer than two values differ.

    Args:
        trials: of one study; only complete ones count, so after much pruning the shares rest on few trials.
        n_resamples: of the trials, for the percentile interval. Resamples without two different values are left out.

    Returns:
        For each parameter `value`, `ci_low`, `ci_high`, `confidence`, `n` (complete trials) and `method`.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    shares = _shares(complete)
    rng = np.random.default_rng(0)
    draws = [
        drawn
        for _ in range(n_resamples if shares else 0)
        if (drawn := _shares([complete[i] for i in rng.integers(0, len(complete), len(complete))]))
    ]
    return {name: _estimate(name, share, draws, len(complete)) for name, share in shares.items()}


def _shares(complete: Sequence[FrozenTrial]) -> dict[str, float]:
    if len({trial.value for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=N_TREES)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _estimate(name: str, share: float, draws: Sequence[dict[str, float]], n_trials: int) -> dict[str, Any]:
    # A parameter that does not vary in a resample explains nothing of it.
    drawn = [draw.get(name, 0.0) for draw in draws]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail]) if drawn else (None, None)
    return {
        "value": float(share),
        "ci_low": None if low is None else float(low),
        "ci_high": None if high is None else float(high),
        "confidence": CONFIDENCE,
        "n": n_trials,
        "method": f"fANOVA over the complete trials, percentiles of {len(drawn)} resamples of them",
    }
