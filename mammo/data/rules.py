"""What is expected of ROIs, images, patch sets and splits: the rules, and the facts they speak about.

A rule names one expectation of Great Expectations and the column of facts that it checks. Facts are plain
tables, one row for each ROI or patch, so that every failure can name its ROIs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.errors import DataError
from mammo.core.records import (
    ABNORMALITIES,
    MIN_PATCH_PX,
    PATCH_SCHEMA,
    ROI_SCHEMA,
    ROI_SIDE_PX,
    SEVERITIES,
    SPLITS,
    TISSUES,
    Label,
)
from mammo.data.rois import pixel_hashes

Severity = Literal["critical", "warning"]

REBUILD: Final = "run `dvc repro` to rebuild it from the raw data"
SOURCE: Final = "check the raw data, then run `dvc repro`"
SPLIT_AGAIN: Final = "run `dvc repro split patches`"


@dataclass(frozen=True)
class Rule:
    """One expectation.

    Attributes:
        name: what reports and errors call it.
        expectation: class in `great_expectations.expectations`.
        text: the rule as people read it.
        remedy: what to do when it is broken.
        arguments: of the expectation.
        severity: `critical` stops the pipeline, `warning` is reported.
    """

    name: str
    expectation: str
    text: str
    remedy: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity = "critical"


def _present(column: str) -> Rule:
    return Rule(
        f"{column}_present",
        "ExpectColumnValuesToNotBeNull",
        f"{column} is never null",
        REBUILD,
        {"column": column},
    )


def _one_of(column: str, values: tuple[Any, ...], remedy: str = SOURCE) -> Rule:
    text = f"{column} is one of {', '.join(map(str, values))} where it is known"
    arguments = {"column": column, "value_set": list(values)}
    return Rule(f"{column}_known_value", "ExpectColumnValuesToBeInSet", text, remedy, arguments)


def _holds(name: str, text: str, remedy: str, severity: Severity = "critical") -> Rule:
    """A rule whose facts are a column of its name, true where it is kept and null where it cannot apply."""
    arguments = {"column": name, "value_set": [True]}
    return Rule(name, "ExpectColumnValuesToBeInSet", text, remedy, arguments, severity)


def _between(
    name: str, column: str, text: str, remedy: str, severity: Severity = "critical", **limits: Any
) -> Rule:
    return Rule(name, "ExpectColumnValuesToBeBetween", text, remedy, {"column": column, **limits}, severity)


ROI_RULES: Final = (
    Rule(
        "columns",
        "ExpectTableColumnsToMatchSet",
        "the ROI table has every column of its schema",
        REBUILD,
        {"column_set": list(ROI_SCHEMA), "exact_match": False},
    ),
    Rule("rows", "ExpectTableRowCountToBeBetween", "there is at least one ROI", SOURCE, {"min_value": 1}),
    *(_present(column) for column in ("roi_id", "source", "label", "sha256", "synthetic")),
    Rule(
        "roi_id_unique",
        "ExpectColumnValuesToBeUnique",
        "no two ROIs share an id",
        SOURCE,
        {"column": "roi_id"},
    ),
    _one_of("label", tuple(int(label) for label in Label)),
    _one_of("abnormality", ABNORMALITIES),
    _one_of("severity", SEVERITIES),
    _one_of("tissue", TISSUES),
    _one_of("published_split", SPLITS),
    _holds("label_fits_abnormality", "NORM is labelled Normal and every lesion Tumor", SOURCE),
    _holds("normal_has_no_severity", "a Normal ROI has no severity", SOURCE),
    _holds("synthetic_fits_source", "ROIs are synthetic if and only if they come from a phantom", REBUILD),
    _holds("film_has_one_patient", "all ROIs of a film belong to one patient", SOURCE),
    _holds("sha256_fits_pixels", "sha256 is that of the ROI's pixels", REBUILD),
)

IMAGE_RULES: Final = (
    _one_of("dtype", ("uint8",), REBUILD),
    _one_of("height_px", (ROI_SIDE_PX,), REBUILD),
    _one_of("width_px", (ROI_SIDE_PX,), REBUILD),
    _between(
        "image_not_constant",
        "std_grey",
        "no image is of one grey value",
        SOURCE,
        min_value=0,
        strict_min=True,
    ),
    _between(
        "image_has_grey_levels",
        "n_grey_levels",
        "an image has 16 grey levels or more",
        SOURCE,
        "warning",
        min_value=16,
    ),
    _between(
        "no_copies_with_other_label",
        "n_copies_with_other_label",
        "equal pixels are never labelled both Normal and Tumor",
        "find out which label is right and remove the other ROI from the raw data",
        max_value=0,
    ),
    _between(
        "no_copies",
        "n_copies",
        "no two ROIs have equal pixels",
        "use split.protocol grouped_cv, which keeps copies together, or remove them from the raw data",
        "warning",
        max_value=0,
    ),
)

PATCH_RULES: Final = (
    Rule(
        "patch_columns",
        "ExpectTableColumnsToMatchSet",
        "a patch set has every column of its schema",
        REBUILD,
        {"column_set": list(PATCH_SCHEMA), "exact_match": False},
    ),
    _holds("patch_roi_exists", "every patch belongs to a ROI of the ROI table", SPLIT_AGAIN),
    _holds("patch_label_fits_roi", "a patch has the label of its ROI", SPLIT_AGAIN),
    _holds("patch_inside_roi", "a patch lies wholly inside its ROI", SPLIT_AGAIN),
    _between(
        "patch_size",
        "size_px",
        f"a patch's side is {MIN_PATCH_PX} to {ROI_SIDE_PX} pixels",
        "correct patches.size_px, then run `dvc repro`",
        min_value=MIN_PATCH_PX,
        max_value=ROI_SIDE_PX,
    ),
    _holds("patch_in_its_part", "a patch set holds only ROIs of its own part of the split", SPLIT_AGAIN),
)

SPLIT_RULES: Final = (
    _one_of("split", SPLITS, SPLIT_AGAIN),
    _present("split"),
    _between("roi_has_patches", "n_patches", "every ROI of the split has a patch", SPLIT_AGAIN, min_value=1),
    _between("roi_in_one_part", "n_patch_parts", "no ROI has patches in two parts", SPLIT_AGAIN, max_value=1),
    _between(
        "patient_in_one_part",
        "n_patient_parts",
        "no patient has ROIs in two parts, where patients are known",
        "use split.protocol grouped_cv, then run `dvc repro`",
        max_value=1,
    ),
    _between(
        "group_in_one_part",
        "n_group_parts",
        "no two parts share tissue (the published folders do)",
        "use split.protocol grouped_cv, then run `dvc repro`",
        "warning",
        max_value=1,
    ),
)


def roi_facts(table: pd.DataFrame, images: npt.NDArray[Any]) -> pd.DataFrame:
    """The ROI table with one column more for each rule that compares columns.

    Raises:
        DataError: `images` is not one picture `(h, w)` for each row.
    """
    if images.ndim != 3 or len(images) != len(table):
        raise DataError(
            f"images must be (n, height, width) with one for each of the {len(table)} ROIs, got {images.shape}; "
            f"{REBUILD}"
        )
    known = table.reindex(columns=list(ROI_SCHEMA))
    normal = known["label"] == Label.NORMAL
    abnormality = known["abnormality"]
    patients = known["patient_id"].groupby(known["film_id"].to_numpy()).transform("nunique")
    return table.assign(
        label_fits_abnormality=((abnormality == "NORM") == normal).where(abnormality.notna()),
        normal_has_no_severity=known["severity"].isna().where(normal),
        synthetic_fits_source=known["synthetic"] == (known["source"] == "phantom"),
        film_has_one_patient=(patients <= 1).where(known["film_id"].notna() & known["patient_id"].notna()),
        sha256_fits_pixels=(known["sha256"] == pd.Series(pixel_hashes(images), index=known.index)).fillna(
            False
        ),
    )


def image_facts(table: pd.DataFrame, images: npt.NDArray[Any]) -> pd.DataFrame:
    """One row for each image: its type, size, grey levels, and how many others have the same bytes."""
    known = table.reindex(columns=["roi_id", "label"])
    hashes = np.array(pixel_hashes(images), dtype=object)
    same_pixels = known["label"].groupby(hashes).transform("size")
    same_label = known["label"].groupby([hashes, known["label"].fillna(-1)]).transform("size")
    return pd.DataFrame(
        {
            "roi_id": known["roi_id"].to_numpy(),
            "dtype": str(images.dtype),
            "height_px": images.shape[1],
            "width_px": images.shape[2],
            "min_grey": images.min(axis=(1, 2)),
            "max_grey": images.max(axis=(1, 2)),
            "std_grey": images.std(axis=(1, 2)),
            "n_grey_levels": [len(np.unique(image)) for image in images],
            "n_copies": same_pixels.to_numpy() - 1,
            "n_copies_with_other_label": (same_pixels - same_label).to_numpy(),
        }
    )


def patch_facts(patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """All patches of all parts, with what their ROI says of them."""
    joined = pd.concat(
        [patch_set.assign(part=part) for part, patch_set in patches.items()], ignore_index=True
    )
    known = joined.reindex(columns=[*PATCH_SCHEMA, "part"])
    roi_label = known["roi_id"].map(rois.set_index("roi_id")["label"])
    roi_part = known["roi_id"].map(split.set_index("roi_id")["split"])
    inside = pd.Series(True, index=known.index)
    for corner in ("top_px", "left_px"):
        end = known[corner].astype("Int64") + known["size_px"].astype("Int64")
        inside &= ((known[corner] >= 0) & (end <= ROI_SIDE_PX)).fillna(False).astype(bool)
    return joined.assign(
        patch_roi_exists=roi_label.notna(),
        patch_label_fits_roi=(known["label"] == roi_label).where(roi_label.notna()),
        patch_inside_roi=inside,
        patch_in_its_part=(known["part"] == roi_part).where(roi_part.notna()),
    )


def split_facts(patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """One row for each ROI: its part, its patches, and in how many parts its patient and group are."""
    facts = rois[["roi_id", "patient_id"]].merge(split, on="roi_id", how="left")
    counts = {
        part: facts["roi_id"].map(patch_set["roi_id"].value_counts()).fillna(0).astype(int)
        for part, patch_set in patches.items()
    }
    by_part = pd.DataFrame(counts, index=facts.index)
    return facts.assign(
        n_patches=by_part.sum(axis=1),
        n_patch_parts=(by_part > 0).sum(axis=1),
        n_patient_parts=_parts_of(facts, "patient_id"),
        n_group_parts=_parts_of(facts, "group_id"),
    )


def _parts_of(facts: pd.DataFrame, owner: str) -> pd.Series:
    return facts["split"].groupby(facts[owner].to_numpy()).transform("nunique").where(facts[owner].notna())
