"""One fit of a study: a system trained on one split with one seed → patch scores of what it did not train on.

A fit is kept under a hash of all that it depends on. Votes, thresholds, metrics and intervals are computed from the
kept patch scores, so another vote rule costs no fit.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import isnan, nan
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import MammoError, ending_on_sigterm
from mammo.core.files import HERE, Workspace, atomic_path
from mammo.core.processes import (
    FitsProgress,
    context_without_threads,
    deaf_to_interrupts,
    fits_progress,
    steps_progress,
    usable_cpus,
)
from mammo.core.provenance import fingerprint
from mammo.core.records import SPLITS
from mammo.core.systems import network_of, split_system
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from mammo.models.build import build_classifier
from mammo.studies.crew import crew
from mammo.systems.devices import choose_device, cpu_threads
from mammo.systems.features import keep_features
from mammo.systems.fit import EpochRecord
from mammo.systems.train import computed_with, patch_scores, train_network


@dataclass(frozen=True)
class FitTask:
    """What one fit depends on, the repeat and fold where it stands, and the title that people read while it runs.

    Votes, place and title do not touch the fit, nor does the floor beside a network.
    """

    system: str
    config: Config
    seed: int
    rois: Rois
    title: str = ""
    repeat: int = 0
    fold: int = 0


@dataclass(frozen=True)
class PartScores:
    """Labels `(n,)` of one part and the probability of Tumor of each grid patch, `(n, n_patches)`."""

    roi_ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    patch_scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A finished fit: what validation gave, the scores of the validation and the test part, and how long it took."""

    validation: dict[str, float]
    val: PartScores
    test: PartScores
    seconds: float = field(default=nan, compare=False)


class DryRunError(MammoError):
    """The plan was asked for, and no fit."""


def fit_key(task: FitTask) -> str:
    """A hash of settings, seed, pixels, labels, parts, device, torch and code: equal keys give equal fits."""
    pixels = hashlib.sha256(np.ascontiguousarray(task.rois.images).tobytes())
    for column in ("roi_id", "label", "split"):
        pixels.update("\n".join(str(value) for value in task.rois.table[column]).encode())
    config = task.config
    depends = {
        "system": network_of(task.system),
        "seed": task.seed,
        "recipe": config.recipe.model_dump(),
        "model": config.model.model_dump(),
        "patches": config.patches.model_dump(),
        "views": config.vote.views,
        "features": config.train.features,
        "rois": pixels.hexdigest(),
    }
    return fingerprint(depends | computed_with(config))


def fit_one(
    task: FitTask,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    workspace: Workspace = HERE,
) -> Fit:
    """Fit on the training part at the epoch that validation chooses, with the scores of validation and test part.

    One thread computes, whatever `train.threads` says: several fits share the CPUs, and a kept fit has the bits of one.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ConfigError: the device does not exist, or training diverged.
    """
    one_thread = task.config.train.model_copy(update={"threads": 1})
    config = task.config.model_copy(update={"train": one_thread})
    train, val, test = (task.rois.part(name) for name in SPLITS)
    drawn = {part.name: drawn_patches(part.table, config.patches) for part in (train, val)}
    with cpu_threads(1):
        trained = train_network(
            network_of(task.system), config, train, val, drawn, task.seed, checkpoint, workspace, on_epoch
        )
        of_val, of_test = (
            PartScores(
                tuple(part.table["roi_id"]),
                part.labels,
                patch_scores(trained.classifier, part, config, workspace),
            )
            for part in (val, test)
        )
        return Fit({key: float(value) for key, value in trained.results.items()}, of_val, of_test)


def fit_path(folder: Path, key: str) -> Path:
    """Where a finished fit is kept."""
    return folder / f"{key}.npz"


def checkpoint_path(folder: Path, key: str) -> Path:
    """Where an unfinished fit keeps its state."""
    return folder / "unfinished" / f"{key}.pt"


def save_fit(path: Path, fit: Fit) -> None:
    """Keep a fit; a kill while writing leaves nothing."""
    arrays = {"validation": np.array(json.dumps(fit.validation)), "seconds": np.array(fit.seconds)}
    for name, part in (("val", fit.val), ("test", fit.test)):
        arrays |= {f"{name}.{key}": np.array(value) for key, value in vars(part).items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def load_fit(path: Path) -> Fit | None:
    """Read a kept fit, or None where there is none or the file is damaged: then it is fitted again."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            parts = (
                [file[f"{name}.{key}"] for key in ("roi_ids", "labels", "patch_scores")] for name in ("val", "test")
            )
            val, test = (PartScores(tuple(roi_ids.tolist()), *arrays) for roi_ids, *arrays in parts)
            seconds = float(file["seconds"]) if "seconds" in file else nan
            return Fit(json.loads(file["validation"].item()), val, test, seconds)
    except (OSError, EOFError, ValueError, BadZipFile):
        return None


POLL_S: Final = 0.5
"""How often the bar is moved while fits run."""
PRELOADED: Final = ("mammo.studies.fits", "sklearn.linear_model", "scipy.stats")


def default_jobs(config: Config) -> int:
    """One job for each CPU; on a GPU one, because every job would take the device's memory for itself."""
    return usable_cpus() if choose_device(config.train.device).type == "cpu" else 1


def run_fits(tasks: Sequence[FitTask], workspace: Workspace, n_jobs: int, console: Console) -> list[Fit]:
    """The fit of each task, from the workspace's cache where it is kept, else by `n_jobs` processes of one thread each.

    Raises:
        DryRunError: with `n_jobs` 0, which asks how much there is to do.
        MammoError: a fit failed, a worker died, or another command is fitting in the workspace. Finished fits
            are kept and unfinished ones go on from their last epoch when the command runs again.
    """
    keys = [fit_key(task) for task in tasks]
    wanted = dict(zip(keys, tasks, strict=True))  # the same fit may be asked for more than once
    fits = {key: fit for key in wanted if (fit := load_fit(fit_path(workspace.fits, key)))}
    missing = {key: task for key, task in wanted.items() if key not in fits}
    took = {network_of(wanted[key].system): fit.seconds for key, fit in fits.items()}
    jobs = min(n_jobs or default_jobs(tasks[0].config), max(1, len(missing)))
    to_do = f"{len(missing)} fits to do, {len(fits)} kept from before{_duration(missing.values(), took, jobs)}"
    if n_jobs == 0:
        raise DryRunError(to_do)
    if missing:
        console.print(f"{to_do}. Stop at any time: the same command goes on.", highlight=False, soft_wrap=True)
        fits |= _fit_missing(missing, workspace, jobs, console)
    return [fits[key] for key in keys]


def _duration(tasks: Collection[FitTask], took: Mapping[str, float], n_jobs: int) -> str:
    """How long fits will take at the pace of kept ones of the same networks."""
    if not tasks:
        return ""
    seconds = sum(took.get(network_of(task.system), nan) for task in tasks) / n_jobs
    pace = "how long shows once a fit of each network is done"
    if not isnan(seconds):
        pace = f"about {timedelta(seconds=round(seconds))} (hours:minutes:seconds)"
    return f"; {n_jobs} {'jobs' if n_jobs > 1 else 'job'}, {pace}"


def _fit_missing(missing: dict[str, FitTask], workspace: Workspace, n_jobs: int, console: Console) -> dict[str, Fit]:
    folder = workspace.fits
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise MammoError(
            f"{folder}: another command is fitting here; wait for it to end, or stop it, and run again"
        ) from error
    with held, ending_on_sigterm():
        for path in [*folder.rglob(".*.npz"), *folder.rglob(".*.pt")]:
            path.unlink()  # half written by a killed command: nobody else writes here
        n_epochs = {key: task.config.recipe.epochs for key, task in missing.items()}
        _keep_all_features(missing.values(), workspace, console)
        with fits_progress(n_epochs, console) as progress:
            return _work_off(missing, workspace, n_jobs, progress)


def _keep_all_features(tasks: Iterable[FitTask], workspace: Workspace, console: Console) -> None:
    """Compute with all cores what workers of one thread would wait for."""
    learnt_by_any: dict[str, tuple[FitTask, npt.NDArray[np.bool_]]] = {}
    for task in tasks:
        config, (backbone, _) = task.config, split_system(task.system)
        seed = task.seed if config.model.weights == "none" else None
        settings = [config.model.model_dump(), config.patches.model_dump()]
        mark = fingerprint([backbone, seed, *settings, id(task.rois.images)])
        if config.train.features == "kept":
            _, learnt = learnt_by_any.setdefault(mark, (task, np.zeros(len(task.rois.images), dtype=bool)))
            learnt |= (task.rois.table["split"] == "train").to_numpy()
    for task, learnt in learnt_by_any.values():
        config, (backbone, _) = task.config, split_system(task.system)
        classifier = build_classifier(task.system, config.model, task.seed, workspace)
        for which, to_train in ((learnt, True), (~learnt, False)):
            if not which.any():  # in some fold each ROI trains
                continue
            with steps_progress(f"features of {backbone}, ROIs", console) as on_step:
                keep_features(
                    task.system,
                    config,
                    task.rois.images[which],
                    workspace,
                    classifier,
                    to_train=to_train,
                    on_step=on_step,
                )


def _work_off(missing: dict[str, FitTask], workspace: Workspace, n_jobs: int, progress: FitsProgress) -> dict[str, Fit]:
    epochs: SimpleQueue[tuple[str, int]] = context_without_threads(PRELOADED).SimpleQueue()
    fits: dict[str, Fit] = {}
    with crew(n_jobs, PRELOADED, "finished fits", "--jobs", _report_to, (epochs,)) as executor:
        with deaf_to_interrupts():
            key_of = {executor.submit(_fit_and_keep, key, task, workspace): key for key, task in missing.items()}
        pending = set(key_of)
        while pending:
            done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            while not epochs.empty():
                progress.epoch(*epochs.get())
            for future in done:
                key = key_of[future]
                fits[key] = future.result()
                progress.fit(key, missing[key].title)
    return fits


_report_epoch: Callable[[tuple[str, int]], None] | None = None


def _report_to(epochs: "SimpleQueue[tuple[str, int]]") -> None:
    global _report_epoch  # a worker is this function's process
    _report_epoch = epochs.put


def _fit_and_keep(key: str, task: FitTask, workspace: Workspace) -> Fit:
    checkpoint = checkpoint_path(workspace.fits, key)

    def report(record: EpochRecord) -> None:
        if _report_epoch is not None:
            _report_epoch((key, record.epoch + 1))

    started = time.perf_counter()
    fit = fit_one(task, checkpoint, report, workspace)
    fit = replace(fit, seconds=time.perf_counter() - started)
    save_fit(fit_path(workspace.fits, key), fit)
    checkpoint.unlink(missing_ok=True)
    return fit
