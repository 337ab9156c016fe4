"""One fit of a study: a system trained on one split with one seed → patch scores of what it did not train on.

A fit is kept under a hash of all that it depends on. Votes, thresholds, metrics and intervals are computed from the
kept patch scores, so another vote rule costs no fit.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mammo.config import Config
from mammo.data.sources import RoiSet
from mammo.devices import choose_device, cpu_threads
from mammo.fit_identity import computed_with
from mammo.inference import RoiScorer
from mammo.patches import drawn_patches
from mammo.provenance import fingerprint
from mammo.storage import atomic_path
from mammo.systems import Part, select_part, train_system
from mammo.training import EpochRecord


@dataclass(frozen=True)
class FitTask:
    """What one fit depends on.

    Attributes:
        system: such as `compact-model2`.
        config: all settings; those of votes and evaluation do not touch the fit.
        seed: training seed.
        rois: every ROI that `split` names.
        split: train, val and test (`SPLIT_SCHEMA`); the test part is scored, nothing else.
        title: what people read while it runs.
    """

    system: str
    config: Config
    seed: int
    rois: RoiSet
    split: pd.DataFrame
    title: str = ""

    def part(self, name: str) -> Part:
        """One part of the split."""
        return select_part(self.rois.table, self.rois.images, self.split, name)


@dataclass(frozen=True)
class PartScores:
    """Patch scores of one part.

    Attributes:
        roi_ids: `(n,)`.
        labels: 0 Normal, 1 Tumor, `(n,)`.
        patch_scores: probability of Tumor of each grid patch, `(n, n_patches)`.
    """

    roi_ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    patch_scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A finished fit: what validation gave, and the scores of the validation and the test part."""

    validation: dict[str, float]
    val: PartScores
    test: PartScores


def fit_key(task: FitTask) -> str:
    """A hash of settings, seed, pixels, labels, parts, device, torch and code: equal keys give equal fits."""
    split = task.split.set_index("roi_id")["split"].loc[task.rois.table["roi_id"]]
    pixels = hashlib.sha256(np.ascontiguousarray(task.rois.images).tobytes())
    for column in (task.rois.table["roi_id"], task.rois.table["label"], split):
        pixels.update("\n".join(str(value) for value in column).encode())
    config = task.config
    return fingerprint(
        {
            "system": task.system,
            "seed": task.seed,
            "recipe": config.recipe.model_dump(),
            "model": config.model.model_dump(),
            "patches": config.patches.model_dump(),
            "views": config.vote.views,
            "rois": pixels.hexdigest(),
        }
        | computed_with(config)
    )


def fit_one(
    task: FitTask, checkpoint: Path | None = None, on_epoch: Callable[[EpochRecord], None] | None = None
) -> Fit:
    """Train on the training part, let the validation part choose the epoch, score validation and test part.

    One thread computes, whatever `train.threads` says: several fits share the CPUs, and a kept fit has the bits of one.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ConfigError: the device does not exist, or training diverged.
    """
    with cpu_threads(1):
        return _fit(task, checkpoint, on_epoch)


def _fit(task: FitTask, checkpoint: Path | None, on_epoch: Callable[[EpochRecord], None] | None) -> Fit:
    own_threads = task.config.train.model_copy(update={"threads": None})
    config = task.config.model_copy(update={"train": own_threads})
    train, val = task.part("train"), task.part("val")
    patch_sets = {part.name: drawn_patches(part.table, config.patches) for part in (train, val)}
    trained = train_system(
        task.system, config, train, val, patch_sets, task.seed, checkpoint, on_epoch=on_epoch
    )
    scorer = RoiScorer.on(trained.bundle, choose_device(config.train.device))
    validation = {key: float(value) for key, value in trained.bundle.results.items()}
    return Fit(validation, _score(scorer, val), _score(scorer, task.part("test")))


def _score(scorer: RoiScorer, part: Part) -> PartScores:
    return PartScores(tuple(part.table["roi_id"]), part.labels, scorer.patch_scores(part.images))


def fit_path(folder: Path, key: str) -> Path:
    """Where a finished fit is kept."""
    return folder / f"{key}.safetensors"


def checkpoint_path(folder: Path, key: str) -> Path:
    """Where an unfinished fit keeps its state."""
    return folder / "unfinished" / f"{key}.safetensors"


def save_fit(path: Path, fit: Fit) -> None:
    """Keep a fit; a kill while writing leaves nothing."""
    note: dict[str, Any] = {"validation": fit.validation}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, part in (("val", fit.val), ("test", fit.test)):
        note[name] = part.roi_ids
        # The format writes a view's memory as it lies, whatever its strides are.
        arrays[f"{name}.labels"] = np.ascontiguousarray(part.labels)
        arrays[f"{name}.patch_scores"] = np.ascontiguousarray(part.patch_scores)
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"mammo": json.dumps(note)})


def load_fit(path: Path) -> Fit | None:
    """Read a kept fit, or None where there is none or the file is damaged: then it is fitted again."""
    try:
        with safe_open(path, framework="numpy") as file:
            note = json.loads(file.metadata()["mammo"])
            val, test = (
                PartScores(
                    tuple(note[name]),
                    file.get_tensor(f"{name}.labels"),
                    file.get_tensor(f"{name}.patch_scores"),
                )
                for name in ("val", "test")
            )
    except (FileNotFoundError, SafetensorError):
        return None
    return Fit(note["validation"], val, test)
