"""One named system from tables to a bundle, and from a bundle to scored ROIs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_table
from mammo.core.provenance import fingerprint
from mammo.data.rois import read_rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.scores import Scores
from mammo.evaluation.voting import fitted, voted
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.devices import choose_device, cpu_threads, precision_on
from mammo.systems.fit import EpochRecord, FitSettings, StepObserver, fit, patch_data
from mammo.systems.identity import computed_with
from mammo.systems.parallel import ALONE, Team
from mammo.systems.score import RoiScorer


@dataclass(frozen=True)
class Part:
    """One part of a split: ROIs, their pixels, their groups.

    Attributes:
        name: `train`, `val` or `test`.
        table: rows of the ROI table with `group_id`.
        images: uint8 `(N, 120, 120)`, one for each row.
    """

    name: str
    table: pd.DataFrame
    images: npt.NDArray[np.uint8]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """0 Normal, 1 Tumor: `(N,)`."""
        return self.table["label"].to_numpy(dtype=np.int64)

    @property
    def groups(self) -> npt.NDArray[np.object_]:
        """The group of each ROI: `(N,)`."""
        return self.table["group_id"].to_numpy(dtype=object)


def read_part(space: Workspace, name: str) -> Part:
    """Read one part. The test part is for evaluation alone.

    Raises:
        DataError: an earlier stage has not run.
    """
    rois = read_rois(space.rois)
    return select_part(rois.table, rois.images, read_table(space.split), name)


def select_part(table: pd.DataFrame, images: npt.NDArray[np.uint8], split: pd.DataFrame, name: str) -> Part:
    """The ROIs that `split` (`SPLIT_SCHEMA`, any order) puts into the part `name`.

    Raises:
        DataError: the split does not name each ROI of the table exactly once.
    """
    if sorted(split["roi_id"]) != sorted(table["roi_id"]):
        raise DataError(
            f"split: must name each ROI of the table exactly once, got {len(split)} rows for {len(table)} ROIs; run "
            "`dvc repro` to split again"
        )
    joined = table.merge(split, on="roi_id", how="left", validate="one_to_one")
    chosen = (joined["split"] == name).to_numpy(dtype=bool)
    return Part(name, joined[chosen].reset_index(drop=True), images[chosen])


@dataclass(frozen=True)
class Trained:
    """What training a system gave."""

    bundle: Bundle
    history: pd.DataFrame


def train_system(
    system: str,
    config: Config,
    train: Part,
    val: Part,
    patch_sets: dict[str, pd.DataFrame],
    seed: int | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
    team: Team = ALONE,
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
        team: the processes that share the fit; each makes the same bundle.

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
            patch_data(train.images, train.table, patch_sets["train"], device),
            patch_data(val.images, val.table, patch_sets["val"], device),
            config.recipe,
            settings,
            checkpoint=checkpoint,
            fingerprint=run_fingerprint(system, config, seed, train, val, patch_sets, team.size),
            on_epoch=on_epoch,
            on_step=on_step,
            team=team,
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
        synthetic=bool(train.table["synthetic"].any()),
        corner_patches=grid.corner_patches,
        precision=precision_on(device, config.train.precision),
    )
    return Trained(
        decide_on_validation(bundle, val, config), pd.DataFrame([vars(record) for record in history])
    )


def decide_on_validation(bundle: Bundle, val: Part, config: Config) -> Bundle:
    """The bundle with threshold, calibrator and conformal limits fitted to its own scores of the validation part.

    The scores come by the road of serving. The same ROIs have chosen the epoch, so what these numbers promise is
    somewhat optimistic; the test part says how much.

    Raises:
        DataError: the validation part lacks a class.
    """
    scored = score_part(bundle, val, config)
    (patch_scores,), (scores,) = scored.patch_scores, scored.scores
    return replace(
        bundle,
        vote=fitted(scored.labels, patch_scores, config.vote),
        calibrator=fit_platt(scored.labels, scores),
        conformal=fit_conformal(
            scored.labels,
            scores,
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


def run_fingerprint(
    system: str,
    config: Config,
    seed: int,
    train: Part,
    val: Part,
    patch_sets: dict[str, pd.DataFrame],
    n_processes: int = 1,
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
    return fingerprint([system, seed, settings, n_processes, grid, pixels.hexdigest(), computed_with(config)])


def score_part(bundle: Bundle, part: Part, config: Config) -> Scores:
    """Score a part's ROIs by the road that serving uses: a single run."""
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    with cpu_threads(config.train.threads):
        scores = scorer.patch_scores(part.images)
    roi_ids = part.table["roi_id"].to_numpy(dtype=object)
    return voted(roi_ids, part.labels, part.groups, scores, bundle.vote, bundle.calibrator, bundle.conformal)


def best_system(results: dict[str, dict[str, Any]], by: str) -> str:
    """The system with the best validation result; the earlier one in the list wins a tie.

    Args:
        results: validation results of each system, with the key `by`.
        by: `val_loss` (lower is better) or `val_auc` (higher is better).
    """
    sign = 1 if by == "val_loss" else -1
    return min(results, key=lambda system: sign * float(results[system][by]))
