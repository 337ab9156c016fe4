"""The worker processes that one `mammo tune` has started on its machine."""

from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import sleep
from typing import Final

import psutil

from mammo.core.errors import BAD_INPUT, MammoError
from mammo.tuning.identity import child
from mammo.tuning.study import OpenStudy
from mammo.tuning.worker import run_as_child, worker_context

LEAVE_S: Final = 20.0
"""How long workers that find no trial may take to end."""
MOST_DEATHS: Final = 5
"""Of each worker, without a trial that ends between them, before the command gives up."""


class Crew:
    """Workers of one study: started, replaced when they die, and ended with the command.

    Args:
        opened: the study.
        url: its storage's address, or None for the journal.
        n_trials: how many trials the study shall have in all.
        size: how many workers at most.
    """

    def __init__(self, opened: OpenStudy, url: str | None, n_trials: int, size: int) -> None:
        self._arguments = (opened.space.root, opened.config, url, n_trials)
        self._size = size
        self._at_work: dict[str, BaseProcess] = {}
        self._n_deaths = 0
        self.dead: set[str] = set()
        """Who of them has ended, by the names that they leave in the storage."""

    def fill(self, n_takeable: int) -> None:
        """Start workers for as many trials as can be taken."""
        for _ in range(min(self._size - len(self._at_work), n_takeable)):
            worker: BaseProcess = worker_context().Process(target=run_as_child, args=self._arguments)
            worker.start()
            self._at_work[_name_of(worker)] = worker

    def bury(self) -> None:
        """Forget workers that have ended.

        Raises:
            MammoError: one could not begin, and has said why; or they keep dying.
        """
        ended = {name: worker for name, worker in self._at_work.items() if worker.exitcode is not None}
        self.dead.update(ended)
        for name in ended:
            del self._at_work[name]
        codes = [worker.exitcode for worker in ended.values()]
        if BAD_INPUT in codes:
            raise MammoError("a worker could not go on; its message stands above")
        self._n_deaths += sum(code != 0 for code in codes)
        if self._n_deaths > MOST_DEATHS * self._size:
            raise MammoError(
                f"{self._n_deaths} workers died without ending a trial (out of memory?); ended trials are kept: run "
                "the same command with fewer --workers"
            )

    def forgive(self) -> None:
        """A trial has ended: deaths before it count no more."""
        self._n_deaths = 0

    def watch(self, seconds: float) -> None:
        """Wait until a worker ends, or for so long."""
        if self._at_work:
            wait([worker.sentinel for worker in self._at_work.values()], seconds)
        else:
            sleep(seconds)

    def leave(self) -> None:
        """Wait for the workers, that find no more trials."""
        for worker in self._at_work.values():
            worker.join(timeout=LEAVE_S)

    def end(self) -> None:
        """End whoever is still at work."""
        for worker in self._at_work.values():
            if worker.exitcode is None:
                worker.terminate()
                worker.join()
        self.dead.update(self._at_work)


def _name_of(worker: BaseProcess) -> str:
    """As it signs its trials; one that has died already has signed none."""
    try:
        return child(worker.pid or 0)
    except psutil.NoSuchProcess:
        return f"process {worker.pid}"
