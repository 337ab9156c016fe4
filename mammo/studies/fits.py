"""One fit of a study: a system trained on one split with one seed → patch scores of what it did not train on.

A fit is kept under a hash of all that it depends on. Votes, thresholds, metrics and intervals are computed from the
kept patch scores, so another vote rule costs no fit.
"""

import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import atomic_path
from mammo.core.processes import FitsProgress, deaf_to_interrupts, end_with_parent, fits_progress, usable_cpus
from mammo.core.provenance import fingerprint
from mammo.data.patches import drawn_patches
from mammo.data.rois import RoiSet
from mammo.systems.devices import choose_device, cpu_threads
from mammo.systems.fit import EpochRecord
from mammo.systems.identity import computed_with
from mammo.systems.score import RoiScorer
from mammo.systems.train import Part, select_part, train_system


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


POLL_S: Final = 0.5
"""How often the bar is moved while fits run."""

Epochs = SimpleQueue[tuple[str, int]]
"""Key of a fit and the number of its finished epochs."""


@dataclass(frozen=True)
class _Work:
    """One missing fit, as a worker gets it."""

    key: str
    task: FitTask
    folder: Path


def default_jobs(config: Config) -> int:
    """One job for each CPU; on a GPU one, because every job would take the device's memory for itself."""
    return usable_cpus() if choose_device(config.train.device).type == "cpu" else 1


def run_fits(tasks: Sequence[FitTask], folder: Path, n_jobs: int, console: Console) -> list[Fit]:
    """Return the fit of each task, from `folder` where it is kept, else fitted now.

    Args:
        tasks: the same fit may be asked for more than once.
        folder: the cache of fits.
        n_jobs: worker processes, one thread each.
        console: where progress is shown.

    Raises:
        MammoError: a fit failed, a worker died, or another command is fitting in the same folder. Finished fits
            are kept and unfinished ones go on from their last epoch when the command runs again.
    """
    keys = [fit_key(task) for task in tasks]
    fits = {key: fit for key in dict.fromkeys(keys) if (fit := load_fit(fit_path(folder, key))) is not None}
    missing: dict[str, FitTask] = {}
    for key, task in zip(keys, tasks, strict=True):
        if key not in fits:
            missing.setdefault(key, task)
    if missing:
        _fit_missing(missing, len(fits), folder, n_jobs, console)
        for key in missing:
            fit = load_fit(fit_path(folder, key))
            if fit is None:
                raise MammoError(f"{fit_path(folder, key)}: vanished while fits ran; run the command again")
            fits[key] = fit
    return [fits[key] for key in keys]


def _fit_missing(
    missing: dict[str, FitTask], n_kept: int, folder: Path, n_jobs: int, console: Console
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise MammoError(
            f"{folder}: another command is fitting here; wait for it to end, or stop it, and run again"
        ) from error
    with held:
        _clear_halves(folder)
        n_jobs = max(1, min(n_jobs, len(missing)))
        n_epochs = {key: task.config.recipe.epochs for key, task in missing.items()}
        console.print(
            f"{len(missing)} fits to do, {n_kept} kept from before; {n_jobs} "
            f"{'jobs' if n_jobs > 1 else 'job'}. Stop at any time: the same command goes on.",
            highlight=False,
            soft_wrap=True,
        )
        with fits_progress(n_epochs, console) as progress:
            _work_off([_Work(key, task, folder) for key, task in missing.items()], n_jobs, progress)


def _clear_halves(folder: Path) -> None:
    """Remove temporary files that a killed command left; the lock says that nobody else writes here."""
    for path in folder.rglob(".*.safetensors"):
        path.unlink(missing_ok=True)


def _work_off(work: Sequence[_Work], n_jobs: int, progress: FitsProgress) -> None:
    context = multiprocessing.get_context("spawn")
    epochs: Epochs = context.SimpleQueue()
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(n_jobs, context, _start_worker, (epochs,))
    title_of, finished = {item.key: item.task.title for item in work}, False
    try:
        with deaf_to_interrupts():
            pending: set[Future[str]] = {executor.submit(_fit_and_keep, item) for item in work}
        while pending:
            done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            while not epochs.empty():
                progress.epoch(*epochs.get())
            for future in done:
                key = future.result()
                progress.fit(key, title_of[key])
        finished = True
    except (BrokenProcessPool, torch.OutOfMemoryError, torch.AcceleratorError) as error:
        what = "died (killed, or out of memory)"
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
            what = f"could not use the GPU ({str(error).splitlines()[0]})"
        raise MammoError(
            f"a worker process {what}; finished fits are kept: run the same command again, with fewer --jobs if memory "
            "is short"
        ) from error
    finally:
        if not finished:  # stopped or failed: what still runs has its checkpoint
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        executor.shutdown(cancel_futures=True)


_report_epoch: Callable[[tuple[str, int]], None] | None = None


def _start_worker(epochs: Epochs) -> None:
    """Make a worker ready: one thread, gone when the command is gone."""
    global _report_epoch  # a worker is this function's process
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _report_epoch = epochs.put


def _fit_and_keep(work: _Work) -> str:
    checkpoint = checkpoint_path(work.folder, work.key)
    report = _report_epoch or (lambda _: None)
    fit = fit_one(work.task, checkpoint, lambda record: report((work.key, record.epoch + 1)))
    save_fit(fit_path(work.folder, work.key), fit)
    checkpoint.unlink(missing_ok=True)
    return work.key
