"""Processes that work for a study or a search of settings."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from mammo.core.errors import MammoError
from mammo.core.processes import context_without_threads, end_with_parent


@contextmanager
def crew(n_workers: int, modules: Sequence[str], kept: str, option: str, *start: Any) -> Iterator[ProcessPoolExecutor]:
    """Worker processes of one thread that have these modules loaded and end with the block, however it ends.

    `start` is what each begins with: a function and a tuple of its arguments. Submit within `deaf_to_interrupts`.

    Raises:
        MammoError: a worker died or had no memory; says what is `kept` and which `option` asks for fewer.
    """
    others, finished_well = set(multiprocessing.active_children()), False
    executor = ProcessPoolExecutor(n_workers, context_without_threads(modules), _begin, start)
    try:
        yield executor
        finished_well = True
    except (BrokenProcessPool, torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise MammoError(
            f"a worker died ({str(error).splitlines()[0]}); {kept} are kept: run the same command again, with fewer "
            f"{option} if memory is short"
        ) from error
    finally:
        if not finished_well:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        executor.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> None:
    # Before the first task: a worker that waits for one would wait for ever where the command was killed.
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if start is not None:
        start(*arguments)
