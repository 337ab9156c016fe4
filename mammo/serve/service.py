"""The service's parts together: which version answers and what is said of it, what is counted, who is let in."""

import asyncio
import json
import os
import random
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.data.decode import GreyImage
from mammo.data.patches import grid_corners
from mammo.evaluation.metrics import TITLES
from mammo.serve.follow import Batcher, Follower
from mammo.serve.loaded import Row, VersionFiles
from mammo.serve.log import PredictionLog
from mammo.serve.requests import RefusedError
from mammo.track.store import text_of

TOKEN: Final = "MAMMO_SERVE_TOKEN"
"""In the environment: the bearer token that `/v1` wants, if any."""
SHOWN: Final = ("auc_score", "accuracy", "recall", "specificity")
SIZES = (1, 2, 4, 8, 16, 32, 64)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """Counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        shared: Any = {"registry": self.registry}
        self.votes = Counter("mammo_votes", "ROIs voted on", ["version", "label"], **shared)
        self.referrals = Counter("mammo_referrals", "ROIs referred to a reader", ["version"], **shared)
        self.refused = Counter("mammo_refused", "Requests of /v1 without an answer", ["status"], **shared)
        self.queue = Gauge(
            "mammo_queue",
            "ROIs of the version that answers which are in no batch yet, and ROIs being explained",
            **shared,
        )
        self.batch = Histogram("mammo_batch_size", "ROIs voted on together", buckets=SIZES, **shared)
        self.decode = Histogram("mammo_decode_seconds", "Decoding of a request's pictures", buckets=SECONDS, **shared)
        self.vote = Histogram("mammo_vote_seconds", "From decoded to voted, with waiting", buckets=SECONDS, **shared)
        self.drifted = Gauge("mammo_alias_drift", "1 while the alias champion names another version", **shared)
        self._loaded = Gauge("mammo_version_loaded", "1 for the version that answers", ["version"], **shared)

    def answered(self, row: Mapping[str, Any]) -> None:
        """Count an answer."""
        self.votes.labels(row["model_version"], row["label"]).inc()
        self.referrals.labels(row["model_version"]).inc(int(row["referral"]))

    def loaded(self, version: str) -> None:
        """Name the version that answers."""
        self._loaded.clear()
        self._loaded.labels(version).set(1)


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
        self._results: dict[str, Row] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the champion, and follow it until the end of the block."""
        await self.follower.start()
        following = asyncio.create_task(self.follower.run())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await asyncio.gather(*self.shadows, return_exceptions=True)
            await self.follower.close()
            self.predictions.close()

    async def told(self, batcher: Batcher) -> Row:
        """A version for people; the results of its test are asked of its run until they are had."""
        files = batcher.loaded.files
        if files.number not in self._results:
            text = await asyncio.to_thread(text_of, files.run_id, "evaluate/results.json")
            self._results |= {files.number: json.loads(text)} if text else {}
        return describe(files, self._results.get(files.number))

    async def answer(
        self,
        batcher: Batcher,
        images: npt.NDArray[np.uint8],
        started: float,
        road: str,
        names: Sequence[Row],
        picture: bool,
    ) -> list[Row]:
        """Vote, count, write down.

        `images` are `(n, 120, 120)`, and began to be decoded at `started` on `time.perf_counter`. An answer begins with
        its ROI's `names`, and ends with a PNG of it where a `picture` is wanted.
        """
        decoded = time.perf_counter()
        self.measures.decode.observe(decoded - started)
        rows = await batcher.vote(list(images))
        self.measures.vote.observe(time.perf_counter() - decoded)
        self.note(images, rows, road, started)
        shown = await batcher.loaded.pngs(images) if picture else [None] * len(rows)
        return [name | row | {"picture": png} for name, row, png in zip(names, rows, shown, strict=True)]

    def note(self, images: npt.NDArray[np.uint8], rows: Sequence[Row], road: str, started: float) -> None:
        """Count and write down answers; a share of the ROIs goes to the challenger afterwards."""
        for image, row in zip(images, rows, strict=True):
            self.measures.answered(row)
            challenger = self.follower.challenger
            if challenger and random.random() < self.config.serve.shadow_share:
                task = asyncio.create_task(self._shadow(challenger, image, row, road, started))
                self.shadows.add(task)
                task.add_done_callback(self.shadows.discard)
            else:
                self.predictions.write(row, image, road, started, None)

    async def _shadow(self, challenger: Batcher, image: GreyImage, row: Row, road: str, started: float) -> None:
        other = None
        with suppress(MammoError), challenger.held():
            (other,) = await challenger.vote([image])
        self.predictions.write(row, image, road, started, other)


@asynccontextmanager
async def admitted(service: Service, request: Request) -> AsyncIterator[Batcher]:
    """The version that answers a request, held until its end, for a client that has not too many of them open."""
    client, limit = request.client.host if request.client else "", service.config.serve.per_client
    if service.open_of[client] >= limit:
        raise RefusedError(429, f"client: at most {limit} requests at a time; send this one again in a second")
    service.open_of[client] += 1
    batcher = service.follower.champion
    try:
        with batcher.held():
            yield batcher
    finally:
        service.open_of[client] -= 1
        if not service.open_of[client]:
            del service.open_of[client]


def describe(files: VersionFiles, results: Row | None) -> Row:
    """A version for people: system, data, grid, rule, and its run's estimates with intervals, if it was tested."""
    bundle, kept = files.description, ("value", "ci_low", "ci_high", "n")
    grid = (bundle["size_px"], bundle["stride_px"])
    judged = results["systems"].get(files.system, {"roi": {}})["roi"] if results else {}
    return {
        "model_name": files.name,
        "model_version": files.number,
        "system": files.system,
        "synthetic": bundle["synthetic"],
        "data": results["data"]["note"] if results else "no test results at hand",
        "size_px": bundle["size_px"],
        "corners_px": grid_corners(*grid, corner_patches=bundle["corner_patches"]).tolist(),
        "vote": bundle["vote"],
        "coverage": round(1 - bundle["conformal"]["alpha"], 12),
        "estimates": [
            {"name": TITLES[name]} | {key: judged[name][key] for key in kept} for name in SHOWN if name in judged
        ],
    }
