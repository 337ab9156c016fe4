"""Pictures on disk, in folders, archives and CSVs too → the champion's votes, and explanations of them."""

import asyncio
import csv
import hashlib
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import numpy as np
from pydantic import TypeAdapter

from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.decode import MAX_PIXELS, MAX_ROI_BYTES, GreyImage, read_picture
from mammo.data.rois import TABLE_FILE, read_rois
from mammo.evaluation.voting import RoiVote
from mammo.serve.loaded import Row, opened

if TYPE_CHECKING:
    from mammo.systems.explanation import Explanation

TARS: Final = (".tar", ".tar.gz", ".tgz")
_BROKEN: Final = (
    *(csv.Error, OSError, EOFError, LookupError, RuntimeError, ValueError),
    *(zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
"""What a file, an archive or a member of one raises that cannot be read."""


class Input(NamedTuple):
    """What may be a ROI's picture, and when its file or archive was written (in ns); only a regular file is opened."""

    name: str
    size: int
    written: int
    open: Callable[[], IO[bytes] | None] | None


def inputs_of(places: Sequence[Path]) -> Iterator[Input]:
    """The files of folders and archives (all below, but hidden ones and CSVs), those that CSVs name, and single files.

    Their order is fixed. `DataError` where a place does not exist or cannot be read.
    """
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: does not exist; name a folder, an archive, a CSV or a picture")
        try:
            yield from _inputs_of(place)
        except _BROKEN as error:
            raise DataError(f"{place}: cannot be read ({error}); if it is damaged, make it again") from error


def _inputs_of(place: Path) -> Iterator[Input]:
    written = place.stat().st_mtime_ns
    if place.is_dir():
        for path in sorted(place.iterdir()):
            if _passed_over(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                yield from _inputs_of(path)
            else:
                yield _file(path)
    elif place.suffix.lower() == ".zip":
        with zipfile.ZipFile(place) as zipped:
            for info in zipped.infolist():
                if not info.is_dir() and not _passed_over(info.filename):
                    yield Input(f"{place}/{info.filename}", info.file_size, written, partial(zipped.open, info))
    elif place.name.lower().endswith(TARS):
        with tarfile.open(place) as archive:
            while (member := archive.next()) is not None:
                if not member.isdir() and not _passed_over(member.name):
                    opener = partial(archive.extractfile, member) if member.isreg() else None
                    yield Input(f"{place}/{member.name}", member.size, written, opener)
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
    elif place.suffix.lower() == ".csv":
        with place.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            columns = [name.strip().lower() for name in next(rows, [])]
            if "path" not in columns:
                raise ValueError(f"it must have the column path, got {', '.join(columns)}")
            for row in filter(None, rows):
                yield _file(place.parent / row[columns.index("path")].strip())
    else:
        yield _file(place)


def _file(path: Path) -> Input:
    # A pipe or a device would never end.
    if not path.is_file():
        return Input(str(path), 0, 0, None)
    facts = path.stat()
    return Input(str(path), facts.st_size, facts.st_mtime_ns, lambda: path.open("rb"))


def _passed_over(name: str) -> bool:
    path = Path(name)  # a table lies beside its pictures
    return path.suffix.lower() == ".csv" or any(part.startswith(".") and part != ".." for part in path.parts)


def hashed(inputs: Iterator[Input], digest: Any) -> Iterator[Input]:
    """The inputs; their names, sizes and times pass into a hash."""
    for one in inputs:
        name = one.name.encode("utf-8", "backslashreplace")  # a file's name may be no text
        digest.update(b"%s\0%d\0%d\n" % (name, one.size, one.written))
        yield one._replace(name=name.decode())


def read_input(one: Input) -> tuple[Row, bytes]:
    """`input`, and `sha256` or `error`; and the content, of a large file only what shows that it is no ROI."""
    row: Row = {"input": one.name}
    try:
        if (file := one.open and one.open()) is None:
            raise OSError("it must be a regular file, but does not exist, or is a link or a device")
        with file:
            content = file.read(MAX_ROI_BYTES + 1)
            digest = hashlib.sha256(content)
            while more := file.read(2**20):
                digest.update(more)
    except _BROKEN as error:
        return row | {"error": f"{one.name}: cannot be read ({error}); check it"}, b""
    return row | {"sha256": digest.hexdigest()}, content


def predict_files(workspace: Workspace, places: Sequence[Path], bundle: Path | None = None) -> list[Row]:
    """One row for each picture: `file` and the fields of `RoiVote.row`.

    All are read first: one bad file refuses the whole call. `bundle` is the folder of a trained system that votes in
    the champion's place.
    """
    contents: list[tuple[str, bytes]] = []
    for one in inputs_of(places):
        read, content = read_input(one)
        if "error" in read:
            raise DataError(read["error"])
        contents.append((one.name, content))
    if not contents:
        raise DataError(f"{', '.join(map(str, places))}: must hold pictures of ROIs, has none; name others")

    async def predict() -> list[Row]:
        async with opened(workspace, bundle=bundle) as loaded:
            return await loaded.vote(np.stack([await loaded.decode(content, name) for name, content in contents]))

    rows = asyncio.run(predict())
    return [{"file": name} | _answer(row) for (name, _), row in zip(contents, rows, strict=True)]


def predict_film(
    workspace: Workspace, files: Sequence[Path], places: Sequence[str], bundle: Path | None = None
) -> list[Row]:
    """One row for each place of one film, cut as ingest cuts: `file`, `at` and the fields of `RoiVote.row`.

    Places are centres of ROIs, such as `535,599`: pixels from the film's top-left corner, counted from 1.
    """
    if len(files) > 1:
        raise DataError(f"--at: names places of one film, got {len(files)} files; predict one film at a time")
    path, at = files[0], [place_of(place, "--at") for place in places]
    content = read_picture(path)

    async def predict() -> list[Row]:
        async with opened(workspace, bundle=bundle) as loaded:
            return await loaded.vote(await loaded.cut(content, str(path), at))

    rows = asyncio.run(predict())
    return [{"file": str(path), "at": [x, y]} | _answer(row) for (x, y), row in zip(at, rows, strict=True)]


def write_csv(rows: Sequence[Row], out: TextIO) -> None:
    """Rows as CSV: lists as JSON, true and false in small letters, nothing for null."""
    table = csv.writer(out, lineterminator="\n")
    table.writerow(rows[0])
    for row in rows:
        values = row.values()
        table.writerow(one if isinstance(one, str) or one is None else json.dumps(one) for one in values)


def explain_rois(
    workspace: Workspace, names: Sequence[str], block: str | None = None
) -> list[tuple[Row, "Explanation"]]:
    """Row and explanation of the champion's decision about each ROI; one bad name refuses the whole call.

    `names` are picture files, or roi_ids of the workspace's ROI table (a file is preferred); `block` is of Grad-CAM,
    the system's default when None.
    """
    from mammo.systems.explanation import Explanation  # it takes PyTorch, which the other answers do without

    rois = _read_named(workspace, names)

    async def explain() -> list[tuple[Row, Explanation]]:
        async with opened(workspace) as loaded:
            images = [
                await loaded.decode(content, name) if isinstance(content, bytes) else content
                for name, (content, _, _) in zip(names, rois, strict=True)
            ]
            synthetic = bool(loaded.files.description["synthetic"])
            explained = []
            for name, image, (_, truth, phantom) in zip(names, images, rois, strict=True):
                row, maps = await loaded.explain(image, block)
                del row["grad_cam_png"], row["n_patches"]
                keys = ("system", "size_px", "patch_threshold", "n_agreeing")
                facts: Any = {key: row.pop(key) for key in keys}
                vote = TypeAdapter(RoiVote).validate_python(row)  # with the fields of its version's own code
                found = Explanation(image=image, vote=vote, block=row["block"], **facts, **maps)
                row = {"roi": name, "truth": truth} | row | {"synthetic": phantom or synthetic}
                explained.append((row, found))
            return explained

    return asyncio.run(explain())


def _answer(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "patch_scores"}


def place_of(text: str, option: str) -> tuple[float, float]:
    """A place in a film, `X,Y` in pixels; `DataError` where it is none."""
    try:
        x, y = map(float, text.split(","))
        if max(abs(x), abs(y)) <= MAX_PIXELS:  # nor nan, nor inf
            return x, y
    except ValueError:
        pass
    raise DataError(f"{option}: must be X,Y in pixels such as 535,599, got {text[:40]!r}; correct it")


def _read_named(workspace: Workspace, names: Sequence[str]) -> list[tuple[bytes | GreyImage, str | None, bool]]:
    """Content, truth and whether it is a phantom, of each picture file or, where there is none, roi_id."""
    table = workspace.rois / TABLE_FILE
    from_table = table.is_file() and not all(Path(name).exists() for name in names)
    rois = read_rois(workspace.rois) if from_table else None
    row_of = {} if rois is None else {roi_id: row for row, roi_id in enumerate(rois.table["roi_id"])}
    found: list[tuple[bytes | GreyImage, str | None, bool]] = []
    for name in names:
        if Path(name).exists():
            found.append((read_picture(Path(name)), None, False))
        elif rois is not None and name in row_of:
            fields = rois.table.iloc[row_of[name]]
            truth = Label(int(fields["label"])).title
            found.append((rois.images[row_of[name]], truth, bool(fields["synthetic"])))
        else:
            known = f"such as {next(iter(row_of))!r}" if row_of else "which does not exist"
            raise DataError(
                f"{name}: must be a picture file or a roi_id of {table} ({known}), but does not exist as either; check "
                "the path or the id"
            )
    return found
