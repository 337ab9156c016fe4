"""The ROIs of train and val on the device, and the folds that judge a trial."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mammo.core.config import Config, GridConfig, PatchesConfig
from mammo.core.files import Workspace
from mammo.core.provenance import fingerprint
from mammo.core.tune_config import TuneConfig
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from mammo.data.splits import Fold, development_rois, grouped_folds
from mammo.systems.augment import PatchBatch
from mammo.systems.devices import choose_device
from mammo.systems.fit import PatchData

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoldRows:
    """Rows of the ROIs on the device: who trains, who chooses the epoch, who is held out to judge."""

    train: Rows
    val: Rows
    held_out: Rows


@dataclass(frozen=True)
class TrialRois:
    """ROIs that settings may be chosen by, and their folds.

    Attributes:
        table: rows of the ROI table of train and val, with `group_id`.
        images: uint8 `(N, 120, 120)` on the device; every patch of every trial is sampled from it.
        folds: stratified, no group in two parts; the same for every trial.
    """

    table: pd.DataFrame
    images: Tensor
    folds: tuple[FoldRows, ...]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """0 Normal, 1 Tumor: `(N,)`."""
        return self.table["label"].to_numpy(dtype=np.int64)

    @property
    def synthetic(self) -> bool:
        """Whether the ROIs are phantoms."""
        return bool(self.table["synthetic"].any())


def nested_folds(material: Rois, tune: TuneConfig) -> list[Fold]:
    """The folds that judge studies: the held-out ROIs of each are what its study must not see.

    Raises:
        DataError: there are fewer groups of a class than folds.
    """
    return grouped_folds(material, GridConfig(n_folds=tune.nested_folds, seed=tune.seed + 1))


def tuning_material(space: Workspace, tune: TuneConfig) -> Rois:
    """The ROIs that a study may see: those of train and val, without `tune.held_out_fold`.

    Raises:
        DataError: the stages `ingest` and `split` have not run, or there are fewer groups of a class than folds.
    """
    material = development_rois(space)
    if tune.held_out_fold is None:
        return material
    split = nested_folds(material, tune)[tune.held_out_fold].rois.table
    return material.only(split.loc[split["split"] != "test", "roi_id"])


def read_trial_rois(space: Workspace, config: Config, device: torch.device | None = None) -> TrialRois:
    """Read the ROIs that the study may see and cut them into folds.

    Args:
        space: the workspace.
        config: its settings.
        device: where the images lie; None: on the device of the fits.

    Raises:
        DataError: the stages `ingest` and `split` have not run, or there are fewer groups of a class than folds.
        ConfigError: the device does not exist.
    """
    material = tuning_material(space, config.tune)
    grid = GridConfig(n_folds=config.tune.n_folds, seed=config.tune.seed)
    images = torch.from_numpy(np.ascontiguousarray(material.images))
    return TrialRois(
        material.table,
        images.to(device or choose_device(config.train.device)),
        tuple(_rows_of(fold.rois.table) for fold in grouped_folds(material, grid)),
    )


def _rows_of(split: pd.DataFrame) -> FoldRows:
    return FoldRows(
        *(np.flatnonzero((split["split"] == part).to_numpy()) for part in ("train", "val", "test"))
    )


def material_mark(material: TrialRois) -> str:
    """A hash of pixels, labels and folds."""
    folds = [[rows.tolist() for rows in (fold.train, fold.val, fold.held_out)] for fold in material.folds]
    return fingerprint([list(material.table["sha256"]), material.labels.tolist(), folds])


def training_data(material: TrialRois, rows: Rows, patches: PatchesConfig) -> PatchData:
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


def judging_data(material: TrialRois, rows: Rows) -> PatchData:
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
