"""Schemas of the tables that pass between stages, and the record of one decision.

Nullable columns hold what a source may not know; it is null then, never invented.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

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


@dataclass(frozen=True)
class RoiVote:
    """The decision about one ROI and the votes that made it.

    Attributes:
        label: `Normal` or `Tumor`.
        vote_share: share of the patches that voted Tumor, 0 to 1.
        votes: each patch's vote (0 Normal, 1 Tumor), row by row over the grid.
        patch_scores: each patch's probability of Tumor, in the same order.
        score: mean of the patch scores.
        probability: calibrated probability of Tumor.
        threshold: the ROI is Tumor when its vote share (rule `majority`) or its score (rule `mean_score`)
            is above this.
        decided_by: which rule decided and why, in words.
        prediction_set: the classes that remain open at the promised coverage; always holds `label`.
        domain_reason: why the picture is unlike the ROIs of training, as "<the picture> …"; None where it is not.
    """

    label: str
    vote_share: float
    votes: tuple[int, ...]
    patch_scores: tuple[float, ...]
    score: float
    probability: float
    threshold: float
    prediction_set: tuple[str, ...]
    domain_reason: str | None = None
    decided_by: str = ""

    @property
    def referral(self) -> bool:
        """Whether a reader has to decide: both classes remain open, or no such picture was ever judged."""
        return len(self.prediction_set) > 1 or self.domain_reason is not None

    def row(self, model_name: str, model_version: str) -> dict[str, Any]:
        """The answer that every road gives: `mammo predict`, the service and any MLflow client."""
        return {
            "label": self.label,
            "vote_share": self.vote_share,
            "votes": list(self.votes),
            "score": self.score,
            "model_name": model_name,
            "model_version": model_version,
            "probability": self.probability,
            "threshold": self.threshold,
            "decided_by": self.decided_by,
            "prediction_set": list(self.prediction_set),
            "referral": self.referral,
            "in_domain": self.domain_reason is None,
            "domain_reason": self.domain_reason,
        }
