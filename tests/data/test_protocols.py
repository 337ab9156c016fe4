"""Who is held out under which protocol."""

from pathlib import Path

import pandas as pd
import pytest

from mammo.core.config import GridConfig
from mammo.core.errors import DataError
from mammo.core.files import read_table
from mammo.data.splits import (
    Fold,
    Material,
    development_material,
    grouped_folds,
    has_published,
    published_folds,
    read_material,
    rois_of_known_groups,
)
from tests.studies.tiny_studies import tiny_material, tiny_space

GRID = GridConfig(n_folds=4, n_repeats=2)


def test_every_roi_is_held_out_once_in_each_repeat() -> None:
    material = tiny_material()
    folds = grouped_folds(material, GRID)
    assert [(fold.repeat, fold.fold) for fold in folds] == [(r, f) for r in range(2) for f in range(4)]
    for repeat in range(2):
        held_out = pd.concat(
            [fold.split[fold.split["split"] == "test"] for fold in folds if fold.repeat == repeat]
        )
        assert sorted(held_out["roi_id"]) == sorted(material.rois.table["roi_id"])


def test_no_group_is_on_both_sides_of_an_honest_fold() -> None:
    folds = grouped_folds(tiny_material(), GRID)
    assert rois_of_known_groups(folds) == []
    assert all(fold.split.groupby("group_id")["split"].nunique().max() == 1 for fold in folds)


def test_without_groups_some_tissue_is_on_both_sides_and_the_audit_flags_it() -> None:
    folds = grouped_folds(tiny_material(), GRID, keep_groups=False)
    assert rois_of_known_groups(folds)
    assert all(fold.split["group_id"].nunique() < len(fold.split) for fold in folds)


def test_flagged_are_held_out_rois_whose_group_trains_or_validates() -> None:
    split = pd.DataFrame(
        {
            "roi_id": ["a", "b", "c", "d", "e", "f"],
            "group_id": ["1", "1", "2", "3", "3", "4"],
            "split": ["train", "test", "test", "val", "test", "test"],
        }
    )
    assert rois_of_known_groups([Fold(0, 0, split)]) == ["b", "e"]


def test_the_published_folders_are_one_fold() -> None:
    material = tiny_material()
    (fold,) = published_folds(material)
    parts = fold.split.set_index("roi_id")["split"]
    folders = material.rois.table.set_index("roi_id")["published_split"]
    assert (parts == folders.loc[parts.index]).all()


def test_a_source_without_folders_has_no_published_protocol() -> None:
    material = tiny_material()
    table = material.rois.table.assign(published_split=pd.array([None] * 48, dtype="string"))
    nameless = Material(type(material.rois)(table, material.rois.images), material.groups)
    assert has_published(material)
    assert not has_published(nameless)
    with pytest.raises(DataError, match="published"):
        published_folds(nameless)


def test_development_holds_no_roi_of_the_test_part(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    parts = read_table(space.split).set_index("roi_id")["split"]
    material = development_material(space)
    assert sorted(material.rois.table["roi_id"]) == sorted(parts.index[parts != "test"])
    everything = read_material(space)
    assert all(material.group_of[r] == everything.group_of[r] for r in material.rois.table["roi_id"])
    row = everything.rois.table.index[everything.rois.table["roi_id"] == material.rois.table["roi_id"][5]][0]
    assert (material.rois.images[5] == everything.rois.images[row]).all()
