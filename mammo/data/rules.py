"""What is expected of ROIs, images, patch sets, splits, pairs and answers: facts, and the rules they keep or break.

Facts are plain tables, one row for each ROI, patch or pair, so that every failure can name its ROIs. A rule is an
expectation of Great Expectations that carries its name (`meta`), the rule as people read it (`description`) and the
remedy (`notes`); a `critical` one stops the pipeline, a `warning` is reported.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.expectations import Expectation

from mammo.core import records
from mammo.core.records import MIN_PATCH_PX, PATCH_SCHEMA, ROI_SCHEMA, ROI_SIDE_PX, Label
from mammo.data.audit import Audit, flagged_rois
from mammo.data.rois import pixel_hashes

Severity = Literal["critical", "warning"]
Checked = tuple[pd.DataFrame, list[Expectation]]
"""Facts and their rules."""
Suites = dict[str, Checked]
"""What is checked together, by titles."""

SERVED_SHARE: Final = 0.9
"""Of what is served has to lie within the reference's bounds, which hold 98 of 100 of the reference itself."""

REBUILD: Final = "run `dvc repro` to rebuild it from the raw data"
SOURCE: Final = "check the raw data, then run `dvc repro`"
SPLIT_AGAIN: Final = "run `dvc repro split patches`"
AUDIT_AGAIN: Final = "run `dvc repro --force audit split leakage`"
GROUPED: Final = "use split.protocol grouped_cv, then run `dvc repro`"


def _rule(kind: type[Expectation], name: str, text: str, remedy: str, **arguments: Any) -> Expectation:
    return kind(**{"severity": "critical"} | arguments, description=text, notes=remedy, meta={"name": name})


def _has_columns(name: str, text: str, schema: Mapping[str, str]) -> Expectation:
    kind = gxe.ExpectTableColumnsToMatchSet
    return _rule(kind, name, text, REBUILD, column_set=list(schema), exact_match=False)


def _present(column: str) -> Expectation:
    kind = gxe.ExpectColumnValuesToNotBeNull
    return _rule(kind, f"{column}_present", f"{column} is never null", REBUILD, column=column)


def _one_of(name: str, column: str, values: list[Any], text: str, remedy: str, **arguments: Any) -> Expectation:
    kind = gxe.ExpectColumnValuesToBeInSet
    return _rule(kind, name, text, remedy, column=column, value_set=values, **arguments)


def _known(column: str, *values: Any, remedy: str = SOURCE) -> Expectation:
    text = f"{column} is one of {', '.join(map(str, values))} where it is known"
    return _one_of(f"{column}_known_value", column, list(values), text, remedy)


def _holds(name: str, text: str, remedy: str, severity: Severity = "critical") -> Expectation:
    """A rule whose facts are a column of its name, true where it is kept and null where it cannot apply."""
    return _one_of(name, name, [True], text, remedy, severity=severity)


def _between(name: str, column: str, text: str, remedy: str, **arguments: Any) -> Expectation:
    return _rule(gxe.ExpectColumnValuesToBeBetween, name, text, remedy, column=column, **arguments)


def of_rois(table: pd.DataFrame, images: npt.NDArray[Any]) -> Suites:
    """The ROI table (`ROI_SCHEMA`), a column more for each rule that compares columns, and its images, `(n, h, w)`."""
    known = table.reindex(columns=list(ROI_SCHEMA))
    normal, abnormality = known["label"] == Label.NORMAL, known["abnormality"]
    patients = known["patient_id"].groupby(known["film_id"].to_numpy()).transform("nunique")
    facts = table.assign(
        label_fits_abnormality=((abnormality == "NORM") == normal).where(abnormality.notna()),
        normal_has_no_severity=known["severity"].isna().where(normal),
        synthetic_fits_source=known["synthetic"] == (known["source"] == "phantom"),
        film_has_one_patient=(patients <= 1).where(known["film_id"].notna() & known["patient_id"].notna()),
        sha256_fits_pixels=(known["sha256"] == pixel_hashes(images)).fillna(False),
    )
    unique, rows = gxe.ExpectColumnValuesToBeUnique, gxe.ExpectTableRowCountToBeBetween
    synthetic = "ROIs are synthetic if and only if they come from a phantom"
    rules = [
        _has_columns("columns", "the ROI table has every column of its schema", ROI_SCHEMA),
        _rule(rows, "rows", "there is at least one ROI", SOURCE, min_value=1),
        *(_present(column) for column in ("roi_id", "source", "label", "sha256", "synthetic")),
        _rule(unique, "roi_id_unique", "no two ROIs share an id", SOURCE, column="roi_id"),
        _known("label", *map(int, Label)),
        _known("abnormality", *records.ABNORMALITIES),
        _known("severity", *records.SEVERITIES),
        _known("tissue", *records.TISSUES),
        _known("published_split", *records.SPLITS),
        _holds("label_fits_abnormality", "NORM is labelled Normal and every lesion Tumor", SOURCE),
        _holds("normal_has_no_severity", "a Normal ROI has no severity", SOURCE),
        _holds("synthetic_fits_source", synthetic, REBUILD),
        _holds("film_has_one_patient", "all ROIs of a film belong to one patient", SOURCE),
        _holds("sha256_fits_pixels", "sha256 is that of the ROI's pixels", REBUILD),
    ]
    return {"rois": (facts, rules), "images": _of_images(table, images)}


def _of_images(table: pd.DataFrame, images: npt.NDArray[Any]) -> Checked:
    """One row for each image: its type, size, grey levels, and how many others have the same bytes."""
    known = table.reindex(columns=["roi_id", "label"])
    hashes = np.array(pixel_hashes(images), dtype=object)
    same_pixels = known["label"].groupby(hashes).transform("size")
    same_label = known["label"].groupby([hashes, known["label"].fillna(-1)]).transform("size")
    facts = pd.DataFrame(
        {
            "roi_id": known["roi_id"].to_numpy(),
            "dtype": str(images.dtype),
            "height_px": images.shape[1],
            "width_px": images.shape[2],
            "std_grey": images.std(axis=(1, 2)),
            "n_grey_levels": [len(np.unique(image)) for image in images],
            "n_copies": same_pixels.to_numpy() - 1,
            "n_copies_with_other_label": (same_pixels - same_label).to_numpy(),
        }
    )
    one_label, other = "equal pixels are never labelled both Normal and Tumor", "n_copies_with_other_label"
    right = "find out which label is right and remove the other ROI from the raw data"
    apart = "use split.protocol grouped_cv, which keeps copies together, or remove them from the raw data"
    poor: dict[str, Any] = {"severity": "warning", "min_value": 16}
    copies: dict[str, Any] = {"severity": "warning", "max_value": 0}
    varied, enough = "no image is of one grey value", "an image has 16 grey levels or more"
    return facts, [
        _known("dtype", "uint8", remedy=REBUILD),
        _known("height_px", ROI_SIDE_PX, remedy=REBUILD),
        _known("width_px", ROI_SIDE_PX, remedy=REBUILD),
        _between("image_not_constant", "std_grey", varied, SOURCE, min_value=0, strict_min=True),
        _between("image_has_grey_levels", "n_grey_levels", enough, SOURCE, **poor),
        _between("no_copies_with_other_label", other, one_label, right, max_value=0),
        _between("no_copies", "n_copies", "no two ROIs have equal pixels", apart, **copies),
    ]


def of_patches(patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame) -> Suites:
    """All patches of all parts (`PATCH_SCHEMA`), with what their ROI says of them, and the split."""
    joined = pd.concat([of_part.assign(part=part) for part, of_part in patches.items()], ignore_index=True)
    known = joined.reindex(columns=[*PATCH_SCHEMA, "part"])
    roi_label = known["roi_id"].map(rois.set_index("roi_id")["label"])
    roi_part = known["roi_id"].map(split.set_index("roi_id")["split"])
    inside = pd.Series(True, index=known.index)
    for corner in ("top_px", "left_px"):
        end = known[corner].astype("Int64") + known["size_px"].astype("Int64")
        inside &= ((known[corner] >= 0) & (end <= ROI_SIDE_PX)).fillna(False).astype(bool)
    facts = joined.assign(
        patch_roi_exists=roi_label.notna(),
        patch_label_fits_roi=(known["label"] == roi_label).where(roi_label.notna()),
        patch_inside_roi=inside,
        patch_in_its_part=(known["part"] == roi_part).where(roi_part.notna()),
    )
    side = f"a patch's side is {MIN_PATCH_PX} to {ROI_SIDE_PX} pixels"
    remedy = "correct patches.size_px, then run `dvc repro`"
    part = "a patch set holds only ROIs of its own part of the split"
    rules = [
        _has_columns("patch_columns", "a patch set has every column of its schema", PATCH_SCHEMA),
        _holds("patch_roi_exists", "every patch belongs to a ROI of the ROI table", SPLIT_AGAIN),
        _holds("patch_label_fits_roi", "a patch has the label of its ROI", SPLIT_AGAIN),
        _holds("patch_inside_roi", "a patch lies wholly inside its ROI", SPLIT_AGAIN),
        _between("patch_size", "size_px", side, remedy, min_value=MIN_PATCH_PX, max_value=ROI_SIDE_PX),
        _holds("patch_in_its_part", part, SPLIT_AGAIN),
    ]
    return {"patches": (facts, rules), "split": _of_split(patches, rois, split)}


def _of_split(patches: Mapping[str, pd.DataFrame], rois: pd.DataFrame, split: pd.DataFrame) -> Checked:
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
    patches_of, parts = "every ROI of the split has a patch", "no ROI has patches in two parts"
    patient = "no patient has ROIs in two parts, where patients are known"
    group = "no two parts share tissue (the published folders do)"
    one: dict[str, Any] = {"severity": "warning", "max_value": 1}
    return facts, [
        _known("split", *records.SPLITS, remedy=SPLIT_AGAIN),
        _present("split"),
        _between("roi_has_patches", "n_patches", patches_of, SPLIT_AGAIN, min_value=1),
        _between("roi_in_one_part", "n_patch_parts", parts, SPLIT_AGAIN, max_value=1),
        _between("patient_in_one_part", "n_patient_parts", patient, GROUPED, **one),
        _between("group_in_one_part", "n_group_parts", group, GROUPED, **one),
    ]


def of_leakage(audit: Audit, protocol: str) -> Suites:
    """What the parts of a split share.

    `protocol` is that of the split: what `published` is known to break is a warning there and never stops the pipeline.
    """
    leak: Severity = "warning" if protocol == "published" else "critical"
    return {"pairs": _of_pairs(audit, leak), "leaks": _of_leaks(audit, leak)}


def _of_pairs(audit: Audit, leak: Severity) -> Checked:
    """One row for each pair that the audit found; its `roi_id` names both ROIs."""
    pairs = audit.pairs
    group_of = audit.rois.table.set_index("roi_id")["group_id"]
    facts = pairs.assign(
        roi_id=pairs["a"] + " and " + pairs["b"],
        pair_rois_exist=pairs["a"].isin(group_of.index) & pairs["b"].isin(group_of.index),
        pair_in_one_group=(pairs["a"].map(group_of) == pairs["b"].map(group_of)).fillna(False).astype(bool),
        pair_in_one_part=(pairs["split_a"] == pairs["split_b"]).fillna(False).astype(bool),
        pair_is_no_copy=pairs["overlap_px"] < audit.rois.images[0].size,
    )
    copy = "no ROI is wholly shown by another (a copy, turned over, altered in grey)"
    return facts, [
        _holds("pair_rois_exist", "both ROIs of a pair are in the ROI table", AUDIT_AGAIN),
        _holds("pair_in_one_group", "two ROIs that share tissue are in one group", AUDIT_AGAIN),
        _holds("pair_in_one_part", "no pair of ROIs across parts shares tissue", GROUPED, leak),
        _holds("pair_is_no_copy", copy, GROUPED, "warning"),
    ]


def _of_leaks(audit: Audit, leak: Severity) -> Checked:
    """One row for each ROI: in how many other parts its tissue and its patient are."""
    table = audit.rois.table
    flagged = flagged_rois(audit.pairs, table).set_index("roi_id")
    facts = table[["roi_id", "film_id", "patient_id", "group_id", "split"]].copy()
    rules = []
    for what, text in {
        "tissue": "no other part shows the tissue of a ROI",
        "patient": "no other part has ROIs of the same patient, where patients are known",
    }.items():
        name, n_parts = f"n_parts_with_its_{what}", flagged[f"{what}_in"].str.count(r"\w+")
        facts[name] = facts["roi_id"].map(n_parts).fillna(0).astype(int)
        rules.append(_between(name, name, text, GROUPED, severity=leak, max_value=0))
    return facts, rules


def of_served(served: pd.DataFrame, bounds: Mapping[str, tuple[float, float]]) -> Suites:
    """The prediction log (`roi_id`, `in_domain`, a column for each bound), most of which lies as in a reference."""
    look = "look at the newest ROIs: another scanner, preparation or population?"
    often: dict[str, Any] = {"severity": "warning", "mostly": SERVED_SHARE}
    rules = []
    for column, (low, high) in bounds.items():
        text = f"{column} mostly lies between {low:g} and {high:g}"
        limits = {"min_value": low, "max_value": high}
        rules.append(_between(f"{column}_as_in_reference", column, text, look, **limits, **often))
    known = "most ROIs are like those of training"
    rules.append(_one_of("mostly_in_domain", "in_domain", [True], known, look, **often))
    return {"served": (served, rules)}
