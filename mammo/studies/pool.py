"""Many fits in parallel: each one kept at once, each one resumable, none lost.

Every fit runs in a worker process with one thread, even when there is a single job, so that its bits depend on
neither the number of jobs nor the machine's load.
"""

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from mammo.config import Config
from mammo.devices import choose_device
from mammo.errors import MammoError
from mammo.progress import FitsProgress, fits_progress
from mammo.studies.fits import Fit, FitTask, checkpoint_path, fit_key, fit_one, fit_path, load_fit, save_fit
from mammo.workers import deaf_to_interrupts, end_with_parent, usable_cpus

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
