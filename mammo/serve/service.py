"""The service's parts together: which version answers, what is counted and written down, who is let in."""

import asyncio
import os
import random
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from starlette.requests import Request

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.data.decode import GreyImage
from mammo.serve.batching import Batcher, BusyError
from mammo.serve.children import WorkerGoneError
from mammo.serve.follow import Follower
from mammo.serve.log import PredictionLog
from mammo.serve.measures import Measures
from mammo.serve.requests import RefusedError

TOKEN: Final = "MAMMO_SERVE_TOKEN"
"""In the environment: the bearer token that `/v1` wants, if any."""
Row = dict[str, Any]


class Service:
    """The service's parts: what it follows, counts, and writes down."""

    def __init__(self, workspace: Workspace) -> None:
        self.config = Config.load_own(workspace.params)
        self.measures = Measures()
        self.follower = Follower(workspace, self.config, self.measures.batch.observe)
        self.predictions = PredictionLog(workspace.predictions)
        self.open_of: Tally[str] = Tally()
        self.draining = False
        self.shadows: set[asyncio.Task[None]] = set()
        self.token = os.environ.get(TOKEN, "")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the champion, and follow it until the end of the block.

        Raises:
            MammoError: there is none, or it fails its check.
        """
        await self.follower.start()
        following = asyncio.create_task(self.follower.run())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(*self.shadows)
            await self.follower.close()
            self.predictions.close()

    async def answer(
        self, batcher: Batcher, images: Sequence[GreyImage], road: str, started: float
    ) -> list[Row]:
        """Vote, count, write down; a share of the ROIs goes to the challenger afterwards."""
        decoded = time.perf_counter()
        self.measures.decode.observe(decoded - started)
        rows = await batcher.vote(list(images))
        self.measures.vote.observe(time.perf_counter() - decoded)
        for image, row in zip(images, rows, strict=True):
            self.measures.answered(row)
            challenger = self.follower.challenger
            if challenger is not None and random.random() < self.config.serve.shadow_share:
                task = asyncio.create_task(self._shadow(challenger, image, row, road, started))
                self.shadows.add(task)
                task.add_done_callback(self.shadows.discard)
            else:
                self.predictions.write(row, image, road, started, None)
        return rows

    async def _shadow(
        self, challenger: Batcher, image: GreyImage, row: Row, road: str, started: float
    ) -> None:
        other = None
        challenger.enter()
        with suppress(MammoError):
            (other,) = await challenger.vote([image])
        challenger.leave()
        self.predictions.write(row, image, road, started, other)


@asynccontextmanager
async def admitted(service: Service, request: Request) -> AsyncIterator[Batcher]:
    """The version that answers a request, held until its end, for a client that has not too many of them open."""
    client, limit = request.client.host if request.client else "", service.config.serve.per_client
    if service.open_of[client] >= limit:
        raise RefusedError(
            429, f"client: at most {limit} requests at a time; send this one again in a second", 1
        )
    service.open_of[client] += 1
    batcher = service.follower.champion
    batcher.enter()
    try:
        yield batcher
    except BusyError as error:
        raise RefusedError(503, str(error), 1) from error
    except WorkerGoneError as error:
        raise RefusedError(422 if "within" in str(error) else 503, str(error), 1) from error
    except MammoError as error:
        raise RefusedError(422, str(error)) from error
    finally:
        batcher.leave()
        service.open_of[client] -= 1
        if not service.open_of[client]:
            del service.open_of[client]
