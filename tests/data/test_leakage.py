"""Groups, what the parts of a split share, and what is expected of it: counted by hand on small tables."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.core.errors import DataError, ExpectationError
from mammo.core.records import ROI_SCHEMA, SPLIT_SCHEMA
from mammo.data.audit import (
    AUDIT_SCHEMA,
    Audit,
    flagged_rois,
    group_ids,
    leakage_summary,
    pairs_table,
    with_parts,
)
from mammo.data.audit_search import Kind, Overlap
from mammo.data.expectations import check
from mammo.data.rois import Rois
from mammo.data.rules import of_leakage


def pair(a: str, b: str, kind: Kind = "shifted", overlap_px: int = 13_572) -> Overlap:
    return Overlap(a, b, kind, 3, -4, 1.0, 1.0, overlap_px, 0.0, 1.0)


def rois(**columns: Sequence[str | None]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    rows = {"label": [0] * n, "synthetic": [False] * n, **columns}
    return pd.DataFrame(rows, columns=list(ROI_SCHEMA)).astype(ROI_SCHEMA)


def split(**parts: str) -> pd.DataFrame:
    rows = {"roi_id": list(parts), "patient_id": None, "group_id": "g", "split": list(parts.values())}
    return pd.DataFrame(rows).astype(SPLIT_SCHEMA)


SOUND = split(a="train", b="train", c="train", d="val", e="test")


def audit(table: pd.DataFrame, overlaps: list[Overlap], of_split: pd.DataFrame) -> Audit:
    images = np.zeros((len(table), 120, 120), np.uint8)
    placed = Rois(table, images).with_split(of_split.assign(patient_id=table["patient_id"]))
    return Audit(placed, with_parts(pairs_table(overlaps), placed.table))


def groups(ids: Sequence[str], overlaps: list[Overlap], patients: Sequence[str | None] = ()) -> list[str]:
    return group_ids(rois(roi_id=ids, patient_id=patients or [None] * len(ids)), pairs_table(overlaps))


def test_groups_join_overlaps_and_patients_through_others_but_not_unknown_patients() -> None:
    patients = ["p1", None, None, "p1", "p2", None]
    found = groups(["d", "c", "b", "a", "e", "f"], [pair("d", "c"), pair("f", "c")], patients)
    assert found == ["a", "a", "b", "a", "e", "a"]


@given(
    links=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12),
    order=st.permutations(range(10)),
)
def test_groups_are_the_reachable_sets_whatever_the_order(links: list[tuple[int, int]], order: list[int]) -> None:
    reach = {row: {row} for row in range(10)}
    for _ in range(10):
        for a, b in links:
            joined = reach[a] | reach[b]
            for member in joined:
                reach[member] = reach[member] | joined
    found = groups([f"r{row}" for row in order], [pair(f"r{a}", f"r{b}") for a, b in links])
    assert found == [f"r{min(reach[row])}" for row in order]


def test_overlaps_of_a_roi_that_the_table_lacks_are_refused() -> None:
    with pytest.raises(DataError, match="for example \\['z'\\]"):
        groups(["a", "b"], [pair("a", "z")])
    with pytest.raises(DataError, match=r"for example \['z'\].*audit again"):
        leakage_summary(with_parts(pairs_table([pair("a", "z")]), PLACED), PLACED)


TABLE = rois(
    roi_id=["a", "b", "c", "d", "e"],
    published_split=["train", "train", "test", "val", "test"],
    patient_id=["p", "p", "p", "q", None],
    film_id=["f1", "f1", "f2", "f3", None],
)
PLACED = TABLE.assign(split=TABLE["published_split"])
PAIRS = [pair("a", "b"), pair("b", "c"), pair("d", "c")]


def test_the_summary_counts_what_the_parts_share() -> None:
    assert leakage_summary(with_parts(pairs_table(PAIRS), PLACED), PLACED) == {
        "n_rois": 5,
        "n_test_rois": 2,
        "n_pairs": 3,
        "pairs_by_kind": {"shifted": 3},
        "pairs_by_parts": {"test-train": 1, "test-val": 1, "train-train": 1},
        "n_pairs_across_parts": 2,
        "n_leaked_test_rois": 1,
        "shared_patients": 1,
        "shared_films": 0,
        "n_test_rois_of_shared_patients": 1,
    }


def test_what_the_source_does_not_know_is_not_counted_as_zero() -> None:
    table = rois(roi_id=["a", "b"]).assign(split=["train", "test"])
    summary = leakage_summary(with_parts(pairs_table([]), table), table)
    unknown = ("shared_patients", "shared_films", "n_test_rois_of_shared_patients")
    assert [summary[name] for name in unknown] == [None, None, None]


def test_flagged_rois_name_the_other_parts_that_know_their_tissue_or_patient() -> None:
    flagged = flagged_rois(with_parts(pairs_table(PAIRS), PLACED), PLACED)
    assert flagged[["roi_id", "split", "tissue_in", "patient_in"]].to_numpy().tolist() == [
        ["a", "train", "", "test"],
        ["b", "train", "test", "test"],
        ["c", "test", "train, val", "train"],
        ["d", "val", "test", ""],
    ]


def test_pairs_carry_the_parts_of_their_rois() -> None:
    placed = with_parts(pairs_table([pair("x", "y")]), split(y="val", x="test"))
    assert dict(placed.dtypes.astype(str)) == AUDIT_SCHEMA
    assert placed[["split_a", "split_b"]].to_numpy().tolist() == [["test", "val"]]


def test_leaks_of_the_published_split_are_warnings_and_leaks_of_groups_stop_the_pipeline(
    tmp_path: Path,
) -> None:
    parts = split(a="train", b="train", c="test", d="val", e="test")
    leaky = audit(TABLE, PAIRS, parts)
    summary = check(of_leakage(leaky, "published"), tmp_path / "docs")
    broken = {name: entry for name, entry in summary["expectations"].items() if not entry["kept"]}
    assert set(broken) == {"pair_in_one_part", "n_parts_with_its_tissue", "n_parts_with_its_patient"}
    assert {entry["severity"] for entry in broken.values()} == {"warning"}
    assert broken["pair_in_one_part"]["examples"] == ["b and c", "d and c"]
    assert (tmp_path / "docs" / "index.html").is_file()
    with pytest.raises(ExpectationError) as error:
        check(of_leakage(leaky, "grouped_cv"), tmp_path / "docs")
    assert [line.split()[1] for line in str(error.value).splitlines()[:-1]] == list(broken)


@pytest.mark.parametrize(
    ("overlaps", "warnings"),
    [([], []), ([pair("a", "c")], []), ([pair("a", "b", "mirrored", 120 * 120)], ["pair_is_no_copy"])],
)
def test_a_split_without_leaks_passes_and_a_copy_in_one_part_is_a_warning(
    tmp_path: Path, overlaps: list[Overlap], warnings: list[str]
) -> None:
    summary = check(of_leakage(audit(TABLE, overlaps, SOUND), "grouped_cv"), tmp_path / "docs")
    assert [name for name, entry in summary["expectations"].items() if not entry["kept"]] == warnings


def test_pairs_in_two_groups_or_of_unknown_rois_stop_the_pipeline(tmp_path: Path) -> None:
    parts = SOUND.assign(group_id=["g", "h", "g", "g", "g"])
    with pytest.raises(ExpectationError, match="pair_rois_exist failed") as error:
        check(of_leakage(audit(TABLE, [pair("a", "b"), pair("a", "z")], parts), "published"), tmp_path / "docs")
    assert "pair_in_one_group failed" in str(error.value)
