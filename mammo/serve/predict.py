"""Pictures on disk → the champion's votes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.data.decode import read_roi
from mammo.track.registry import champion
from mammo.track.store import connect, first_line

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel


def load_champion(space: Workspace) -> "PyFuncModel":
    """Load the registered champion through MLflow, as any client would.

    Raises:
        TrackingError: there is no champion, its files are gone, or the store cannot be used.
    """
    connect(space)
    name = Config.load_own(space.params).register_.model_name
    number = champion(space, name).number
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.pyfunc.load_model(f"models:/{name}/{number}")
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{name} version {number}: its files cannot be read ({first_line(error)}); they lie where the store was "
            "made. If that folder was moved, empty mlruns/ and run `dvc repro`"
        ) from error


def predict_files(space: Workspace, files: list[Path]) -> list[dict[str, Any]]:
    """One row for each file: `file` and the fields of `RoiVote.row`.

    All files are checked first: one bad file refuses the whole call.

    Raises:
        DataError: a file is no readable ROI.
        TrackingError: there is no champion.
    """
    for path in files:
        read_roi(path)
    import pandas as pd

    table = load_champion(space).predict(pd.DataFrame({"image": [path.read_bytes() for path in files]}))
    return [
        {"file": str(path), **{str(key): value for key, value in row.items()}}
        for path, row in zip(files, table.to_dict("records"), strict=True)
    ]
