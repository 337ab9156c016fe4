"""The ROIs of train and val on the device, and the folds that judge a trial."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mammo.augment import PatchBatch
from mammo.config import Config, PatchesConfig, SplitConfig
from mammo.data.sources import read_rois
from mammo.data.splits import all_splits
from mammo.devices import choose_device
from mammo.layout import Workspace
from mammo.patches import drawn_patches
from mammo.provenance import fingerprint
from mammo.storage import read_table
from mammo.training import PatchData

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows of the material: who trains, who chooses the epoch, who is held out to judge."""

    train: Rows
    val: Rows
    held_out: Rows


@dataclass(frozen=True)
class Material:
    """ROIs that settings may be chosen by, and their folds.

    Attributes:
        table: rows of the ROI table of train and val, with `group_id`.
        images: uint8 `(N, 120, 120)` on the device; every patch of every trial is sampled from it.
        folds: stratified, no group in two parts.
    """

    table: pd.DataFrame
    images: Tensor
    folds: tuple[Fold, ...]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """0 Normal, 1 Tumor: `(N,)`."""
        return self.table["label"].to_numpy(dtype=np.int64)

    @property
    def synthetic(self) -> bool:
        """Whether the ROIs are phantoms."""
        return bool(self.table["synthetic"].any())


def read_material(space: Workspace, config: Config) -> Material:
    """Read the ROIs of train and val and cut them into folds.

    Raises:
        DataError: the stages `ingest` and `split` have not run, or there are fewer groups of a class than folds.
        ConfigError: the device does not exist.
    """
    rois = read_rois(space.rois)
    joined = rois.table.merge(read_table(space.split), on="roi_id", how="left", validate="one_to_one")
    kept = joined["split"].isin(("train", "val")).to_numpy(dtype=bool)
    table = joined[kept].reset_index(drop=True)
    images = torch.from_numpy(np.ascontiguousarray(rois.images[kept]))
    return Material(table, images.to(choose_device(config.train.device)), make_folds(table, config))


def make_folds(table: pd.DataFrame, config: Config) -> tuple[Fold, ...]:
    """The folds of a table with `roi_id`, `label` and `group_id`; the same for every trial.

    Raises:
        DataError: there are fewer groups of a class than folds.
    """
    plan = SplitConfig(protocol="grouped_cv", n_folds=config.tune.n_folds, seed=config.tune.seed)
    splits = all_splits(table.drop(columns="split"), list(table["group_id"]), plan)
    return tuple(
        Fold(*(np.flatnonzero((split["split"] == part).to_numpy()) for part in ("train", "val", "test")))
        for _, _, split in splits
    )


def material_mark(material: Material) -> str:
    """A hash of pixels, labels and folds."""
    folds = [[rows.tolist() for rows in (fold.train, fold.val, fold.held_out)] for fold in material.folds]
    return fingerprint([list(material.table["sha256"]), material.labels.tolist(), folds])


def training_data(material: Material, rows: Rows, patches: PatchesConfig) -> PatchData:
    """Random patches of some ROIs: an index over the images that already lie on the device."""
    rois = material.table.iloc[rows]
    table = drawn_patches(rois, patches)
    row_of = pd.Series(rows, index=rois["roi_id"].to_numpy(dtype=object))
    roi = row_of.loc[table["roi_id"].to_numpy(dtype=object)].to_numpy()
    device = material.images.device

    def on_device(values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    corners = [table[name].to_numpy() for name in ("top_px", "left_px", "size_px")]
    return PatchData(
        images=material.images,
        roi_labels=on_device(material.labels),
        patches=PatchBatch(*(on_device(values) for values in (roi, *corners))),
        labels=on_device(table["label"].to_numpy()),
    )


def judging_data(material: Material, rows: Rows) -> PatchData:
    """Some ROIs without random patches: they are looked at on the voting grid alone."""
    device = material.images.device
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    where = torch.from_numpy(rows).to(device)
    return PatchData(
        images=material.images[where],
        roi_labels=torch.from_numpy(material.labels[rows]).to(device),
        patches=PatchBatch(nothing, nothing, nothing, nothing),
        labels=nothing,
    )
