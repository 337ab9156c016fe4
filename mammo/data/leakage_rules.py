"""What is expected of a split by the leakage audit: the rules, and the facts they speak about."""

from dataclasses import replace
from typing import Final

import pandas as pd

from mammo.data.audit import Audit, flagged_rois, parts_of
from mammo.data.rules import Rule

GROUPED: Final = "use split.protocol grouped_cv, then run `dvc repro`"
AUDIT_AGAIN: Final = "run `dvc repro --force audit split leakage`"


def _none(name: str, text: str, remedy: str) -> Rule:
    """A rule whose facts are a column of its name that counts what must not be."""
    return Rule(name, "ExpectColumnValuesToBeBetween", text, remedy, {"column": name, "max_value": 0})


def _true(name: str, text: str, remedy: str) -> Rule:
    """A rule whose facts are a column of its name, true where it is kept."""
    return Rule(name, "ExpectColumnValuesToBeInSet", text, remedy, {"column": name, "value_set": [True]})


_PAIR_RULES: Final = (
    _true("pair_rois_exist", "both ROIs of a pair are in the ROI table", AUDIT_AGAIN),
    _true("pair_in_one_group", "two ROIs that share tissue are in one group", AUDIT_AGAIN),
    _true("pair_in_one_part", "no pair of ROIs across parts shares tissue", GROUPED),
    replace(
        _true(
            "pair_is_no_copy",
            "no ROI is wholly shown by another (a copy, turned over, altered in grey)",
            GROUPED,
        ),
        severity="warning",
    ),
)

_ROI_RULES: Final = (
    _none("n_parts_with_its_tissue", "no other part shows the tissue of a ROI", GROUPED),
    _none(
        "n_parts_with_its_patient",
        "no other part has ROIs of the same patient, where patients are known",
        GROUPED,
    ),
)

_UNKEPT_BY_PUBLISHED: Final = frozenset(
    {"pair_in_one_part", "n_parts_with_its_tissue", "n_parts_with_its_patient"}
)
"""What the authors' folders are known to break; there it is a warning and never stops the pipeline."""

YES_NO: Final = frozenset(rule.name for rule in _PAIR_RULES)


def leakage_rules(protocol: str) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules about pairs and those about ROIs; leaks are critical unless the split is the published one."""

    def of_protocol(rule: Rule) -> Rule:
        known = protocol == "published" and rule.name in _UNKEPT_BY_PUBLISHED
        return replace(rule, severity="warning") if known else rule

    return tuple(map(of_protocol, _PAIR_RULES)), tuple(map(of_protocol, _ROI_RULES))


def pair_facts(audit: Audit) -> pd.DataFrame:
    """One row for each pair; its `roi_id` names both ROIs."""
    pairs = audit.pairs
    group_of = audit.split.set_index("roi_id")["group_id"]
    known = set(audit.rois.table["roi_id"])
    side_px = audit.rois.images.shape[1] * audit.rois.images.shape[2]
    return pairs.assign(
        roi_id=pairs["a"] + " and " + pairs["b"],
        pair_rois_exist=pairs["a"].isin(known) & pairs["b"].isin(known),
        pair_in_one_group=(pairs["a"].map(group_of) == pairs["b"].map(group_of)).fillna(False).astype(bool),
        pair_in_one_part=(pairs["split_a"] == pairs["split_b"]).fillna(False).astype(bool),
        pair_is_no_copy=pairs["overlap_px"] < side_px,
    )


def leak_facts(audit: Audit) -> pd.DataFrame:
    """One row for each ROI: in how many other parts its tissue and its patient are."""
    table = audit.rois.table
    flagged = flagged_rois(audit.pairs, table, parts_of(audit.split)).set_index("roi_id")
    facts = table[["roi_id", "film_id", "patient_id"]].merge(audit.split, on="roi_id", how="left")
    for what in ("tissue", "patient"):
        listed = flagged[f"{what}_in"].to_dict()
        facts[f"n_parts_with_its_{what}"] = [_n_parts(listed.get(roi_id, "")) for roi_id in facts["roi_id"]]
    return facts


def _n_parts(listed: str) -> int:
    return len(listed.split(", ")) if listed else 0
