"""Films and patients that `mammo locate` gave back to ROIs whose source does not know them."""

from pathlib import Path
from typing import Final

import pandas as pd

from mammo.errors import DataError
from mammo.records import conform
from mammo.storage import read_table

LOCATED_SCHEMA: Final[dict[str, str]] = {
    "roi_id": "string",
    "sha256": "string",
    "film_id": "string",
    "patient_id": "string",
    "x_px": "Int32",
    "y_px": "Int32",
    "width_px": "Int32",
    "height_px": "Int32",
    "score": "float64",
    "second_score": "float64",
    "margin": "float64",
    "lesion_px": "float64",
    "verdict": "string",
}
"""One row for each ROI, in the order of the ROI table.

`sha256`: of the ROI's pixels. `x_px`, `y_px`: centre of the 120 × 120 crop in the film, top-left origin.
`width_px`, `height_px`: what the crop kept before it was stretched; 120 where nothing was. `score`: correlation
of the ROI's texture with that of the film there; `second_score`: the best in any other film; `margin`: their
difference. `lesion_px`: distance to the nearest lesion that `Info.txt` places in that film. `verdict`: `located`
or `uncertain`; an uncertain row says where the best match lies, which may be wrong.
"""

LOCATED: Final = "located"
UNCERTAIN: Final = "uncertain"


def known_owners(table: pd.DataFrame, located: Path) -> pd.DataFrame:
    """The ROI table with the films and patients of located ROIs where its source knows none.

    Args:
        table: ROI table (`ROI_SCHEMA`).
        located: what `mammo locate` wrote (`LOCATED_SCHEMA`); without the file, and where the
            source knows every film, the table comes back as it is.

    Raises:
        DataError: the file is damaged, or was made from other ROIs.
    """
    if not located.is_file() or table["film_id"].notna().all():
        return table
    rows = conform(read_table(located), LOCATED_SCHEMA, str(located)).set_index("roi_id")
    pixels = table["roi_id"].map(rows["sha256"])
    if not (pixels == table["sha256"]).fillna(False).all():
        raise DataError(
            f"{located}: must locate exactly the ROIs of the table, got others; run `mammo locate FILMS` again or "
            "delete the file"
        )
    certain = rows[rows["verdict"] == LOCATED]
    return table.assign(
        film_id=table["film_id"].fillna(table["roi_id"].map(certain["film_id"])),
        patient_id=table["patient_id"].fillna(table["roi_id"].map(certain["patient_id"])),
    )
