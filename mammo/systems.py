"""One named system from tables to a bundle, and from a bundle to scored ROIs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.config import Config
from mammo.data.sources import read_rois
from mammo.devices import choose_device
from mammo.errors import DataError
from mammo.inference import RoiScorer
from mammo.layout import Workspace
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle
from mammo.provenance import fingerprint
from mammo.records import Label
from mammo.storage import read_table
from mammo.training import EpochRecord, FitSettings, StepObserver, fit, patch_data
from mammo.voting import decisions, vote_shares


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
) -> Trained:
    """Train one system on the training part; the validation part chooses the epoch.

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
    """
    device = choose_device(config.train.device)
    seed = config.train.seed if seed is None else seed
    classifier = build_classifier(system, config.model, seed)
    grid = config.patches
    settings = FitSettings(
        grid.size_px, grid.stride_px, seed, config.train.precision, corner_patches=grid.corner_patches
    )
    history = fit(
        classifier,
        patch_data(train.images, train.table, patch_sets["train"], device),
        patch_data(val.images, val.table, patch_sets["val"], device),
        config.recipe,
        settings,
        checkpoint,
        run_fingerprint(system, config, seed, train, val, patch_sets),
        on_epoch,
        on_step,
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
    )
    return Trained(bundle, pd.DataFrame([vars(record) for record in history]))


def run_fingerprint(
    system: str, config: Config, seed: int, train: Part, val: Part, patch_sets: dict[str, pd.DataFrame]
) -> str:
    """A hash of all that a fit depends on; a checkpoint of another fingerprint is not resumed."""
    pixels = hashlib.sha256()
    for part in (train, val):
        pixels.update(part.images.tobytes())
        pixels.update(part.labels.tobytes())
    for table in patch_sets.values():
        pixels.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    settings = [config.recipe.model_dump(), config.model.model_dump(), config.train.precision]
    grid = [config.patches.size_px, config.patches.stride_px, config.patches.corner_patches]
    return fingerprint([system, seed, settings, grid, pixels.hexdigest()])


@dataclass(frozen=True)
class Scored:
    """A system's judgement of one part.

    Attributes:
        system: its name.
        labels: true classes, `(N,)`.
        groups: groups of the ROIs, `(N,)`.
        patch_scores: probability of Tumor of each grid patch, `(N, n_patches)`.
        votes: share of Tumor votes, `(N,)`.
        decided: 0 or 1, `(N,)`.
    """

    system: str
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.object_]
    patch_scores: npt.NDArray[np.float64]
    votes: npt.NDArray[np.float64]
    decided: npt.NDArray[np.int64]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Mean patch score: `(N,)`."""
        mean: npt.NDArray[np.float64] = self.patch_scores.mean(axis=1)
        return mean


def score_part(bundle: Bundle, part: Part, config: Config) -> Scored:
    """Score a part's ROIs by the road that serving uses."""
    scorer = RoiScorer.on(bundle, choose_device(config.train.device), config.train.precision)
    scores = scorer.patch_scores(part.images)
    return Scored(
        bundle.system,
        part.labels,
        part.groups,
        scores,
        vote_shares(scores, bundle.vote),
        decisions(scores, bundle.vote),
    )


def predictions(scored: Scored, part: Part) -> pd.DataFrame:
    """One row for each ROI: truth, decision, vote share, score."""
    return pd.DataFrame(
        {
            "system": scored.system,
            "part": part.name,
            "roi_id": part.table["roi_id"].to_numpy(dtype=object),
            "group_id": scored.groups,
            "label": [Label(int(value)).title for value in scored.labels],
            "decision": [Label(int(value)).title for value in scored.decided],
            "vote_share": scored.votes,
            "score": scored.scores.round(6),
        }
    )
