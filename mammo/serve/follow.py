"""The service follows the registry: the champion votes, loaded beside the old one and checked first.

Votes of requests that come together are computed together; a queue that is full refuses.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient

from mammo.core.config import Config
from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace
from mammo.core.processes import usable_cpus
from mammo.data.decode import GreyImage
from mammo.serve.children import BusyError, Worker, WorkerGoneError
from mammo.serve.loaded import Loaded, Row, fetch_version
from mammo.track.history import CHALLENGER, CHAMPION
from mammo.track.registry import aliases
from mammo.track.store import connect

log = logging.getLogger("mammo.serve")
POLLS_TO_RETRY: Final = 60
VOTE_S: Final = 60


class Batcher:
    """The ROIs that wait for one version, and the tasks that have its voters vote on them.

    A batch is of what waits when a voter is free, so a lone ROI waits for nobody.
    """

    def __init__(self, loaded: Loaded, observe: Callable[[int], None]) -> None:
        self.loaded = loaded
        self._observe = observe
        self._waiting: asyncio.Queue[tuple[GreyImage, asyncio.Future[Row]]] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._run()) for _ in loaded.voters.workers]
        self._n_open = self._n_explained = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    @property
    def n_waiting(self) -> int:
        """ROIs that wait for a batch, or to be explained."""
        return self._waiting.qsize() + self._n_explained

    @contextmanager
    def held(self) -> Iterator[None]:
        """For a request that needs this version, which does not end before the block does."""
        self._n_open += 1
        self._none_open.clear()
        try:
            yield
        finally:
            self._n_open -= 1
            if not self._n_open:
                self._none_open.set()

    async def vote(self, images: list[GreyImage]) -> list[Row]:
        """The answers about ROIs, each `(120, 120)`.

        Raises:
            BusyError: the queue is full; `DataError` where it could never hold so many.
            WorkerGoneError: the version's processes ended again and again.
        """
        self._admit(len(images))
        futures = [asyncio.get_running_loop().create_future() for _ in images]
        for waiting in zip(images, futures, strict=True):
            self._waiting.put_nowait(waiting)
        return list(await asyncio.gather(*futures))

    async def explain(self, image: GreyImage) -> Row:
        """The answer about a ROI `(120, 120)` with its Grad-CAM; raises as `vote`. It shares its voter with none."""
        self._admit(1)
        self._n_explained += 1
        try:
            return (await self.loaded.explain(image))[0]
        finally:
            self._n_explained -= 1

    def _admit(self, n: int) -> None:
        limit = self.loaded.settings.queue
        if n > limit:
            raise DataError(f"body: at most {limit} ROIs may wait here, got {n}; send them in smaller requests")
        if self.n_waiting + n > limit:
            raise BusyError(
                f"{self.n_waiting} ROIs wait, and at most {limit} may, yours are {n}; send them again in a second"
            )

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            # What waits is for all voters that are free.
            share = -(-(1 + self._waiting.qsize()) // len(self._tasks))
            n = min(share, self.loaded.settings.max_batch)
            batch += [self._waiting.get_nowait() for _ in range(n - 1)]
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
                return await self.loaded.vote(images, VOTE_S)
        return await self.loaded.vote(images, VOTE_S)

    async def drain(self) -> None:
        """Wait for the requests that began with this version, then end it."""
        await self._none_open.wait()
        for task in self._tasks:
            task.cancel()
        await self.loaded.close()


@dataclass
class Follower:
    """The versions that are loaded, by number, and what the registry says.

    Attributes:
        aliases: as last read: `champion`, and `challenger` where there is one.
        refused: versions that failed their check, with the reason; they are tried again, since a server
            may have been away, or the machine too busy.
        trouble: why the registry could not be read; empty where it could. The loaded version goes on.
        observe_batch: told of each batch's size.
    """

    workspace: Workspace
    config: Config
    observe_batch: Callable[[int], None]
    aliases: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    _loaded: dict[str, Batcher] = field(default_factory=dict)
    _current: str = ""
    _spares: list[Worker] = field(default_factory=list)
    _client: MlflowClient = field(init=False)
    _draining: set[asyncio.Task[None]] = field(default_factory=set)
    _retry_at: dict[str, float] = field(default_factory=dict)
    _next: str | None = None
    _former: list[str] = field(default_factory=list)
    _preloading: asyncio.Task[None] | None = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self.config.register_.model_name

    @property
    def champion(self) -> Batcher:
        """The version that answers."""
        return self._loaded[self._current]

    @property
    def challenger(self) -> Batcher | None:
        """The version that may answer unseen, where one is loaded."""
        return self._loaded.get(self.aliases.get(CHALLENGER, ""))

    @property
    def drifted(self) -> bool:
        """Whether the alias names another version than the one that answers."""
        return self.aliases.get(CHAMPION) != self._current

    async def start(self) -> None:
        """Load the champion; `MammoError` where there is none, or it fails its check."""
        await self._load_spares()
        self._client = await asyncio.to_thread(connect, self.workspace)
        await self._ask()
        await self._load(self.aliases[CHAMPION])
        self._current = self.aliases[CHAMPION]

    async def run(self) -> None:
        """Ask the registry for ever, and follow it."""
        while True:
            await asyncio.sleep(self.config.serve.poll_s)
            try:
                await self.step()
                self.trouble = ""
            except Exception as error:  # noqa: BLE001 (whatever it is, the next move of the alias has to be followed)
                why = _told(error)
                if why != self.trouble:
                    log.error("the registry cannot be followed, version %s goes on: %s", self._current, why)
                self.trouble = why

    async def step(self) -> None:
        """Ask the registry once, and do what it says; `TrackingError` where it cannot be read, or has no champion."""
        await self._ask()
        champion, challenger = self.aliases[CHAMPION], self.aliases.get(CHALLENGER)
        expected = [number for number in (self._next, challenger) if number is not None]
        wanted = {champion, *expected}
        self.refused = {number: why for number, why in self.refused.items() if number in wanted}
        if champion not in self._loaded:  # else it need not wait until another is
            await self._have(champion)
        if champion in self._loaded and champion != self._current:
            log.warning("version %s answers in place of version %s", champion, self._current)
            self._former = [number for number in (*self._former, self._current) if number != champion]
            self._current = champion
        if expected and (self._preloading is None or self._preloading.done()):
            # Their turn may come, and then nobody should wait for them.
            self._preloading = asyncio.create_task(self._have(*expected))
        keep = {*wanted, self._current, *self._former[::-1][: self.config.serve.standby]}
        for number in self._loaded.keys() - keep:
            task = asyncio.create_task(self._loaded.pop(number).drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _have(self, *numbers: str) -> None:
        """Load versions, one after the other, unless they are loaded or were refused."""
        for number in numbers:
            async with self._one_at_a_time:
                waits = number in self.refused and self._retry_at[number] > time.monotonic()
                if number in self._loaded or waits:
                    continue
                try:
                    await self._load(number)
                    self.refused.pop(number, None)
                except Exception as error:  # noqa: BLE001 (whatever it is, it has to be told, and not at every poll)
                    why = self.refused[number] = _told(error)
                    self._retry_at[number] = time.monotonic() + POLLS_TO_RETRY * self.config.serve.poll_s
                    log.error("version %s is refused, version %s goes on: %s", number, self._current, why)

    async def _ask(self) -> None:
        self.aliases, self._next = await asyncio.to_thread(aliases, self.workspace, self._client, self.name)

    async def _load(self, number: str) -> None:
        """Load and check a version beside the others."""
        files = await asyncio.to_thread(fetch_version, self.workspace, self.name, number)
        voters, self._spares = self._spares, []
        loaded = Loaded(files, self.config, voters)
        try:
            await loaded.start()
            await loaded.check()
            self._loaded[number] = Batcher(loaded, self.observe_batch)
        except BaseException:
            await loaded.close()
            raise
        finally:
            await self._load_spares()

    async def _load_spares(self) -> None:
        """Start the next version's voters, whose libraries load while nobody waits for them.

        Those that the machine does not start now are started when their version is.
        """
        self._spares = [Worker("votes") for _ in range(self.config.serve.voters or usable_cpus())]
        await asyncio.gather(*(spare.load() for spare in self._spares), return_exceptions=True)

    async def close(self) -> None:
        """End every process."""
        if self._preloading is not None:
            self._preloading.cancel()
            await asyncio.gather(self._preloading, return_exceptions=True)
        await asyncio.gather(*self._draining)
        for batcher in self._loaded.values():
            await batcher.drain()
        await asyncio.gather(*(spare.close() for spare in self._spares))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, MammoError) else repr(error)
