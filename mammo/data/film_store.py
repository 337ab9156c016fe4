"""Film files in a folder or in `all-mias.tar.gz`, read one at a time and never unpacked to disk."""

import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from mammo.errors import DataError

PHANTOM_MARK: Final = "phantom.json"
"""The file that tells a phantom folder from real films."""

MAX_FILE_BYTES: Final = 8 * 2**20
"""A film is 1 MiB; as a plain-text PGM it would have about 4."""
MAX_TOTAL_BYTES: Final = 4 * 2**30
MAX_FILES: Final = 5_000

_FILM: Final = re.compile(r"(mdb\d{3})\.pgm", re.IGNORECASE)
_TABLES: Final = ("info.txt", "readme")
"""Where the table of the films lies, best first: some copies of the archive call it README."""


@dataclass(frozen=True)
class StoredFile:
    """A file in a store.

    Attributes:
        name: what messages call it.
        read: returns its content.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class FilmStore:
    """Films and the table about them.

    Attributes:
        name: what messages call the store.
        info: the table of the films.
        films: film id → PGM file, in the order in which reading them is fast.
    """

    name: str
    info: StoredFile
    films: dict[str, StoredFile]


@contextmanager
def open_films(raw: Path) -> Iterator[FilmStore]:
    """Open a folder of films or a tar archive of one; both may nest the films in sub-folders.

    Raises:
        DataError: `raw` is missing, no such store, damaged, unsafe (links, names that lead outside, too
            much data), without a table, or names a film twice. Damage may show only while films are read.
    """
    if raw.is_dir():
        yield _sort_files(_files_of_folder(raw), str(raw))
        return
    try:
        with tarfile.open(raw, "r:*") as archive:
            yield _sort_files(_files_of_tar(archive, str(raw)), str(raw))
    except FileNotFoundError as error:
        raise DataError(
            f"{raw}: does not exist; put all-mias.tar.gz or its unpacked folder there (`mammo fetch` tells how)"
        ) from error
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{raw}: is not a whole tar archive of films ({error}); get it again") from error


def is_phantom(raw: Path) -> bool:
    """Whether `raw` is a folder of synthetic films."""
    return (raw / PHANTOM_MARK).is_file()


def _sort_files(files: Iterable[tuple[str, StoredFile]], store: str) -> FilmStore:
    """Tell films and tables by their names; everything else (licence, notes) is left alone."""
    tables: dict[str, StoredFile] = {}
    films: dict[str, StoredFile] = {}
    for file_name, file in files:
        film = _FILM.fullmatch(file_name)
        if film is None:
            tables.setdefault(file_name.lower(), file)
            continue
        film_id = film[1].lower()
        if film_id in films:
            raise DataError(f"{store}: each film must appear once, got {film_id} twice; remove one of them")
        films[film_id] = file
    for table in _TABLES:
        if table in tables:
            return FilmStore(store, tables[table], films)
    raise DataError(
        f"{store}: must hold Info.txt beside the films, got none; add it from the database's page"
    )


def _files_of_folder(raw: Path) -> Iterator[tuple[str, StoredFile]]:
    for path in sorted(raw.rglob("*")):
        if path.is_file():
            yield path.name, StoredFile(str(path), partial(_read_path, path))


def _files_of_tar(archive: tarfile.TarFile, store: str) -> Iterator[tuple[str, StoredFile]]:
    """Check each header before the data behind it is skipped over.

    The archive's order is kept: going back in a gzip stream means to unpack it from the start again.
    """
    total = 0
    for count, member in enumerate(archive, start=1):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
            raise DataError(
                f"{store}: members must be plain files inside the archive, got {member.name!r}; the archive is "
                "not to be trusted, delete it and get it again"
            )
        total += member.size
        if member.size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or count > MAX_FILES:
            raise DataError(
                f"{store}: must have at most {MAX_FILES} members of {MAX_FILE_BYTES} bytes, {MAX_TOTAL_BYTES} "
                f"in all, got {member.name!r} with {member.size} as number {count}; use the published archive"
            )
        if member.isreg():
            yield path.name, StoredFile(f"{store}: {member.name}", partial(_read_member, archive, member))


def _read_path(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: must have at most {MAX_FILE_BYTES} bytes, got {size}; use the published file"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "only regular members are kept"
    return file.read()
