"""Votes of requests that come together are computed together; a queue that is full refuses."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from mammo.core.errors import MammoError
from mammo.data.decode import GreyImage
from mammo.serve.children import WorkerGoneError
from mammo.serve.loaded import Loaded

Row = dict[str, Any]


class BusyError(MammoError):
    """More ROIs wait than may; they are welcome a second later."""


class Batcher:
    """The ROIs that wait for one version, and the tasks that have its voters vote on them.

    A batch is of what waits when a voter is free, so a lone ROI waits for nobody.
    """

    def __init__(self, loaded: Loaded, observe: Callable[[int], None]) -> None:
        self.loaded = loaded
        self._observe = observe
        self._waiting: deque[tuple[GreyImage, asyncio.Future[Row]]] = deque()
        self._some = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in loaded.voters.workers]
        self._n_open = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    @property
    def n_waiting(self) -> int:
        """ROIs that wait for a batch."""
        return len(self._waiting)

    def enter(self) -> None:
        """A request begins that will need this version; `leave` ends it."""
        self._n_open += 1
        self._none_open.clear()

    def leave(self) -> None:
        """A request has ended."""
        self._n_open -= 1
        if not self._n_open:
            self._none_open.set()

    async def vote(self, images: list[GreyImage]) -> list[Row]:
        """The answers about ROIs, each `(120, 120)`.

        Raises:
            BusyError: the queue is full.
            WorkerGoneError: the version's processes ended again and again.
        """
        limit = self.loaded.settings.queue
        if len(self._waiting) + len(images) > limit:
            raise BusyError(
                f"{len(self._waiting)} ROIs wait, and at most {limit} may; send yours again in a second"
            )
        futures = [asyncio.get_running_loop().create_future() for _ in images]
        self._waiting.extend(zip(images, futures, strict=True))
        self._some.set()
        return list(await asyncio.gather(*futures))

    async def _run(self) -> None:
        while True:
            while not self._waiting:  # another voter may have been faster
                self._some.clear()
                await self._some.wait()
            share = -(-len(self._waiting) // len(self._tasks))  # what waits is for all voters that are free
            n = min(share, self.loaded.settings.max_batch)
            batch = [self._waiting.popleft() for _ in range(n)]
            self._observe(n)
            images = np.stack([image for image, _ in batch])
            try:
                rows = await self._voted(images)
            except Exception as error:  # noqa: BLE001 (whatever it is, who waits has to hear of it)
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(batch, rows, strict=True):
                if not future.done():  # its client may have gone
                    future.set_result(row)

    async def _voted(self, images: npt.NDArray[np.uint8]) -> list[Row]:
        """Rows of a batch, from as many voters as there are, and one more, should they end one after the other."""
        for _ in self._tasks:
            with suppress(WorkerGoneError):
                return await self.loaded.vote(images)
        return await self.loaded.vote(images)

    async def drain(self) -> None:
        """Wait for the requests that began with this version, then end it."""
        await self._none_open.wait()
        for task in self._tasks:
            task.cancel()
        await self.loaded.close()
