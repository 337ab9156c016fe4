"""Splits: properties that hold for any table and any groups, and who is held out under which protocol."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo.core.config import SplitConfig
from mammo.core.errors import DataError
from mammo.core.records import SPLIT_SCHEMA, SPLITS
from mammo.core.tune_config import GridConfig
from mammo.data.rois import Rois
from mammo.data.splits import (
    Fold,
    grouped_folds,
    has_published,
    make_split,
    published_folds,
    rois_of_known_groups,
)
from tests.settings import section
from tests.studies.tiny_studies import tiny_rois

GRID = GridConfig(n_folds=4, n_repeats=2, n_seeds=1, seed=0)


def rois(labels: Sequence[int], published: Sequence[str | None] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "roi_id": pd.array([f"r{row:03}" for row in range(len(labels))], dtype="string"),
            "patient_id": pd.array([None] * len(labels), dtype="string"),
            "label": np.array(labels, dtype=np.int8),
            "published_split": pd.array(published or [None] * len(labels), dtype="string"),
        }
    )


def grouped(n_folds: int = 5, **settings: Any) -> SplitConfig:
    return section(SplitConfig, protocol="grouped_cv", n_folds=n_folds, **settings)


@st.composite
def tables_with_groups(draw: st.DrawFn) -> tuple[pd.DataFrame, list[str]]:
    """40 to 90 groups of one to three ROIs; a group's ROIs share a class or not."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=40, max_size=90))
    groups = [f"g{group:02}" for group, size in enumerate(sizes) for _ in range(size)]
    mixed = draw(st.booleans())
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    of_group = rng.permutation(np.arange(len(sizes)) % 3 == 0).astype(int)
    labels = [int(of_group[int(group[1:])]) for group in groups]
    if mixed:
        labels = [label if rng.random() < 0.9 else 1 - label for label in labels]
    return rois(labels), groups


@settings(max_examples=30, deadline=None)
@given(drawn=tables_with_groups(), seed=st.integers(0, 1000), repeat=st.integers(0, 2))
def test_grouped_parts_are_a_partition_that_separates_groups_and_keeps_the_classes(
    drawn: tuple[pd.DataFrame, list[str]], seed: int, repeat: int
) -> None:
    table, groups = drawn
    config = grouped(seed=seed, n_repeats=3, repeat=repeat)
    split = make_split(table, groups, config)
    assert dict(split.dtypes.astype(str)) == SPLIT_SCHEMA
    assert split["roi_id"].tolist() == table["roi_id"].tolist()
    assert split["group_id"].tolist() == groups
    assert set(split["split"]) == {"train", "val", "test"}
    assert len(split[["group_id", "split"]].drop_duplicates()) == len(set(groups))
    share = table["label"].mean()
    for part in SPLITS:
        rows = table[split["split"] == part]
        assert abs(rows["label"].mean() - share) < 0.15, part
        assert abs(len(rows) / len(table) - (0.6 if part == "train" else 0.2)) < 0.1, part


@settings(max_examples=15, deadline=None)
@given(drawn=tables_with_groups(), seed=st.integers(0, 1000))
def test_the_part_of_a_roi_does_not_depend_on_the_order_of_the_rows(
    drawn: tuple[pd.DataFrame, list[str]], seed: int
) -> None:
    table, groups = drawn
    order = np.random.default_rng(seed).permutation(len(table))
    shuffled = make_split(table.iloc[order], [groups[row] for row in order], grouped(seed=seed))
    straight = make_split(table, groups, grouped(seed=seed))
    pd.testing.assert_frame_equal(shuffled.sort_values("roi_id", ignore_index=True), straight)


def test_in_each_repeat_every_roi_is_tested_once_and_validated_in_the_fold_before() -> None:
    folds = grouped_folds(tiny_rois(), GRID)
    assert [(fold.repeat, fold.fold) for fold in folds] == [(r, f) for r in range(2) for f in range(4)]
    for repeat in range(2):
        parts = np.array([fold.rois.table["split"] for fold in folds if fold.repeat == repeat])
        assert ((parts == "test").sum(axis=0) == 1).all()
        for fold in range(4):
            assert ((parts[fold] == "val") == (parts[(fold + 1) % 4] == "test")).all()


def test_repeats_and_seeds_shuffle_anew_and_the_same_seed_repeats_itself() -> None:
    table, groups = rois([row % 2 for row in range(60)]), [f"g{row:03}" for row in range(60)]
    first = make_split(table, groups, grouped(n_repeats=2))
    assert first.equals(make_split(table, groups, grouped(n_repeats=2)))
    assert not first.equals(make_split(table, groups, grouped(n_repeats=2, repeat=1)))
    assert not first.equals(make_split(table, groups, grouped(n_repeats=2, seed=1)))


def test_fewer_groups_of_a_class_than_folds_are_refused() -> None:
    table = rois([0] * 10 + [1] * 10)
    groups = [f"n{row}" for row in range(10)] + [f"t{row % 4}" for row in range(10)]
    with pytest.raises(DataError, match=r"Tumor has 4 for split.n_folds 5; lower n_folds"):
        make_split(table, groups, grouped())


def test_groups_so_unequal_that_a_part_lacks_a_class_are_refused() -> None:
    table = rois([0, 1] * 40 + [0, 0, 1, 1])
    groups = ["all"] * 80 + ["n1", "n2", "t1", "t2"]
    with pytest.raises(DataError, match=r"would hold no (Normal|Tumor) ROI"):
        [make_split(table, groups, grouped(n_folds=3, fold=fold)) for fold in range(3)]


def test_published_repeats_the_folders_whatever_the_groups_and_needs_one_for_every_roi() -> None:
    groups, config = ["a", "a", "a", "b"], section(SplitConfig)
    split = make_split(rois([0, 1, 0, 1], ["train", "val", "test", "train"]), groups, config)
    assert split["split"].tolist() == ["train", "val", "test", "train"]
    assert split["group_id"].tolist() == groups
    for unknown in (None, "trainval"):
        table = rois([0, 1], ["train", unknown])
        with pytest.raises(DataError, match=r"1 have none, for example 'r001'; use split.protocol grouped_cv"):
            make_split(table, ["a", "b"], config)


def test_without_groups_the_rois_of_a_group_are_spread_and_the_others_stay() -> None:
    table = rois([0, 1] * 30)
    groups = [f"g{row // 2:02}" if row < 20 else f"s{row}" for row in range(60)]
    kept, spread = (make_split(table, groups, grouped(keep_groups=keep)) for keep in (True, False))
    assert spread["group_id"].tolist() == groups
    alone = kept["group_id"].map(kept["group_id"].value_counts()) == 1
    first = ~kept["group_id"].duplicated()
    assert (kept["split"] == spread["split"])[alone | first].all()
    folds = [make_split(table, groups, grouped(keep_groups=False, fold=fold)) for fold in range(5)]
    held_out = pd.concat([split.assign(fold=f)[split["split"] == "test"] for f, split in enumerate(folds)])
    assert sorted(held_out["roi_id"]) == sorted(table["roi_id"])
    n_folds, n_rois = (held_out.groupby("group_id")["fold"].agg(how) for how in ("nunique", "size"))
    assert n_folds.equals(n_rois)


def test_no_group_is_on_both_sides_of_a_fold_unless_groups_are_not_kept() -> None:
    folds = grouped_folds(tiny_rois(), GRID)
    assert rois_of_known_groups(folds) == []
    assert all(fold.rois.table.groupby("group_id")["split"].nunique().max() == 1 for fold in folds)
    leaky = grouped_folds(tiny_rois(), GRID, keep_groups=False)
    assert rois_of_known_groups(leaky)
    assert all(fold.rois.table["group_id"].nunique() < len(fold.rois.table) for fold in leaky)


def test_flagged_are_held_out_rois_whose_group_trains_or_validates() -> None:
    split = pd.DataFrame(
        {
            "roi_id": ["a", "b", "c", "d", "e", "f"],
            "group_id": ["1", "1", "2", "3", "3", "4"],
            "split": ["train", "test", "test", "val", "test", "test"],
        }
    )
    assert rois_of_known_groups([Fold(0, 0, Rois(split, np.zeros((6, 120, 120), np.uint8)))]) == ["b", "e"]


def test_the_published_folders_are_one_fold_and_a_source_without_them_has_none() -> None:
    rois = tiny_rois()
    (fold,) = published_folds(rois)
    assert (fold.rois.table["split"] == fold.rois.table["published_split"]).all()
    table = rois.table.assign(published_split=pd.array([None] * 48, dtype="string"))
    nameless = Rois(table, rois.images)
    assert has_published(rois)
    assert not has_published(nameless)
    with pytest.raises(DataError, match="published"):
        published_folds(nameless)
