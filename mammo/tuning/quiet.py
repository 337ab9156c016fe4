"""Silence Optuna's warnings about its experimental parts."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import ExperimentalWarning


@contextmanager
def experimental() -> Iterator[None]:
    """Heartbeats, the Wilcoxon pruner and the matplotlib plots may change in a later Optuna; its range is pinned.

    Asking for trials outside Optuna's own loop is warned of too: that loop could not hold the lock under which trials
    are taken, and the worker sends its own heartbeats.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield
