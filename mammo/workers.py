"""Worker processes of one machine: how many, and that none outlives the command that started it."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Wait for the parent's end and end at once too. The body of a thread of a worker process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
