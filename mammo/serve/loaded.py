"""One version, loaded and checked."""

from statistics import median
from time import perf_counter

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.core.records import ROI_SIDE_PX
from mammo.track.store import connect, first_line


def checked(workspace: Workspace, model_name: str, number: str) -> float:
    """Median seconds of a version's vote on one ROI, once it has loaded.

    Raises:
        TrackingError: it cannot be loaded or does not vote.
    """
    connect(workspace)
    grey = (
        np.random.default_rng(0).normal(100, 12, (1, ROI_SIDE_PX, ROI_SIDE_PX)).clip(0, 255).astype(np.uint8)
    )
    try:
        voter = mlflow.pyfunc.load_model(f"models:/{model_name}/{number}").unwrap_python_model()
        seconds = []
        for _ in range(3):
            started = perf_counter()
            voter.votes(grey)
            seconds.append(perf_counter() - started)
    except (MlflowException, OSError, ValueError) as error:
        raise TrackingError(
            f"{model_name} version {number}: cannot be loaded ({first_line(error)}); register another with `dvc repro`"
        ) from error
    return median(seconds)
