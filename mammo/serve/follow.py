"""The service follows the registry: the champion votes, loaded beside the old one and checked first."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mlflow import MlflowClient

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.core.processes import usable_cpus
from mammo.serve.batching import Batcher
from mammo.serve.children import Worker
from mammo.serve.loaded import Loaded, fetch_version
from mammo.track.history import CHALLENGER, CHAMPION
from mammo.track.registry import aliases
from mammo.track.store import connect

log = logging.getLogger("mammo.serve")
POLLS_TO_RETRY: Final = 60


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
        """The version that answers unseen, where one is loaded for that."""
        return self._loaded.get(self.aliases.get(CHALLENGER, "")) if self.config.serve.shadow_share else None

    @property
    def drifted(self) -> bool:
        """Whether the alias names another version than the one that answers."""
        return self.aliases.get(CHAMPION) != self._current

    async def start(self) -> None:
        """Load the champion.

        Raises:
            MammoError: there is none, or it fails its check.
        """
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
                self._say(str(error) if isinstance(error, MammoError) else repr(error))

    async def step(self) -> None:
        """Ask the registry once, and do what it says.

        Raises:
            TrackingError: the registry cannot be read, or has no champion.
        """
        await self._ask()
        champion, challenger = self.aliases[CHAMPION], self.aliases.get(CHALLENGER)
        expected = [number for number in (self._next, challenger) if number is not None]
        self.refused = {
            number: why for number, why in self.refused.items() if number in (champion, *expected)
        }
        await self._have(champion)
        if champion in self._loaded and champion != self._current:
            log.warning("version %s answers in place of version %s", champion, self._current)
            self._former = [number for number in (*self._former, self._current) if number != champion]
            self._current = champion
        if expected and (self._preloading is None or self._preloading.done()):
            # Their turn may come, and then nobody should wait for them.
            self._preloading = asyncio.create_task(self._have_all(expected))
        standby = self.config.serve.standby
        keep = {champion, *expected, self._current, *self._former[len(self._former) - standby :]}
        for number in self._loaded.keys() - keep:
            self._end(self._loaded.pop(number))

    async def _have_all(self, numbers: list[str]) -> None:
        for number in numbers:
            await self._have(number)

    async def _have(self, number: str) -> None:
        """Load a version unless it is loaded or was refused."""
        async with self._one_at_a_time:
            waits = number in self.refused and self._retry_at[number] > time.monotonic()
            if number in self._loaded or waits:
                return
            try:
                await self._load(number)
                self.refused.pop(number, None)
            except MammoError as error:
                self.refused[number] = str(error)
                self._retry_at[number] = time.monotonic() + POLLS_TO_RETRY * self.config.serve.poll_s
                log.error("version %s is refused, version %s goes on: %s", number, self._current, error)

    async def _ask(self) -> None:
        self.aliases, self._next = await asyncio.to_thread(aliases, self.workspace, self._client, self.name)

    def _say(self, text: str) -> None:
        if self.trouble != text:
            log.error("the registry cannot be followed, version %s goes on: %s", self._current, text)
        self.trouble = text

    async def _load(self, number: str) -> None:
        """Load and check a version beside the others."""
        files = await asyncio.to_thread(fetch_version, self.workspace, self.name, number)
        voters, self._spares = self._spares, []
        loaded = Loaded(files, self.config.serve, self.config.ingest.bounding_box, voters)
        try:
            await loaded.start()
            await loaded.check()
        except BaseException:
            await loaded.close()
            raise
        finally:
            await self._load_spares()
        self._loaded[number] = Batcher(loaded, self.observe_batch)

    async def _load_spares(self) -> None:
        """Start the next version's voters, whose libraries load while nobody waits for them."""
        self._spares = [Worker("votes") for _ in range(self.config.serve.voters or usable_cpus())]
        await asyncio.gather(*(spare.load() for spare in self._spares))

    def _end(self, batcher: Batcher) -> None:
        task = asyncio.create_task(batcher.drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def close(self) -> None:
        """End every process."""
        if self._preloading is not None:
            await self._preloading
        for task in list(self._draining):
            await task
        for batcher in self._loaded.values():
            await batcher.drain()
        await asyncio.gather(*(spare.close() for spare in self._spares))
