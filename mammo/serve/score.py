"""Many pictures of ROIs → one table of votes, in chunks: a kill costs one, and the same call goes on after it."""

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace, atomic_path, read_json, write_json
from mammo.core.processes import usable_cpus
from mammo.data.decode import PHANTOM_ROI, GreyImage, read_roi
from mammo.serve.children import WorkerGoneError
from mammo.serve.loaded import Loaded, Row, opened
from mammo.serve.predict import Input, hashed, inputs_of, read_input

CHUNK: Final = 256
"""Inputs of a part of the table."""
BATCH: Final = 32
"""ROIs that are voted on together: no setting, since another number moves the last bits of the scores."""
MANIFEST: Final = "manifest.json"


class Scored(NamedTuple):
    """What a table holds: its rows, those of them with an error, and whose votes."""

    n_rows: int
    n_errors: int
    model_version: str


Prepared = tuple[Row, GreyImage | None]


def score(
    workspace: Workspace,
    places: Sequence[Path],
    out: Path,
    number: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Let a version (the champion, if none is named) vote on every picture of folders, archives, CSVs and files.

    `out` gets a row for each input, in their order: `input`, `sha256` of the file, the version's row with its
    `patch_scores`, and `error`; where that is said, the input is no readable ROI and the rest is null. Parts of the
    table wait in the folder `OUT.parts` until all are there; `DataError` if it is of other inputs or another version.
    """
    if any(out.resolve().is_relative_to(place.resolve()) for place in places):
        raise DataError(f"{out}: must lie outside of the inputs, or it would be one; choose another --out")
    digest = hashlib.sha256()
    total = sum(1 for _ in hashed(inputs_of(places), digest))
    if not total:
        raise DataError(f"{', '.join(map(str, places))}: must hold a picture of a ROI, got none; add some")
    folder = out.with_name(f"{out.name}.parts")

    async def run() -> Scored:
        async with opened(workspace, number, voters=usable_cpus()) as loaded:
            await loaded.check()
            files = loaded.files
            manifest: Row = {"model_name": files.name, "model_version": files.number}
            manifest |= {"weights_sha256": files.description["weights_sha256"]}
            manifest |= {"n_inputs": total, "inputs_sha256": digest.hexdigest()}
            manifest |= {"chunk": CHUNK, "batch": BATCH}
            _begin(folder, manifest)
            schema, seen = await _schema(loaded), hashlib.sha256()
            inputs, ready = hashed(inputs_of(places), seen), list[Prepared]()
            for part in range(-(-total // CHUNK) + 1):
                # While a part is voted on, the next is read and decoded.
                ready, _ = await asyncio.gather(
                    _prepare(loaded, inputs, _part(folder, part)),
                    _vote(loaded, ready, _part(folder, part - 1), schema),
                )
                progress(min(part * CHUNK, total), total)
            if seen.digest() != digest.digest():
                raise DataError(f"{folder}: the inputs changed meanwhile; delete the folder and run again")
            return Scored(total, _join(folder, out, schema), files.number)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                scored = asyncio.run(run())
                (folder / MANIFEST).unlink()
                return scored
            finally:
                if not (folder / MANIFEST).is_file():  # done, or never begun
                    shutil.rmtree(folder)
    except Timeout as error:
        raise MammoError(f"{folder}: another `mammo score` is writing it; wait for its end") from error


def _begin(folder: Path, manifest: Row) -> None:
    """Write down what the parts in a folder are of, or check it."""
    path = folder / MANIFEST
    if not path.is_file():
        for left in folder.glob("*.parquet"):  # of a folder that was being removed
            left.unlink()
        write_json(path, manifest)
    if (before := read_json(path)) != manifest:
        changed = ", ".join(f"{name} was {before.get(name)}" for name in manifest if before.get(name) != manifest[name])
        raise DataError(
            f"{folder}: holds the beginning of another table ({changed}); finish that one, with the same inputs and "
            f"--version {before.get('model_version')}, or delete the folder"
        )


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.parquet"


async def _schema(loaded: Loaded) -> pa.Schema:
    """Columns and types as the version's own code answers."""
    (row,) = await loaded.vote(read_roi(PHANTOM_ROI)[None])
    fields = pa.Table.from_pylist([{"input": "", "sha256": ""} | row | {"error": ""}]).schema
    return pa.schema([one.with_type(pa.string()) if pa.types.is_null(one.type) else one for one in fields])


async def _prepare(loaded: Loaded, inputs: Iterator[Input], part: Path) -> list[Prepared]:
    """Read and decode the inputs of a part; nothing where the part is there."""
    chunk = islice(inputs, CHUNK)
    if part.exists():
        await asyncio.to_thread(lambda: sum(1 for _ in chunk))
        return []
    read = await asyncio.to_thread(lambda: [read_input(one) for one in chunk])
    return await asyncio.gather(*(_decode(loaded, row, content) for row, content in read))


async def _decode(loaded: Loaded, row: Row, content: bytes) -> Prepared:
    for attempt in () if "error" in row else range(2):
        try:
            return row, await loaded.decode(content, row["input"])
        except MammoError as error:
            if attempt or not isinstance(error, WorkerGoneError):  # which may be too slow when all is busy
                row |= {"error": str(error)}
                break
    return row, None


async def _vote(loaded: Loaded, ready: list[Prepared], part: Path, schema: pa.Schema) -> None:
    """Write the part of what was prepared, if anything was."""
    if not ready:
        return
    images = [image for _, image in ready if image is not None]
    batches = (np.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
    following = chain.from_iterable(await asyncio.gather(*map(loaded.vote, batches)))
    rows = [row if image is None else row | next(following) for row, image in ready]
    with atomic_path(part) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)


def _join(folder: Path, out: Path, schema: pa.Schema) -> int:
    """Make one table of the parts; returns its number of errors."""
    whole, n_errors = folder / "whole", 0
    with pq.ParquetWriter(whole, schema) as writer:
        for part in sorted(folder.glob("[0-9]*.parquet")):
            table = pq.read_table(part)
            n_errors += len(table) - table["error"].null_count
            writer.write_table(table)
    whole.replace(out)
    return n_errors
