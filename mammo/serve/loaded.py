"""A registered version, loaded: its files are checked against the registry, and its own code votes in processes."""

import asyncio
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.exceptions import MlflowException

import mammo
from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.files import DESCRIPTION_FILE, WEIGHTS_FILE, Workspace, read_json, sha256_of, tree_sha256
from mammo.core.processes import usable_cpus
from mammo.data.decode import MAX_ROI_BYTES, GreyImage
from mammo.serve.children import Pool, TooSlowError, Wanted, Worker
from mammo.serve.worker import rois_of
from mammo.track.check import BUNDLE_TAG
from mammo.track.history import CODE_TAG
from mammo.track.registry import REFERENCE_TAG, champion, version_of
from mammo.track.store import WEIGHTS_TAG, connect, first_line, tags_of

Row = dict[str, Any]
TOLERANCE: Final = 0.005
"""Of the reference's score: machines and numbers of threads differ in the last bits, other weights in the first."""
N_TIMED: Final = 5
FILMS_WAITING: Final = 16
"""Of up to 20 MiB each."""
UNREGISTERED: Final = "unregistered"
"""In place of a version's number."""


@dataclass(frozen=True)
class VersionFiles:
    """What a version votes with, on this machine: files of the logged model, or a copy that goes with this process."""

    name: str
    number: str
    bundle: Path
    code: Path
    """Folder of its own package."""
    reference: Row
    """Score and votes about the reference ROI."""
    description: Row
    """The bundle's."""
    run_id: str

    @property
    def system(self) -> str:
        """Such as `compact-model2`."""
        return str(self.description["architecture"]["system"])


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mammo-versions-")


@cache
def _downloaded(registry: str, where: str, uri: str) -> Path:
    """The files of a version: in their place, or a copy made once, for what a number stands for never changes."""
    if where.startswith("file:"):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    copy = tempfile.mkdtemp(dir=_downloads().name)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=copy))
    except BaseException:
        shutil.rmtree(copy)
        raise


def fetch_version(workspace: Workspace, name: str, number: str) -> VersionFiles:
    """Bring a version's files here and check them against the hashes that the registry keeps.

    Raises:
        TrackingError: the version is not there, its files are gone, or they are not those that were registered.
    """
    client, where = connect(workspace), ""
    try:
        found = version_of(client, name, number)
        tags, uri = tags_of(client, name, number), f"models:/{name}/{number}"
        where = client.get_model_version_download_uri(name, number)
        folder = _downloaded(mlflow.get_registry_uri(), where, uri)
    except (MlflowException, OSError) as error:
        remedy = "check the server and the network"
        if where.startswith("file:") or not mlflow.get_registry_uri().startswith("http"):
            remedy = "they lie where the store was made. If that folder was moved, empty mlruns/ and run `dvc repro`"
        raise TrackingError(
            f"{name} version {number}: its files cannot be read ({first_line(error)}); {remedy}"
        ) from error
    bundle, code = folder / "artifacts", folder / "code"
    if CODE_TAG not in tags:
        raise TrackingError(
            f"{name} version {number}: was registered by an older mammo, without the hash of its code; register "
            "it again with `dvc repro`"
        )
    hashes = {
        CODE_TAG: (code / "mammo", tree_sha256),
        BUNDLE_TAG: (bundle / DESCRIPTION_FILE, sha256_of),
        WEIGHTS_TAG: (bundle / WEIGHTS_FILE, sha256_of),
    }
    for tag, (path, hashed) in hashes.items():
        if not path.exists() or hashed(path) != tags.get(tag):
            remedy = "register this one again with `dvc repro` on an empty mlruns/"
            if not where.startswith("file:"):
                _downloaded.cache_clear()  # the next attempt fetches another; those of loaded versions are not needed
                shutil.rmtree(folder, ignore_errors=True)
                remedy = "check the server and the network"
            raise TrackingError(
                f"{name} version {number}: {path} must be what was registered (its hash {tag} is "
                f"{tags.get(tag)}); it was changed or damaged: serve another version with `mammo rollback`, or "
                f"{remedy}"
            )
    description, reference = read_json(bundle / DESCRIPTION_FILE), json.loads(tags[REFERENCE_TAG])
    return VersionFiles(name, found.number, bundle, code, reference, description, found.run_id)


class Loaded:
    """A version whose workers run: some that vote, some that decode ROIs, one for films.

    Requests that it refuses raise `MammoError`; those that it did not answer in time, `WorkerGoneError`. The libraries
    of its voters may be loaded already.
    """

    def __init__(self, files: VersionFiles, config: Config, voters: Sequence[Worker]) -> None:
        self.files, self.settings, self.bounding_box = files, config.serve, config.ingest.bounding_box
        self._order = {"code": str(files.code), "memory_mb": None, "nice": 0}
        limited = self._order | {"memory_mb": self.settings.decode_memory_mb}
        self.voters = Pool(voters)
        self.decoders = Pool([Worker("pictures", limited) for _ in range(self.settings.decoders)])
        self._preview = asyncio.Semaphore(1)
        # Who votes on ROIs need not wait for films, nor for more than one picture that is shown.
        self.films = Pool([Worker("pictures", limited | {"nice": 10})], FILMS_WAITING)

    async def start(self, threads: int = 1) -> None:
        """Start the workers that vote or decode ROIs and wait for them; that of films starts when it is asked."""
        votes = self._order | {"bundle": str(self.files.bundle), "threads": threads}
        votes |= {"model_name": self.files.name, "model_version": self.files.number}
        started = [voter.start(votes) for voter in self.voters.workers]
        started += [decoder.start(decoder.order) for decoder in self.decoders.workers]
        for one in await asyncio.gather(*started, return_exceptions=True):  # all, so that closing finds them
            if one:
                raise one

    async def check(self) -> float:
        """Vote on the reference ROI; returns the median seconds of a vote on one ROI.

        Raises:
            TrackingError: the answer is not the one that the version gave when it was registered.
        """
        seconds, rows = [], []
        for _ in range(N_TIMED):
            started = time.perf_counter()
            answer, _ = await self.voters.ask({"do": "reference"})
            seconds.append(time.perf_counter() - started)
            rows += answer["rows"]
        expected, found = self.files.reference["score"], rows[0]["score"]
        if not abs(found - expected) <= TOLERANCE:
            raise TrackingError(
                f"{self.files.name} version {self.files.number}: must give the reference ROI the score "
                f"{expected:.4f} as when it was registered, got {found:.4f}; this machine or its libraries "
                "compute something else"
            )
        return statistics.median(seconds)

    async def decode(self, content: bytes, name: str, wanted: Wanted | None = None) -> GreyImage:
        """A ROI's grey levels `(120, 120)` from a file's bytes."""
        header = {"do": "roi", "name": name}
        _, body = await self.decoders.ask(header, content, self.settings.decode_s, wanted)
        roi: GreyImage = rois_of(body)[0]
        return roi

    async def cut(
        self, content: bytes, name: str, places: Sequence[tuple[float, float]], wanted: Wanted | None = None
    ) -> npt.NDArray[np.uint8]:
        """ROIs `(n, 120, 120)` at places of a film, cut as in training."""
        header = {"do": "film", "name": name, "at": list(places), "bounding_box": self.bounding_box}
        _, body = await self.films.ask(header, content, self.settings.film_s, wanted)
        return rois_of(body)

    async def show(self, content: bytes, name: str, wanted: Wanted | None = None) -> tuple[Row, bytes]:
        """Kind and size of a picture, and a PNG of it for people."""
        header = {"do": "show", "name": name}
        if len(content) <= MAX_ROI_BYTES:
            async with self._preview:
                with suppress(TooSlowError):  # a large film in a small file
                    return await self.decoders.ask(header, content, self.settings.decode_s, wanted)
        return await self.films.ask(header, content, self.settings.film_s, wanted)

    async def pngs(self, images: npt.NDArray[np.uint8]) -> list[str]:
        """ROIs `(n, 120, 120)` as PNG in base64."""
        answer, _ = await self.decoders.ask({"do": "png"}, images.tobytes(), self.settings.decode_s)
        return list(answer["pngs"])

    async def vote(self, images: npt.NDArray[np.uint8], seconds: float | None = None) -> list[Row]:
        """The answer about each of the ROIs `(n, 120, 120)`, with its patch scores; in any time if none is told."""
        answer, _ = await self.voters.ask({"do": "vote"}, images.tobytes(), seconds)
        return list(answer["rows"])

    async def explain(self, image: GreyImage, block: str | None = None) -> tuple[Row, dict[str, Any]]:
        """Answer and Grad-CAM of a ROI: the row with what was found, and the maps of `systems.explanation`."""
        answer, body = await self.voters.ask({"do": "explain", "block": block}, image.tobytes())
        with np.load(io.BytesIO(body), allow_pickle=False) as maps:
            return answer["rows"][0], dict(maps)

    async def close(self) -> None:
        """End the workers; what they are asked meanwhile fails."""
        for pool in (self.voters, self.decoders, self.films):
            for worker in pool.workers:
                await worker.close()


@asynccontextmanager
async def opened(
    workspace: Workspace, number: str | None = None, voters: int = 1, bundle: Path | None = None
) -> AsyncIterator[Loaded]:
    """A version (the champion, if none is named) or a bundle, loaded for a while; its voters share the CPUs."""
    config, workers = Config.load_own(workspace.params), [Worker("votes") for _ in range(voters)]

    def fetch() -> VersionFiles:
        if bundle is not None:
            own = Path(mammo.__file__).parents[1]  # the code of this package votes
            description = read_json(bundle / DESCRIPTION_FILE)
            return VersionFiles(str(bundle), UNREGISTERED, bundle, own, {}, description, "")
        name = config.register_.model_name
        return fetch_version(workspace, name, number or champion(workspace, name).number)

    async with AsyncExitStack() as ending:
        for worker in workers:
            ending.push_async_callback(worker.close)
        await asyncio.gather(*(worker.load() for worker in workers))  # their libraries load while MLflow's do
        loaded = Loaded(await asyncio.to_thread(fetch), config, workers)
        ending.push_async_callback(loaded.close)
        await loaded.start(max(1, usable_cpus() // voters))
        yield loaded


def checked(workspace: Workspace, number: str) -> float:
    """Load a version as the service would and vote on the reference ROI; returns the seconds of a vote on one ROI.

    `MammoError` where it cannot be loaded or answers otherwise than when it was registered.
    """

    async def check() -> float:
        async with opened(workspace, number) as loaded:
            return await loaded.check()

    return asyncio.run(check())
