"""Worker processes and the progress of long work."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Final

import psutil
from rich.console import Console
from rich.progress import Progress

WHOLE_RUN_S: Final = 1e9
"""Speed is measured over all that is done: an epoch may take longer than rich's own 30 s."""

WATCH_S: Final = 0.5
STAGE: Final = "DVC_STAGE"
"""What DVC tells a stage, and all that the stage starts: its name."""


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Wait for the parent's end and end at once too. The body of a thread of a worker process."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def end_with_dvc() -> None:
    """From here on end at once when the DVC ends that runs this process as a stage, if one does.

    It is the nearest ancestor beyond those that it gave the stage's name.
    """
    stage = os.environ.get(STAGE)
    for ancestor in psutil.Process().parents() if stage else ():
        with suppress(psutil.Error):
            if ancestor.environ().get(STAGE) != stage:
                threading.Thread(target=_end_after, args=(ancestor,), daemon=True).start()
                return


def _end_after(other: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        # `wait` would wait for a zombie, whose own parent may never ask for it.
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_S)
    os._exit(1)


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that start meanwhile never hear Ctrl-C: the command alone does, afterwards, and ends them.

    They inherit the blocked signal, because a handler of their own would come too late for one who presses it while
    they import. Ignoring it meanwhile would be inherited too, but would lose what is pressed in these moments. Only
    this thread blocks it; where a library's thread hears it, this process's handlers wait for the end of the block.
    To be used in the main thread.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    resource_tracker.ensure_running()  # where multiprocessing starts it in passing, it unblocks the signal
    for number in handlers:
        signal.signal(number, lambda number, _: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def context_without_threads(preloaded: Sequence[str]) -> BaseContext:
    """Processes that share no thread with this one; where the system can, forked from one that has loaded modules.

    That one starts here, deaf to Ctrl-C like all that it forks; it loads while this process goes on. The modules must
    neither start threads nor touch a GPU when imported.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    with deaf_to_interrupts():
        multiprocessing.forkserver.ensure_running()
    return context


@contextmanager
def _bar(console: Console | None) -> Iterator[Progress]:
    """A bar on standard error, or on a console, that is gone at the end; without a terminal nothing is drawn."""
    console = console or Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden, speed_estimate_period=WHOLE_RUN_S) as progress:
        yield progress


StepObserver = Callable[[int, int, int], None]


@contextmanager
def training_progress(title: str, n_epochs: int, console: Console | None = None) -> Iterator[StepObserver]:
    """Yield an observer of (epoch, patches done, patches in the epoch); without a terminal nothing is drawn."""
    with _bar(console) as bar:
        task = bar.add_task(title, total=None)

        def observe(epoch: int, done: int, total: int) -> None:
            epoch_title = f"{title} epoch {epoch + 1}/{n_epochs}"
            bar.update(task, description=epoch_title, total=n_epochs * total, completed=epoch * total + done)

        yield observe


@contextmanager
def steps_progress(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield an observer of (steps done, steps in all); without a terminal nothing is drawn."""
    with _bar(console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class FitsProgress:
    """How many of several fits are done, told of their epochs and of their ends."""

    def __init__(self, n_epochs: Mapping[str, int], bar: Progress) -> None:
        self._n_epochs, self._done, self._n_finished = n_epochs, dict.fromkeys(n_epochs, 0), 0
        self._bar, self._task = bar, bar.add_task("fits", total=sum(n_epochs.values()))

    def epoch(self, key: str, n_done: int) -> None:
        """A fit has `n_done` epochs behind it."""
        # The last epochs of a fit may be heard of after its end.
        self._bar.advance(self._task, max(0, n_done - self._done[key]))
        self._done[key] = max(self._done[key], n_done)

    def fit(self, key: str, title: str) -> None:
        """A fit is finished, perhaps earlier than its recipe allows."""
        self.epoch(key, self._n_epochs[key])
        self._n_finished += 1
        finished = f"{self._n_finished}/{len(self._n_epochs)}"
        self._bar.update(self._task, description=f"fits {finished}")
        if self._bar.disable:
            seconds = self._bar.tasks[0].time_remaining
            left = "" if seconds is None else f"; {timedelta(seconds=seconds)} left"
            self._bar.console.print(f"fit {finished} done: {title}{left}", highlight=False, soft_wrap=True)


@contextmanager
def fits_progress(n_epochs: Mapping[str, int], console: Console) -> Iterator[FitsProgress]:
    """Yield the progress of fits of `n_epochs` at most: a bar on a terminal, elsewhere a line for each that is done."""
    with _bar(console) as bar:
        yield FitsProgress(n_epochs, bar)
