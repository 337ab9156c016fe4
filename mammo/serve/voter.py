"""The voter that MLflow loads: pictures of ROIs in, votes out. Logged as code, never pickled.

It does its own decoding, patches and votes, so any MLflow client gets the same answer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from mammo.core.errors import DataError
from mammo.core.records import RoiVote
from mammo.data.decode import GreyImage, check_roi_array, decode_roi
from mammo.models.bundle import WEIGHTS_FILE, load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer


class Voter(PythonModel):  # type: ignore[misc]
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights and find out under which name and version they are registered."""
        weights = Path(context.artifacts[WEIGHTS_FILE])
        self.scorer = RoiScorer.on(load_bundle(weights.parent), choose_device("auto"))
        self.model_name, self.model_version = _registered_as(weights.parent.parent)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        """One row for each ROI: label, votes, probability, prediction set, domain and the rest of `RoiVote.row`.

        Args:
            context: unused, MLflow passes it.
            model_input: table with a column `image` (bytes) or `pixels` (120×120 grey levels).

        Raises:
            DataError: a picture is unreadable or no ROI.
        """
        if len(model_input) == 0:
            raise DataError(
                "input: at least one ROI is needed, got no rows; send a column `image` or `pixels`"
            )
        rows = model_input.to_dict("records")
        votes = self.votes(np.stack([_read_row(index, row) for index, row in enumerate(rows)]))
        table = pd.DataFrame([vote.row(self.model_name, self.model_version) for vote in votes])
        # As a column of strings, pandas would put NaN in place of None beside a reason.
        table["domain_reason"] = pd.Series([vote.domain_reason for vote in votes], dtype=object)
        return table

    def votes(self, images: npt.NDArray[np.uint8]) -> list[RoiVote]:
        """The decisions with patch scores, for callers that draw them."""
        return self.scorer.votes(images)


def _read_row(index: int, row: dict[Any, Any]) -> GreyImage:
    if isinstance(row.get("image"), bytes):
        return decode_roi(row["image"], f"row {index}")
    pixels = row.get("pixels")
    if pixels is None or (isinstance(pixels, float) and np.isnan(pixels)):
        raise DataError(
            f"row {index}: needs `image` (bytes of a PNG, PGM, TIFF or DICOM file) or `pixels` (120 rows of 120 grey "
            "levels), got neither"
        )
    try:
        array = np.stack([np.asarray(line) for line in pixels])
    except ValueError as error:
        raise DataError(
            f"row {index}: the rows of `pixels` must be equally long ({error}); send 120 of 120"
        ) from error
    return check_roi_array(array, f"row {index}")


def _registered_as(model: Path) -> tuple[str, str]:
    """Name and version, which MLflow writes beside a model that it loads from the registry."""
    note = model / "registered_model_meta"
    values = yaml.safe_load(note.read_text()) if note.is_file() else {}
    return str(values.get("model_name", "")), str(values.get("model_version", ""))


set_model(Voter())
