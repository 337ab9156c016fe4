"""One named system from tables to a bundle, and from a bundle to scored ROIs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from mammo.core.config import Config
from mammo.core.files import HERE, Workspace, sha256_of
from mammo.core.processes import StepObserver
from mammo.core.provenance import code_mark, fingerprint
from mammo.core.records import Label
from mammo.core.systems import has_floor
from mammo.data.patches import grid_patches
from mammo.data.rois import Rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.domain import fit_domain
from mammo.evaluation.metrics import auc
from mammo.evaluation.scores import Scores
from mammo.evaluation.stacking import fit_stack
from mammo.evaluation.voting import fitted, voted
from mammo.models.build import Classifier, build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.devices import choose_device, computes_bfloat16, cpu_threads, hardware, precision_on
from mammo.systems.features import keep_features
from mammo.systems.fit import EpochRecord, fit
from mammo.systems.inputs import FitData, FitSettings, frozen_data, patch_data
from mammo.systems.score import FloatArray, RoiScorer, grid_scores, tumor_scores


@dataclass(frozen=True)
class Trained:
    """What training a system gave."""

    bundle: Bundle
    history: pd.DataFrame


def train_system(
    system: str,
    config: Config,
    train: Rois,
    val: Rois,
    patch_sets: dict[str, pd.DataFrame],
    seed: int | None = None,
    checkpoint: Path | None = None,
    workspace: Workspace = HERE,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
) -> Trained:
    """One system, such as `compact-model2`, trained on `train`; `val` chooses the epoch. It cannot decide yet.

    Args:
        system, config: its name, and all settings.
        train, val: the parts, with `patch_sets` of these names.
        seed: instead of `config.train.seed`.
        checkpoint: where to keep the state of an unfinished fit.
        workspace: where the features of frozen backbones are kept.
        on_epoch, on_step: as in `fit`.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ConfigError: the device does not exist, or training diverged.
    """
    device = choose_device(config.train.device)
    seed = config.train.seed if seed is None else seed
    classifier = build_classifier(system, config.model, seed)
    grid, settings = config.patches, fit_settings(config, seed)
    parts = ((train, patch_sets["train"]), (val, patch_sets["val"]))
    mark = run_fingerprint(system, config, seed, train, val, patch_sets)
    with cpu_threads(config.train.threads):
        data, judged = (fit_data(part, table, classifier, config, workspace) for part, table in parts)
        history = fit(classifier, data, judged, config.recipe, settings, checkpoint, mark, on_epoch, on_step)
    best = min(history, key=lambda record: record.val_loss)
    bundle = Bundle(
        classifier=classifier,
        size_px=grid.size_px,
        stride_px=grid.stride_px,
        vote=config.vote,
        domain=fit_domain(train.images).with_false_alarms(val.images),
        results={
            "epoch": best.epoch,
            "n_epochs": len(history),
            "val_loss": best.val_loss,
            "val_auc": best.val_auc,
            "n_rois_train": len(train.table),
            "n_rois_val": len(val.table),
        },
        synthetic=train.synthetic,
        corner_patches=grid.corner_patches,
        precision=precision_on(device, config.train.precision),
    )
    epochs = pd.DataFrame([vars(record) for record in history])
    return Trained(bundle, epochs)


def fit_settings(config: Config, seed: int = 0) -> FitSettings:
    """The grid, precision and seed of a fit."""
    grid = config.patches
    return FitSettings(grid.size_px, grid.stride_px, seed, config.train.precision, grid.corner_patches)


def fit_data(
    rois: Rois, patches: pd.DataFrame, classifier: Classifier, config: Config, workspace: Workspace
) -> FitData:
    """ROIs as a fit of this classifier sees them: their pixels, or the kept features of a frozen backbone."""
    device = choose_device(config.train.device)
    if config.train.features == "kept":
        system = classifier.architecture.system
        kept = keep_features(system, config, rois.images, workspace, classifier)
        return frozen_data(rois, patches, kept, device)
    if config.model.road == "dense":  # a window has the scale of the others
        patches = patches[patches["size_px"] == config.patches.size_px]
    return patch_data(rois, patches, device)


def decide_on_validation(bundle: Bundle, train: Rois, val: Rois, config: Config) -> Bundle:
    """The bundle with threshold, calibrator and conformal limits fitted to its own scores of the validation part.

    Where the floor's evidence counts, it is fitted to the training part and stacked on those scores first.

    The scores come by the road of serving. The same ROIs have chosen the epoch, so what these numbers promise is
    somewhat optimistic; the test part says how much.

    Raises:
        DataError: a part lacks a class.
    """
    scored, referral = score_part(bundle, val, config), config.referral
    if has_floor(bundle.system):
        stack = fit_stack(train.images, train.labels, val.images, val.labels, scored.patch_scores[0])
        stacked = stack.apply(val.images, scored.patch_scores[0])
        bundle = replace(bundle, stack=stack, results=bundle.results | stacked_results(val.labels, stacked))
        scored = voted(scored.roi_ids, val.labels, val.groups, stacked, config.vote)
    labels, (patch_scores,), (scores,) = scored.labels, scored.patch_scores, scored.scores
    alpha, by_class = 1 - referral.coverage, referral.class_conditional
    return replace(
        bundle,
        vote=fitted(labels, patch_scores, config.vote),
        calibrator=fit_platt(labels, scores),
        conformal=fit_conformal(labels, scores, alpha=alpha, class_conditional=by_class),
    )


def stacked_results(labels: npt.NDArray[np.int64], patch_scores: FloatArray) -> dict[str, float]:
    """`val_loss` and `val_auc` of patch scores `(n, n_patches)`, as a fit computes its network's on the grid."""
    of_label = np.where(labels[:, None] == Label.TUMOR, patch_scores, 1 - patch_scores)
    loss = float(-np.log(np.maximum(of_label, np.finfo(float).tiny)).mean())
    return {"val_loss": loss, "val_auc": auc(labels, patch_scores.mean(axis=1))}


def validation_results(bundle: Bundle) -> dict[str, float]:
    """What validation gave: the results of the chosen epoch, and the numbers that decide and calibrate."""
    found = bundle.results | {
        "threshold": bundle.vote.share_threshold,
        "calibrator_slope": bundle.calibrator.slope,
        "calibrator_intercept": bundle.calibrator.intercept,
        "limit_normal": bundle.conformal.limit_normal,
        "limit_tumor": bundle.conformal.limit_tumor,
    }
    if alarms := bundle.domain.false_alarms:
        of_alarms = {"": alarms.value, "_ci_low": alarms.ci_low, "_ci_high": alarms.ci_high}
        found |= {f"domain_false_alarms{end}": value for end, value in of_alarms.items()}
    return found


FIT_CODE: Final = (
    "core/records.py",
    "data/patches.py",
    "evaluation/metrics.py",
    "models",
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
    """What a fit depends on beside its settings and its data: device, library, pretrained weights, code.

    Raises:
        ConfigError: the device does not exist.
    """
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


def score_part(bundle: Bundle, part: Rois, config: Config) -> Scores:
    """Judgement of a part's ROIs by the road that serving uses: a single run."""
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    with cpu_threads(config.train.threads):
        scores = scorer.patch_scores(part.images)
    roi_ids = part.table["roi_id"].to_numpy(dtype=object)
    return voted(roi_ids, part.labels, part.groups, scores, bundle.vote, bundle.calibrator, bundle.conformal)


def patch_scores(classifier: Classifier, part: Rois, config: Config, workspace: Workspace) -> FloatArray:
    """Probability of Tumor of each grid patch of a part, `(n, n_patches)`: by the road of serving, or by kept features
    where one view votes."""
    device = choose_device(config.train.device)
    classifier.to(device).to(memory_format=torch.channels_last).eval()
    if config.train.features == "fresh" or config.vote.views > 1:
        images = torch.from_numpy(np.ascontiguousarray(part.images)).to(device)
        return grid_scores(classifier, images, config.patches, config.train.precision, config.vote.views)
    data = fit_data(part, grid_patches(part.table.iloc[:0], config.patches), classifier, config, workspace)
    return tumor_scores(data.grid_logits(classifier, fit_settings(config)))
