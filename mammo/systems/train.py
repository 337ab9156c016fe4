"""One network trained on the training part, and what its fit depends on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from mammo.core.config import Config
from mammo.core.files import HERE, Workspace, sha256_of
from mammo.core.processes import StepObserver
from mammo.core.provenance import code_mark, fingerprint
from mammo.data.patches import grid_patches
from mammo.data.rois import Rois
from mammo.models.build import Classifier, build_classifier
from mammo.systems.devices import choose_device, computes_bfloat16, cpu_threads, hardware
from mammo.systems.features import keep_features
from mammo.systems.fit import EpochRecord, fit
from mammo.systems.inputs import FitData, FitSettings, frozen_data, patch_data
from mammo.systems.score import FloatArray, grid_scores, tumor_scores


@dataclass(frozen=True)
class Trained:
    """What training a network gave: it, at the epoch that validation chose, that epoch's results, and all epochs."""

    classifier: Classifier
    results: dict[str, float]
    history: pd.DataFrame


def train_network(
    system: str,
    config: Config,
    train: Rois,
    val: Rois,
    patch_sets: dict[str, pd.DataFrame],
    seed: int,
    checkpoint: Path | None = None,
    workspace: Workspace = HERE,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
) -> Trained:
    """One network, such as `compact-model2`, trained on `train`, with the patch sets of the parts' names.

    `seed` is that of initial weights, order, draws and dropout; the others are as in `fit`. In the workspace lie HED's
    weights and the features of frozen backbones.
    """
    classifier = build_classifier(system, config.model, seed, workspace)
    settings = fit_settings(config, seed)
    parts = ((train, patch_sets["train"], True), (val, patch_sets["val"], False))
    mark = run_fingerprint(system, config, seed, train, val, patch_sets)
    with cpu_threads(config.train.threads):
        data, judged = (
            fit_data(part, table, classifier, config, workspace, to_train=to_train) for part, table, to_train in parts
        )
        history = fit(classifier, data, judged, config.recipe, settings, checkpoint, mark, on_epoch, on_step)
    best = min(history, key=lambda record: record.val_loss)
    results = {
        "epoch": best.epoch,
        "n_epochs": len(history),
        "val_loss": best.val_loss,
        "val_auc": best.val_auc,
    }
    return Trained(classifier, results, pd.DataFrame([vars(record) for record in history]))


def fit_settings(config: Config, seed: int = 0) -> FitSettings:
    """The grid, precision and seed of a fit."""
    grid = config.patches
    return FitSettings(grid.size_px, grid.stride_px, seed, config.train.precision, grid.corner_patches)


def fit_data(
    rois: Rois,
    patches: pd.DataFrame,
    classifier: Classifier,
    config: Config,
    workspace: Workspace,
    *,
    to_train: bool,
) -> FitData:
    """ROIs as a fit of this classifier sees them: their pixels, or the kept features of a frozen backbone.

    Kept are all views of those that are `to_train` on, and the others as they are.
    """
    device = choose_device(config.train.device)
    if config.train.features == "kept":
        system = classifier.architecture.system
        kept = keep_features(system, config, rois.images, workspace, classifier, to_train=to_train)
        return frozen_data(rois, patches, kept, device)
    if config.model.road == "dense":  # a window has the scale of the others
        patches = patches[patches["size_px"] == config.patches.size_px]
    return patch_data(rois, patches, device)


FIT_CODE: Final = (
    "core/records.py",
    "data/patches.py",
    "evaluation/metrics.py",
    "models/backbones.py",
    "models/build.py",
    "models/fusion.py",
    "models/pooling.py",
    "studies/fits.py",
    "systems/augment.py",
    "systems/devices.py",
    "systems/features.py",
    "systems/fit.py",
    "systems/inputs.py",
    "systems/score.py",
    "systems/train.py",
)
"""What of the package computes a fit; settings, ROIs and splits count by their values."""


def computed_with(config: Config) -> dict[str, Any]:
    """What a fit depends on beside its settings and its data: device, library, pretrained weights, code."""
    device, weights = choose_device(config.train.device), Path(config.model.weights)
    return {
        "device": [device.type, hardware(device)],
        "precision": [config.train.precision, computes_bfloat16(device)],
        "torch": torch.__version__,
        "weights": sha256_of(weights) if weights.is_file() else None,
        "code": code_mark(FIT_CODE),
    }


def run_fingerprint(
    system: str, config: Config, seed: int, train: Rois, val: Rois, patch_sets: dict[str, pd.DataFrame]
) -> str:
    """A hash of all that a fit depends on; a checkpoint of another fingerprint is not resumed."""
    pixels = hashlib.sha256()
    for part in (train, val):
        pixels.update(part.images.tobytes())
        pixels.update(part.labels.tobytes())
    for table in patch_sets.values():
        pixels.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    how = [config.train.threads, config.train.features]
    settings = [config.recipe.model_dump(), config.model.model_dump(), how]
    grid = [config.patches.size_px, config.patches.stride_px, config.patches.corner_patches]
    return fingerprint([system, seed, settings, grid, pixels.hexdigest(), computed_with(config)])


def patch_scores(classifier: Classifier, part: Rois, config: Config, workspace: Workspace) -> FloatArray:
    """Probability of Tumor of each grid patch of a part, `(n, n_patches)`: by the road of serving, or by kept features
    where one view votes."""
    device = choose_device(config.train.device)
    classifier.to(device).to(memory_format=torch.channels_last).eval()
    if config.train.features == "fresh" or config.vote.views > 1:
        images = torch.from_numpy(np.ascontiguousarray(part.images)).to(device)
        return grid_scores(classifier, images, config.patches, config.train.precision, config.vote.views)
    none = grid_patches(part.table.iloc[:0], config.patches)
    data = fit_data(part, none, classifier, config, workspace, to_train=False)
    return tumor_scores(data.grid_logits(classifier, fit_settings(config)))
