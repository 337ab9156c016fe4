"""Worker processes and the progress of long work."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from time import perf_counter
from typing import Final

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

WATCH_S: Final = 0.5
STAGE: Final = "DVC_STAGE"
"""What DVC tells a stage, and all that the stage starts: its name."""


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Wait for the parent's end and end at once too. The body of a thread of a worker process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def end_with_dvc() -> None:
    """From here on end at once when the DVC ends that runs this process as a stage, if one does."""
    dvc = _dvc_of_stage()
    if dvc is not None:
        threading.Thread(target=_end_after, args=(dvc,), daemon=True).start()


def _end_after(other: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        # `wait` would wait for a zombie, whose own parent may never ask for it.
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_S)
    os._exit(1)


def _dvc_of_stage() -> psutil.Process | None:
    """The DVC that runs this process as a stage: the nearest ancestor beyond those that it gave the stage's name."""
    stage = os.environ.get(STAGE)
    if stage is None:
        return None
    for ancestor in psutil.Process().parents():
        with suppress(psutil.Error):
            if ancestor.environ().get(STAGE) != stage:
                return ancestor
    return None


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that start meanwhile never hear Ctrl-C: the command alone does, afterwards, and ends them.

    They inherit the blocked signal, because a handler of their own would come too late for one who presses it while
    they import. Ignoring it meanwhile would be inherited too, but would lose what is pressed in these moments.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # where multiprocessing starts it in passing, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def context_without_threads(preloaded: Sequence[str]) -> BaseContext:
    """Processes that share no thread with this one; where the system can, forked from one that has loaded modules.

    That one starts here, deaf to Ctrl-C like all that it forks; it loads while this process goes on.

    Args:
        preloaded: modules that every worker needs; they must neither start threads nor touch a GPU when imported.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    with deaf_to_interrupts():
        multiprocessing.forkserver.ensure_running()
    return context


StepObserver = Callable[[int, int, int], None]


class _Speed(ProgressColumn):
    """Patches a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} patches/s" if task.speed else "– patches/s", style="cyan")


@contextmanager
def training_progress(title: str, n_epochs: int, console: Console | None = None) -> Iterator[StepObserver]:
    """Yield an observer of (epoch, patches done, patches in the epoch).

    Without a terminal nothing is drawn here; the lines of the epochs come from `epoch_line`.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda epoch, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Speed(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def observe(epoch: int, done: int, total: int) -> None:
            progress.update(
                task,
                description=f"{title} epoch {epoch + 1}/{n_epochs}",
                total=n_epochs * total,
                completed=epoch * total + done,
            )

        yield observe


@contextmanager
def steps_progress(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield an observer of (steps done, steps in all); without a terminal nothing is drawn."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class FitsProgress:
    """How many fits are done, and for how long the rest will take; told of epochs and of finished fits."""

    def __init__(self, n_epochs: Mapping[str, int], show: Callable[["FitsProgress", str], None]) -> None:
        self._n_epochs = n_epochs
        self._show = show
        self._first: dict[str, int] = {}
        self._done = dict.fromkeys(n_epochs, 0)
        self._started = perf_counter()
        self.n_fits = len(n_epochs)
        self.n_finished = 0

    def epoch(self, key: str, n_done: int) -> None:
        """A fit has `n_done` epochs behind it; the first report of a resumed fit may start late."""
        self._first.setdefault(key, n_done - 1)
        self._done[key] = max(self._done[key], n_done)
        self._show(self, "")

    def fit(self, key: str, title: str) -> None:
        """A fit is finished, perhaps earlier than its recipe allows."""
        self._done[key] = self._n_epochs[key]
        self.n_finished += 1
        self._show(self, title)

    @property
    def share(self) -> float:
        """Share of the epochs that are done."""
        return sum(self._done.values()) / sum(self._n_epochs.values())

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None before the first epoch."""
        done, total = sum(self._done.values()), sum(self._n_epochs.values())
        fitted_now = done - sum(self._first.values())
        if fitted_now <= 0:
            return None
        return (perf_counter() - self._started) / fitted_now * (total - done)


@contextmanager
def fits_progress(n_epochs: Mapping[str, int], console: Console) -> Iterator[FitsProgress]:
    """Yield the progress of several fits: a bar on a terminal, a line for each finished fit elsewhere.

    Args:
        n_epochs: epochs of each fit at most, by key.
        console: where to show.
    """
    if not console.is_terminal:
        yield FitsProgress(n_epochs, lambda progress, title: _fit_line(progress, title, console))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"fits 0/{len(n_epochs)}", total=1.0, left="")

        def show(progress: FitsProgress, title: str) -> None:
            bar.update(
                task,
                completed=progress.share,
                description=f"fits {progress.n_finished}/{progress.n_fits}",
                left=_left(progress),
            )

        yield FitsProgress(n_epochs, show)


def _fit_line(progress: FitsProgress, title: str, console: Console) -> None:
    if title:
        console.print(
            f"fit {progress.n_finished}/{progress.n_fits} done: {title}; {_left(progress)}",
            highlight=False,
            soft_wrap=True,
        )


def _left(progress: FitsProgress) -> str:
    seconds = progress.seconds_left
    if seconds is None:
        return ""
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
