"""Optuna studies of the settings, on folds inside train and val. The test part is never read."""

import warnings

from optuna.exceptions import ExperimentalWarning

# Optuna's range is pinned, and trials are asked for outside its own loop.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage")
