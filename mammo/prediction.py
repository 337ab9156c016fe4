"""Pictures on disk → the champion's votes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammo.config import Config
from mammo.images import read_roi
from mammo.layout import Workspace
from mammo.registry import champion
from mammo.tracking import connect

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel


def load_champion(space: Workspace) -> "PyFuncModel":
    """Load the registered champion through MLflow, as any client would.

    Raises:
        TrackingError: there is no champion, or the store cannot be used.
    """
    connect(space)
    name = Config.load(space.params).register_.model_name
    number = champion(space, name).number
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/{name}/{number}")


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
