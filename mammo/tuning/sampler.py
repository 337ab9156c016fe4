"""How a study draws its trials: TPE whose randomness hangs on the index of the trial."""

from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from mammo.core.tune_config import TuneConfig
from mammo.tuning.trials import free_index, index_of

SAMPLER_NOTE: Final = (
    "TPE, multivariate, constant liar; a generator of its own for every trial, seeded by (seed, index)"
)


class IndexedSampler(BaseSampler):
    """TPE whose random state hangs on (seed, index of the trial), not on what this process has drawn before.

    A study that is killed and resumed therefore draws what an undisturbed one draws.
    """

    def __init__(self, tune: TuneConfig) -> None:
        self._tune = tune
        self._tpe: TPESampler = self._fresh(0)

    def _fresh(self, index: int) -> TPESampler:
        seed = int(np.random.SeedSequence([self._tune.seed, index]).generate_state(1)[0])
        return TPESampler(seed=seed, n_startup_trials=self._tune.startup_trials)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Start the trial's own generator."""
        index = index_of(trial)
        if index is None:
            index = free_index(study.get_trials(deepcopy=False))
        self._tpe = self._fresh(index)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
