"""Which ROIs train, validate and are held out: the published folders, honest folds, folds for choosing settings."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo.config import GridConfig, SplitConfig
from mammo.data.sources import RoiSet, read_rois
from mammo.data.splits import all_splits, make_split
from mammo.layout import Workspace
from mammo.notices import data_name
from mammo.records import SPLITS
from mammo.storage import read_table


@dataclass(frozen=True)
class Fold:
    """One split (`SPLIT_SCHEMA`): its test part is held out, its validation part chooses."""

    repeat: int
    fold: int
    split: pd.DataFrame


@dataclass(frozen=True)
class Material:
    """The ROIs of a study and the group of each, as the audit found it."""

    rois: RoiSet
    groups: tuple[str, ...]

    @property
    def group_of(self) -> dict[str, str]:
        """ROI id → group."""
        return dict(zip(self.rois.table["roi_id"], self.groups, strict=True))

    def only(self, roi_ids: Iterable[str]) -> "Material":
        """Some of the ROIs, in their order."""
        kept = self.rois.table["roi_id"].isin(set(roi_ids)).to_numpy(dtype=bool)
        rois = RoiSet(self.rois.table[kept].reset_index(drop=True), self.rois.images[kept])
        return Material(rois, tuple(itertools.compress(self.groups, kept)))

    def describe(self) -> dict[str, Any]:
        """Source, counts and whether the ROIs are synthetic."""
        table = self.rois.table
        synthetic = bool(table["synthetic"].any())
        return {
            "name": f"{data_name(synthetic)} ROIs",
            "source": str(table["source"].iloc[0]),
            "synthetic": synthetic,
            "n_rois": len(table),
            "n_tumor": int((table["label"] == 1).sum()),
            "n_normal": int((table["label"] == 0).sum()),
            "n_groups": len(set(self.groups)),
        }


def read_material(space: Workspace) -> Material:
    """All ROIs of a workspace, with the groups that the stage `split` gave them.

    Raises:
        DataError: the stages `ingest` and `split` have not run.
    """
    rois = read_rois(space.rois)
    group_of = read_table(space.split).set_index("roi_id")["group_id"]
    return Material(rois, tuple(group_of.loc[rois.table["roi_id"]]))


def development_material(space: Workspace) -> Material:
    """The ROIs of train and val alone: what settings may be chosen by.

    Raises:
        DataError: the stages `ingest` and `split` have not run.
    """
    everything = read_material(space)
    split = read_table(space.split)
    return everything.only(split.loc[split["split"].isin(("train", "val")), "roi_id"])


def has_published(material: Material) -> bool:
    """Whether every ROI has a published folder."""
    return bool(material.rois.table["published_split"].isin(SPLITS).all())


def published_folds(material: Material) -> list[Fold]:
    """The published folders as a single fold.

    Raises:
        DataError: a ROI has no published folder.
    """
    config = SplitConfig(protocol="published")
    return [Fold(0, 0, make_split(material.rois.table, material.groups, config))]


def grouped_folds(material: Material, grid: GridConfig, keep_groups: bool = True) -> list[Fold]:
    """Every fold of every repeat: each ROI is held out once a repeat.

    Raises:
        DataError: there are fewer groups of a class than folds.
    """
    config = SplitConfig(
        protocol="grouped_cv",
        n_folds=grid.n_folds,
        n_repeats=grid.n_repeats,
        seed=grid.seed,
        keep_groups=keep_groups,
    )
    splits = all_splits(material.rois.table, material.groups, config)
    return [Fold(repeat, fold, split) for repeat, fold, split in splits]


def rois_of_known_groups(folds: Sequence[Fold]) -> list[str]:
    """Held-out ROIs of whose group some ROIs train or validate: their tissue is known to the system."""
    flagged: set[str] = set()
    for fold in folds:
        known = set(fold.split.loc[fold.split["split"] != "test", "group_id"])
        held_out = fold.split[fold.split["split"] == "test"]
        flagged |= set(held_out.loc[held_out["group_id"].isin(known), "roi_id"])
    return sorted(flagged)
