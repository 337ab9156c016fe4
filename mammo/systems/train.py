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
from mammo.core.files import sha256_of
from mammo.core.processes import StepObserver
from mammo.core.provenance import code_mark, fingerprint
from mammo.core.records import Label
from mammo.data.rois import Rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.voting import decisions, fitted, prediction_sets, vote_shares
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.devices import choose_device, computes_bfloat16, cpu_threads, hardware, precision_on
from mammo.systems.fit import EpochRecord, FitSettings, fit, patch_data
from mammo.systems.score import RoiScorer


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
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
) -> Trained:
    """Train one system on the training part; the validation part chooses the epoch and how to decide.

    Args:
        system: such as `compact-model2`.
        config: all settings.
        train: training part.
        val: validation part.
        patch_sets: `train` and `val` patch sets.
        seed: instead of `config.train.seed`.
        checkpoint: where to keep the state of an unfinished fit.
        on_epoch: called after each epoch.
        on_step: called after each batch.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ConfigError: the device does not exist.
        DataError: the validation part lacks a class.
    """
    device = choose_device(config.train.device)
    seed = config.train.seed if seed is None else seed
    classifier = build_classifier(system, config.model, seed)
    grid = config.patches
    settings = FitSettings(
        grid.size_px, grid.stride_px, seed, config.train.precision, corner_patches=grid.corner_patches
    )
    with cpu_threads(config.train.threads):
        history = fit(
            classifier,
            patch_data(train, patch_sets["train"], device),
            patch_data(val, patch_sets["val"], device),
            config.recipe,
            settings,
            checkpoint=checkpoint,
            fingerprint=run_fingerprint(system, config, seed, train, val, patch_sets),
            on_epoch=on_epoch,
            on_step=on_step,
        )
    best = min(history, key=lambda record: record.val_loss)
    bundle = Bundle(
        classifier=classifier,
        size_px=config.patches.size_px,
        stride_px=config.patches.stride_px,
        vote=config.vote,
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
    return Trained(
        decide_on_validation(bundle, val, config), pd.DataFrame([vars(record) for record in history])
    )


def decide_on_validation(bundle: Bundle, val: Rois, config: Config) -> Bundle:
    """The bundle with threshold, calibrator and conformal limits fitted to its own scores of the validation part.

    The scores come by the road of serving. The same ROIs have chosen the epoch, so what these numbers promise is
    somewhat optimistic; the test part says how much.

    Raises:
        DataError: the validation part lacks a class.
    """
    scored = score_part(bundle, val, config)
    return replace(
        bundle,
        vote=fitted(scored.labels, scored.patch_scores, config.vote),
        calibrator=fit_platt(scored.labels, scored.scores),
        conformal=fit_conformal(
            scored.labels,
            scored.scores,
            alpha=1 - config.referral.coverage,
            class_conditional=config.referral.class_conditional,
        ),
    )


def validation_results(bundle: Bundle) -> dict[str, float]:
    """What validation gave: the results of the chosen epoch, and the numbers that decide and calibrate."""
    return bundle.results | {
        "threshold": bundle.vote.share_threshold,
        "calibrator_slope": bundle.calibrator.slope,
        "calibrator_intercept": bundle.calibrator.intercept,
        "limit_normal": bundle.conformal.limit_normal,
        "limit_tumor": bundle.conformal.limit_tumor,
    }


FIT_CODE: Final = (
    "core/records.py",
    "data/patches.py",
    "evaluation/metrics.py",
    "models",
    "studies/fits.py",
    "systems/augment.py",
    "systems/devices.py",
    "systems/fit.py",
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
    settings = [config.recipe.model_dump(), config.model.model_dump(), config.train.threads]
    grid = [config.patches.size_px, config.patches.stride_px, config.patches.corner_patches]
    return fingerprint([system, seed, settings, grid, pixels.hexdigest(), computed_with(config)])


@dataclass(frozen=True)
class Scored:
    """A system's judgement of one part.

    Attributes:
        system: its name.
        labels: true classes, `(N,)`.
        groups: groups of the ROIs, `(N,)`.
        patch_scores: probability of Tumor of each grid patch, `(N, n_patches)`.
        vote_shares: share of Tumor votes, `(N,)`.
        decided: 0 or 1, `(N,)`.
        probabilities: calibrated probability of Tumor, `(N,)`; None where nothing was calibrated (the floor).
        sets: whether Normal and Tumor are in each prediction set, `(N, 2)`; likewise.
    """

    system: str
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.object_]
    patch_scores: npt.NDArray[np.float64]
    vote_shares: npt.NDArray[np.float64]
    decided: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None = None
    sets: npt.NDArray[np.bool_] | None = None

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Mean patch score: `(N,)`."""
        mean: npt.NDArray[np.float64] = self.patch_scores.mean(axis=1)
        return mean


def score_part(bundle: Bundle, part: Rois, config: Config) -> Scored:
    """Score a part's ROIs by the road that serving uses."""
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    with cpu_threads(config.train.threads):
        scores = scorer.patch_scores(part.images)
    return Scored(
        bundle.system,
        part.labels,
        part.groups,
        scores,
        vote_shares(scores, bundle.vote),
        decisions(scores, bundle.vote),
        bundle.calibrator.apply(scores.mean(axis=1)),
        prediction_sets(scores, bundle.vote, bundle.conformal),
    )


def predictions(scored: Scored, part: Rois) -> pd.DataFrame:
    """One row for each ROI: truth, decision, vote share, score, probability, prediction set, referral.

    The last three are null where nothing was calibrated.
    """
    nothing = [None] * len(scored.labels)
    return pd.DataFrame(
        {
            "system": scored.system,
            "part": part.name,
            "roi_id": part.table["roi_id"].to_numpy(dtype=object),
            "group_id": scored.groups,
            "label": [Label(int(value)).title for value in scored.labels],
            "decision": [Label(int(value)).title for value in scored.decided],
            "vote_share": scored.vote_shares,
            "score": scored.scores.round(6),
            "probability": nothing if scored.probabilities is None else scored.probabilities.round(6),
            "prediction_set": nothing
            if scored.sets is None
            else [_set_in_words(held) for held in scored.sets],
            "referral": nothing if scored.sets is None else scored.sets.all(axis=1),
        }
    )


def _set_in_words(held: npt.NDArray[np.bool_]) -> str:
    return " or ".join(label.title for label in Label if held[label])


def best_system(results: dict[str, dict[str, Any]], by: str) -> str:
    """The system with the best validation result; the earlier one in the list wins a tie.

    Args:
        results: validation results of each system, with the key `by`.
        by: `val_loss` (lower is better) or `val_auc` (higher is better).
    """
    sign = 1 if by == "val_loss" else -1
    return min(results, key=lambda system: sign * float(results[system][by]))
