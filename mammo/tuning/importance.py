"""How much of the spread of the trials' values each parameter explains."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState


def importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """fANOVA's share of each parameter (Hutter et al. 2014), largest first; empty where fewer than two values differ.

    Args:
        trials: of one study; only complete ones count, so after much pruning the shares rest on few trials.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
