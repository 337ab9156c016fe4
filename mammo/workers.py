"""Worker processes of one machine: how many, and that none outlives the command that started it."""

import multiprocessing
import os
from collections.abc import Sequence
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


def context_without_threads(preloaded: Sequence[str]) -> BaseContext:
    """Processes that share no thread with this one; where the system can, forked from one that has loaded modules.

    Args:
        preloaded: modules that every worker needs; they must neither start threads nor touch a GPU when imported.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    return context
