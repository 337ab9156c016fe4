"""Schemas of the tables that pass between stages, and the words that they use.

Nullable columns hold what a source may not know; it is null then, never invented.
"""

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mammo.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

ROI_SIDE_PX: Final = 120
"""Side of a ROI in pixels (Yu et al. 2020, data preparation)."""

MIN_PATCH_PX: Final = 32
"""Smallest patch that survives the pooling of Model2: five halvings leave one pixel."""


class Label(IntEnum):
    """Class of a ROI. Tumor is the positive class and holds benign and malignant lesions alike."""

    NORMAL = 0
    TUMOR = 1

    @property
    def title(self) -> str:
        """The name that people read: `Normal` or `Tumor`."""
        return self.name.capitalize()


ABNORMALITIES: Final = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM", "NORM")
SEVERITIES: Final = ("B", "M")
TISSUES: Final = ("F", "G", "D")
SPLITS: Final = ("train", "val", "test")

ROI_SCHEMA: Final[dict[str, str]] = {
    "roi_id": "string",
    "source": "string",
    "film_id": "string",
    "patient_id": "string",
    "label": "int8",
    "abnormality": "string",
    "severity": "string",
    "tissue": "string",
    "x_px": "Int32",
    "y_px": "Int32",
    "radius_px": "Int32",
    "published_split": "string",
    "sha256": "string",
    "synthetic": "bool",
}
"""One row for each ROI, in the order of `images.npy`. `x_px`, `y_px`: centre, top-left origin."""

PATCH_SCHEMA: Final[dict[str, str]] = {
    "roi_id": "string",
    "top_px": "int16",
    "left_px": "int16",
    "size_px": "int16",
    "label": "int8",
}
"""One row for each patch: an index into the ROIs, no pixels."""

SPLIT_SCHEMA: Final[dict[str, str]] = dict.fromkeys(("roi_id", "patient_id", "group_id", "split"), "string")
"""A row for each ROI; `patient_id` is the located one where the source knows none; groups share patients or pixels."""


def conform(table: "pd.DataFrame", schema: dict[str, str], name: str) -> "pd.DataFrame":
    """Return `table` with exactly the columns and types of `schema`, in its order.

    Raises:
        DataError: a column is missing or a value does not fit its type.
    """
    missing = [column for column in schema if column not in table.columns]
    if missing:
        raise DataError(f"{name}: columns {missing} are required, got {list(table.columns)}; rebuild the table")
    try:
        return table[list(schema)].astype(schema).reset_index(drop=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: a value does not fit its column's type ({error}); rebuild the table") from error
