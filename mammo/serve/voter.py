"""The voter that MLflow loads: pictures of ROIs in, votes out. Logged as code, never pickled.

It does its own decoding, patches and votes, so any MLflow client gets the same answer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

import mammo
from mammo.core.errors import DataError
from mammo.core.files import WEIGHTS_FILE, tree_sha256
from mammo.data.decode import GreyImage, check_roi_array, decode_roi
from mammo.serve.worker import RoiVoter


class Voter(PythonModel):  # type: ignore[misc]
    """A version behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights and find out under which name and version they are registered.

        `DataError` where this process has imported another mammo than the version's own.
        """
        weights = Path(context.artifacts[WEIGHTS_FILE])
        own, loaded = weights.parents[1] / "code" / "mammo", Path(mammo.__file__).parent
        if tree_sha256(own) != tree_sha256(loaded):
            raise DataError(
                f"{loaded}: a version votes with its own code, {own}, but this process has imported another mammo; "
                "load it in a process of its own, or let `mammo predict` or `mammo serve` do so"
            )
        self.voter = RoiVoter.load(weights.parent, *_registered_as(weights.parents[1]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        """A row for each of the table's `image` (bytes) or `pixels` (120×120 grey levels), as of `RoiVote.row`.

        One that is no readable ROI refuses them all with `DataError`.
        """
        if len(model_input) == 0:
            raise DataError("input: at least one ROI is needed, got no rows; send a column `image` or `pixels`")
        read = [_read_row(index, row) for index, row in enumerate(model_input.to_dict("records"))]
        table = pd.DataFrame(self.voter.rows(np.stack(read))).drop(columns="patch_scores")
        # As a column of strings, pandas would put NaN in place of None beside a reason.
        return table.assign(domain_reason=table["domain_reason"].astype(object).where(~table["in_domain"], None))


def _read_row(index: int, row: dict[Any, Any]) -> GreyImage:
    if isinstance(row.get("image"), bytes):
        return decode_roi(row["image"], f"row {index}")
    pixels = row.get("pixels")
    if pixels is None or (isinstance(pixels, float) and np.isnan(pixels)):
        raise DataError(
            f"row {index}: needs `image` (bytes of a PNG, PGM, TIFF or DICOM file) or `pixels` (120 rows of 120 grey "
            "levels), got neither"
        )
    return check_roi_array(pixels, f"row {index}")


def _registered_as(model: Path) -> tuple[str, str]:
    """Name and version, which MLflow writes beside a model that it loads from the registry."""
    note = model / "registered_model_meta"
    values = yaml.safe_load(note.read_text()) if note.is_file() else {}
    return str(values.get("model_name", "")), str(values.get("model_version", ""))


set_model(Voter())
