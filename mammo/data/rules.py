"""What is expected of ROIs, images, patch sets, splits and pairs: suites of Great Expectations, and their facts.

Facts are plain tables, one row for each ROI, patch or pair, so that every failure can name its ROIs. A suite's
expectations carry their name (`meta`), the rule as people read it (`description`) and the remedy (`notes`);
`critical` ones stop the pipeline, a `warning` is reported.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from great_expectations import ExpectationSuite
from great_expectations import expectations as gxe
from great_expectations.expectations import Expectation

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
from mammo.data.audit import Audit, flagged_rois, parts_of
from mammo.data.rois import pixel_hashes

Severity = Literal["critical", "warning"]

SERVED_SHARE: Final = 0.9
"""Of what is served has to lie within the reference's bounds, which hold 98 of 100 of the reference itself."""

REBUILD: Final = "run `dvc repro` to rebuild it from the raw data"
SOURCE: Final = "check the raw data, then run `dvc repro`"
SPLIT_AGAIN: Final = "run `dvc repro split patches`"
AUDIT_AGAIN: Final = "run `dvc repro --force audit split leakage`"
GROUPED: Final = "use split.protocol grouped_cv, then run `dvc repro`"


def _rule(
    kind: type[Expectation],
    name: str,
    text: str,
    remedy: str,
    severity: Severity = "critical",
    **arguments: Any,
) -> Expectation:
    return kind(**arguments, severity=severity, description=text, notes=remedy, meta={"name": name})


def _columns(name: str, text: str, schema: Mapping[str, str]) -> Expectation:
    kind = gxe.ExpectTableColumnsToMatchSet
    return _rule(kind, name, text, REBUILD, column_set=list(schema), exact_match=False)


def _present(column: str) -> Expectation:
    text = f"{column} is never null"
    return _rule(gxe.ExpectColumnValuesToNotBeNull, f"{column}_present", text, REBUILD, column=column)


def _one_of(column: str, values: tuple[Any, ...], remedy: str = SOURCE) -> Expectation:
    text = f"{column} is one of {', '.join(map(str, values))} where it is known"
    kind = gxe.ExpectColumnValuesToBeInSet
    return _rule(kind, f"{column}_known_value", text, remedy, column=column, value_set=list(values))


def _holds(name: str, text: str, remedy: str, severity: Severity = "critical") -> Expectation:
    """A rule whose facts are a column of its name, true where it is kept and null where it cannot apply."""
    kind = gxe.ExpectColumnValuesToBeInSet
    return _rule(kind, name, text, remedy, severity, column=name, value_set=[True])


def _between(
    name: str, column: str, text: str, remedy: str, severity: Severity = "critical", **limits: Any
) -> Expectation:
    kind = gxe.ExpectColumnValuesToBeBetween
    return _rule(kind, name, text, remedy, severity, column=column, **limits)


def is_yes_no(expectation: Expectation) -> bool:
    """Whether the facts of an expectation only say whether it is kept."""
    return getattr(expectation, "value_set", None) == [True]


def roi_suite() -> ExpectationSuite:
    """What is expected of the ROI table, see `roi_facts`."""
    unique = gxe.ExpectColumnValuesToBeUnique
    synthetic = "ROIs are synthetic if and only if they come from a phantom"
    rules = [
        _columns("columns", "the ROI table has every column of its schema", ROI_SCHEMA),
        _rule(gxe.ExpectTableRowCountToBeBetween, "rows", "there is at least one ROI", SOURCE, min_value=1),
        *(_present(column) for column in ("roi_id", "source", "label", "sha256", "synthetic")),
        _rule(unique, "roi_id_unique", "no two ROIs share an id", SOURCE, column="roi_id"),
        _one_of("label", tuple(int(label) for label in Label)),
        _one_of("abnormality", ABNORMALITIES),
        _one_of("severity", SEVERITIES),
        _one_of("tissue", TISSUES),
        _one_of("published_split", SPLITS),
        _holds("label_fits_abnormality", "NORM is labelled Normal and every lesion Tumor", SOURCE),
        _holds("normal_has_no_severity", "a Normal ROI has no severity", SOURCE),
        _holds("synthetic_fits_source", synthetic, REBUILD),
        _holds("film_has_one_patient", "all ROIs of a film belong to one patient", SOURCE),
        _holds("sha256_fits_pixels", "sha256 is that of the ROI's pixels", REBUILD),
    ]
    return ExpectationSuite("rois", expectations=rules)


def image_suite() -> ExpectationSuite:
    """What is expected of the ROIs' images, see `image_facts`."""
    enough, once = "an image has 16 grey levels or more", "no two ROIs have equal pixels"
    right = "find out which label is right and remove the other ROI from the raw data"
    apart = "use split.protocol grouped_cv, which keeps copies together, or remove them from the raw data"
    one_label = "equal pixels are never labelled both Normal and Tumor"
    other = "n_copies_with_other_label"
    constant = "no image is of one grey value"
    rules = [
        _one_of("dtype", ("uint8",), REBUILD),
        _one_of("height_px", (ROI_SIDE_PX,), REBUILD),
        _one_of("width_px", (ROI_SIDE_PX,), REBUILD),
        _between("image_not_constant", "std_grey", constant, SOURCE, min_value=0, strict_min=True),
        _between("image_has_grey_levels", "n_grey_levels", enough, SOURCE, "warning", min_value=16),
        _between("no_copies_with_other_label", other, one_label, right, max_value=0),
        _between("no_copies", "n_copies", once, apart, "warning", max_value=0),
    ]
    return ExpectationSuite("images", expectations=rules)


def patch_suite() -> ExpectationSuite:
    """What is expected of the patch sets, see `patch_facts`."""
    side = f"a patch's side is {MIN_PATCH_PX} to {ROI_SIDE_PX} pixels"
    size = "correct patches.size_px, then run `dvc repro`"
    part = "a patch set holds only ROIs of its own part of the split"
    rules = [
        _columns("patch_columns", "a patch set has every column of its schema", PATCH_SCHEMA),
        _holds("patch_roi_exists", "every patch belongs to a ROI of the ROI table", SPLIT_AGAIN),
        _holds("patch_label_fits_roi", "a patch has the label of its ROI", SPLIT_AGAIN),
        _holds("patch_inside_roi", "a patch lies wholly inside its ROI", SPLIT_AGAIN),
        _between("patch_size", "size_px", side, size, min_value=MIN_PATCH_PX, max_value=ROI_SIDE_PX),
        _holds("patch_in_its_part", part, SPLIT_AGAIN),
    ]
    return ExpectationSuite("patches", expectations=rules)


def split_suite() -> ExpectationSuite:
    """What is expected of the split, see `split_facts`; `leakage_suites` decides whether parts may share patients."""
    patches, parts = "every ROI of the split has a patch", "no ROI has patches in two parts"
    patient = "no patient has ROIs in two parts, where patients are known"
    group = "no two parts share tissue (the published folders do)"
    rules = [
        _one_of("split", SPLITS, SPLIT_AGAIN),
        _present("split"),
        _between("roi_has_patches", "n_patches", patches, SPLIT_AGAIN, min_value=1),
        _between("roi_in_one_part", "n_patch_parts", parts, SPLIT_AGAIN, max_value=1),
        _between("patient_in_one_part", "n_patient_parts", patient, GROUPED, "warning", max_value=1),
        _between("group_in_one_part", "n_group_parts", group, GROUPED, "warning", max_value=1),
    ]
    return ExpectationSuite("split", expectations=rules)


def leakage_suites(protocol: str) -> tuple[ExpectationSuite, ExpectationSuite]:
    """What is expected of the audit's pairs and of its ROIs, see `pair_facts` and `leak_facts`.

    The authors' folders are known to leak: there it is a warning and never stops the pipeline.
    """
    leak: Severity = "warning" if protocol == "published" else "critical"
    copy = "no ROI is wholly shown by another (a copy, turned over, altered in grey)"
    patient = "no other part has ROIs of the same patient, where patients are known"
    tissue = "no other part shows the tissue of a ROI"
    of_tissue, of_patient = "n_parts_with_its_tissue", "n_parts_with_its_patient"
    pairs = [
        _holds("pair_rois_exist", "both ROIs of a pair are in the ROI table", AUDIT_AGAIN),
        _holds("pair_in_one_group", "two ROIs that share tissue are in one group", AUDIT_AGAIN),
        _holds("pair_in_one_part", "no pair of ROIs across parts shares tissue", GROUPED, leak),
        _holds("pair_is_no_copy", copy, GROUPED, "warning"),
    ]
    leaks = [
        _between(of_tissue, of_tissue, tissue, GROUPED, leak, max_value=0),
        _between(of_patient, of_patient, patient, GROUPED, leak, max_value=0),
    ]
    return ExpectationSuite("pairs", expectations=pairs), ExpectationSuite("leaks", expectations=leaks)


def served_suite(bounds: Mapping[str, tuple[float, float]]) -> ExpectationSuite:
    """What is expected of the prediction log: most values lie between the bounds that a reference gave its columns."""
    look = "look at the newest ROIs: another scanner, preparation or population?"
    often: dict[str, Any] = {"severity": "warning", "mostly": SERVED_SHARE}
    rules = [
        _between(
            *(
                f"{column}_as_in_reference",
                column,
                f"{column} mostly lies between {low:g} and {high:g}",
                look,
            ),
            **often,
            min_value=low,
            max_value=high,
        )
        for column, (low, high) in bounds.items()
    ]
    known, text = gxe.ExpectColumnValuesToBeInSet, "most ROIs are like those of training"
    rules.append(_rule(known, "mostly_in_domain", text, look, column="in_domain", value_set=[True], **often))
    return ExpectationSuite("served", expectations=rules)


def roi_facts(table: pd.DataFrame, images: npt.NDArray[Any]) -> pd.DataFrame:
    """The ROI table with one column more for each rule that compares columns."""
    known = table.reindex(columns=list(ROI_SCHEMA))
    normal = known["label"] == Label.NORMAL
    abnormality = known["abnormality"]
    patients = known["patient_id"].groupby(known["film_id"].to_numpy()).transform("nunique")
    return table.assign(
        label_fits_abnormality=((abnormality == "NORM") == normal).where(abnormality.notna()),
        normal_has_no_severity=known["severity"].isna().where(normal),
        synthetic_fits_source=known["synthetic"] == (known["source"] == "phantom"),
        film_has_one_patient=(patients <= 1).where(known["film_id"].notna() & known["patient_id"].notna()),
        sha256_fits_pixels=(known["sha256"] == pixel_hashes(images)).fillna(False),
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
    facts = rois[["roi_id"]].merge(split, on="roi_id", how="left")
    counts = {
        part: facts["roi_id"].map(patch_set["roi_id"].value_counts()).fillna(0).astype(int)
        for part, patch_set in patches.items()
    }
    by_part = pd.DataFrame(counts, index=facts.index)
    facts = facts.assign(n_patches=by_part.sum(axis=1), n_patch_parts=(by_part > 0).sum(axis=1))
    for owner in ("patient", "group"):
        known = facts[f"{owner}_id"]
        n_parts = facts["split"].groupby(known.to_numpy()).transform("nunique")
        facts[f"n_{owner}_parts"] = n_parts.where(known.notna())
    return facts


def pair_facts(audit: Audit) -> pd.DataFrame:
    """One row for each pair; its `roi_id` names both ROIs."""
    pairs = audit.pairs
    group_of = audit.split.set_index("roi_id")["group_id"]
    known = set(audit.rois.table["roi_id"])
    return pairs.assign(
        roi_id=pairs["a"] + " and " + pairs["b"],
        pair_rois_exist=pairs["a"].isin(known) & pairs["b"].isin(known),
        pair_in_one_group=(pairs["a"].map(group_of) == pairs["b"].map(group_of)).fillna(False).astype(bool),
        pair_in_one_part=(pairs["split_a"] == pairs["split_b"]).fillna(False).astype(bool),
        pair_is_no_copy=pairs["overlap_px"] < audit.rois.images[0].size,
    )


def leak_facts(audit: Audit) -> pd.DataFrame:
    """One row for each ROI: in how many other parts its tissue and its patient are."""
    table = audit.rois.table
    flagged = flagged_rois(audit.pairs, table, parts_of(audit.split)).set_index("roi_id")
    facts = table[["roi_id", "film_id"]].merge(audit.split, on="roi_id", how="left")
    for what in ("tissue", "patient"):
        n_parts = flagged[f"{what}_in"].str.count(r"\w+")
        facts[f"n_parts_with_its_{what}"] = facts["roi_id"].map(n_parts).fillna(0).astype(int)
    return facts
