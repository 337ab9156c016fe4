"""The files that folders, archives and CSVs name, one after the other."""

import csv
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from mammo.core.errors import DataError
from mammo.data.decode import MAX_ROI_BYTES

TARS: Final = (".tar", ".tar.gz", ".tgz")
_BROKEN: Final = (
    *(csv.Error, OSError, EOFError, LookupError, RuntimeError, ValueError),
    *(zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
"""What a file, an archive or a member of one raises that cannot be read."""


class Input(NamedTuple):
    """What may be a ROI's picture; it cannot be opened where it is no regular file."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None] | None


def inputs_of(places: Sequence[Path]) -> Iterator[Input]:
    """The files of folders (all below, but hidden ones), of archives and of CSVs, and single files; in a fixed order.

    Raises:
        DataError: a place does not exist, or is an archive or a CSV that cannot be read.
    """
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: does not exist; name a folder, an archive, a CSV or a picture")
        try:
            yield from _inputs_of(place)
        except _BROKEN as error:
            raise DataError(f"{place}: cannot be read ({error}); if it is damaged, make it again") from error


def _inputs_of(place: Path) -> Iterator[Input]:
    if place.is_dir():
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from _inputs_of(path)
            elif not _hidden(path.name):
                yield _file(path)
    elif place.suffix.lower() == ".zip":
        with zipfile.ZipFile(place) as zipped:
            for info in zipped.infolist():
                if not info.is_dir() and not _hidden(info.filename):
                    yield Input(f"{place}/{info.filename}", info.file_size, partial(zipped.open, info))
    elif place.name.lower().endswith(TARS):
        with tarfile.open(place) as archive:
            while (member := archive.next()) is not None:
                if not member.isdir() and not _hidden(member.name):
                    opener = partial(archive.extractfile, member) if member.isreg() else None
                    yield Input(f"{place}/{member.name}", member.size, opener)
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
    known = path.is_file()
    return Input(str(path), path.stat().st_size if known else 0, (lambda: path.open("rb")) if known else None)


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".")


def hashed(inputs: Iterator[Input], digest: Any) -> Iterator[Input]:
    """The inputs, as whose names and sizes pass into a hash."""
    for one in inputs:
        name = one.name.encode("utf-8", "backslashreplace")  # a file's name may be no text
        digest.update(b"%s\0%d\n" % (name, one.size))
        yield one._replace(name=name.decode())


def read_input(one: Input) -> tuple[dict[str, Any], bytes]:
    """`input`, and `sha256` or `error`; and the content, of a large file only what shows that it is no ROI."""
    row: dict[str, Any] = {"input": one.name}
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
