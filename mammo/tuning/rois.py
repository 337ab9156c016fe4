"""The ROIs of train and val that a study may see, and the folds that judge its trials."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from mammo.core.config import Config, PatchesConfig
from mammo.core.files import Workspace
from mammo.core.provenance import fingerprint
from mammo.core.tune_config import GridConfig, TuneConfig
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from mammo.data.splits import Fold, development_rois, grouped_folds
from mammo.systems.fit import PatchData, patch_data

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoldRows:
    """Rows of the ROI table: who trains, who chooses the epoch, who is held out to judge."""

    train: Rows
    val: Rows
    held_out: Rows


@dataclass(frozen=True)
class TrialRois:
    """ROIs that settings may be chosen by, and their folds.

    Attributes:
        rois: those of train and val, without what a nested fold holds out.
        folds: stratified, no group in two parts; the same for every trial.
    """

    rois: Rois
    folds: tuple[FoldRows, ...]

    @property
    def mark(self) -> str:
        """A hash of pixels, labels and folds."""
        folds = [[rows.tolist() for rows in (fold.train, fold.val, fold.held_out)] for fold in self.folds]
        return fingerprint([list(self.rois.table["sha256"]), self.rois.labels.tolist(), folds])

    def part(
        self, rows: Rows, patches: PatchesConfig, device: torch.device, *, drawn: bool = False
    ) -> PatchData:
        """Some ROIs on the device: with their random patches, or with none where a grid alone looks at them."""
        rois = self.rois.only(self.rois.table["roi_id"].iloc[rows])
        table = drawn_patches(rois.table if drawn else rois.table.iloc[:0], patches)
        return patch_data(rois, table, device)


def nested_folds(rois: Rois, tune: TuneConfig) -> list[Fold]:
    """The folds that judge studies: the held-out ROIs of each are what its study must not see.

    Raises:
        DataError: there are fewer groups of a class than folds.
    """
    return grouped_folds(rois, _grid(tune.nested_folds, tune.seed + 1))


def _grid(n_folds: int, seed: int) -> GridConfig:
    return GridConfig(n_folds=n_folds, n_repeats=1, n_seeds=1, seed=seed)


def tuning_rois(workspace: Workspace, tune: TuneConfig) -> Rois:
    """The ROIs that a study may see: those of train and val, without `tune.held_out_fold`.

    Raises:
        DataError: the stages `ingest` and `split` have not run, or there are fewer groups of a class than folds.
    """
    rois = development_rois(workspace)
    if tune.held_out_fold is None:
        return rois
    return rois.only(
        (nested_folds(rois, tune)[tune.held_out_fold].rois.table["split"] != "test").to_numpy(dtype=bool)
    )


def read_trial_rois(workspace: Workspace, config: Config) -> TrialRois:
    """Read the ROIs that the study may see and cut them into folds.

    Raises:
        DataError: the stages `ingest` and `split` have not run, or there are fewer groups of a class than folds.
    """
    rois = tuning_rois(workspace, config.tune)
    grid = _grid(config.tune.n_folds, config.tune.seed)
    return TrialRois(rois, tuple(_rows_of(fold.rois.table) for fold in grouped_folds(rois, grid)))


def _rows_of(split: pd.DataFrame) -> FoldRows:
    return FoldRows(
        *(np.flatnonzero((split["split"] == part).to_numpy()) for part in ("train", "val", "test"))
    )
