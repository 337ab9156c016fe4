"""The films of mini-MIAS: their files and their Info.txt."""

import hashlib
import logging
import re
import tarfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files as resources
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal, NamedTuple, cast

from mammo.core.errors import REMEDIES, DataError
from mammo.data.decode import GreyImage, decode_image

logger = logging.getLogger(__name__)

ARCHIVE: Final = "all-mias.tar.gz"
"""What the films are published as."""

PHANTOM_MARK: Final = "phantom.json"
"""The file that tells a phantom folder from real films."""

FILM_SIDE_PX: Final = 1024
"""Every mini-MIAS film is 1024 × 1024 pixels of 200 µm."""

_FILM: Final = re.compile(r"(mdb\d{3})\.pgm", re.IGNORECASE)
_TABLES: Final = ("info.txt", "readme")
"""Where the table of the films lies, best first: some copies of the archive call it README."""


class StoredFile(NamedTuple):
    """A file in a store: what messages call it, and what returns its content."""

    name: str
    read: Callable[[], bytes]


class FilmStore(NamedTuple):
    """Films and the table about them."""

    name: str
    """What messages call the store."""
    info: StoredFile
    films: dict[str, StoredFile]
    """Film id → PGM file, in the order in which reading them is fast."""
    synthetic: bool


@contextmanager
def open_films(raw: Path) -> Iterator[FilmStore]:
    """Open a folder of films, a tar archive of one, or a folder that holds `all-mias.tar.gz`.

    Films may lie in sub-folders.

    Raises:
        DataError: `raw` is missing, no such store, damaged, without a table, or names a film twice. Damage may show
            only while films are read.
    """
    if (raw / ARCHIVE).is_file():
        raw /= ARCHIVE
    if raw.is_dir():
        paths = (path for path in sorted(raw.rglob("*")) if path.is_file())
        yield _sort_files(((path.name, StoredFile(str(path), path.read_bytes)) for path in paths), str(raw))
        return
    if not raw.exists():
        raise DataError(
            f"{raw}: does not exist; put all-mias.tar.gz or its unpacked folder there (`mammo fetch` tells how)"
        )
    try:
        with tarfile.open(raw, "r:*") as archive:
            yield _sort_files(_files_of_tar(archive, str(raw)), str(raw))
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if getattr(error, "errno", None) in REMEDIES:  # of the machine, perhaps where the films are written
            raise
        raise DataError(f"{raw}: is not a whole tar archive of films ({error}); get it again") from error


def _sort_files(files: Iterable[tuple[str, StoredFile]], store: str) -> FilmStore:
    """Tell films and tables by their names; everything else (licence, notes) is left alone."""
    tables: dict[str, StoredFile] = {}
    films: dict[str, StoredFile] = {}
    for file_name, file in files:
        film = _FILM.fullmatch(file_name)
        if film is None:
            tables.setdefault(file_name.lower(), file)
        elif films.setdefault(film[1].lower(), file) is not file:
            raise DataError(f"{store}: each film must appear once, got {film[1].lower()} twice; remove one of them")
    info = next((tables[name] for name in _TABLES if name in tables), None)
    if info is None:
        raise DataError(f"{store}: must hold Info.txt beside the films, got none; add it from the database's page")
    return FilmStore(store, info, films, PHANTOM_MARK in tables)


def _files_of_tar(archive: tarfile.TarFile, store: str) -> Iterator[tuple[str, StoredFile]]:
    """The plain files in the archive's order: going back in a gzip stream means to unpack it from the start again."""
    for member in archive:
        if member.isreg():
            stored = StoredFile(f"{store}: {member.name}", partial(_read_member, archive, member))
            yield PurePosixPath(member.name).name, stored


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with cast(IO[bytes], archive.extractfile(member)) as file:
        return file.read()


def is_phantom(raw: Path) -> bool:
    """Whether `raw` is a folder of synthetic films."""
    return (raw / PHANTOM_MARK).is_file()


def holds_films(folder: Path) -> bool:
    """Whether `folder` holds films or their archive."""
    return (folder / ARCHIVE).is_file() or any(_FILM.fullmatch(path.name) for path in folder.rglob("*.*"))


def check_films(raw: Path) -> None:
    """Check that `raw` is a mini-MIAS archive or folder whose films and table agree, pixels aside; else `DataError`."""
    with open_films(raw) as store:
        read_annotations(store)


_STARTS_ROW: Final = re.compile(r"\s*mdb\d+\s+\S")
_ROW: Final = re.compile(
    r"(?P<film>mdb\d{3})\s+(?P<tissue>[FGD])\s+(?:(?P<normal>NORM)"
    r"|(?P<abnormality>CALC|CIRC|SPIC|MISC|ARCH|ASYM)\s+(?P<severity>[BM])"
    r"(?:\s+(?P<x>\d{1,4})\s+(?P<y>\d{1,4})\s+(?P<radius>\d{1,4})|\s+\*NOTE 3\*)?)"
)


@dataclass(frozen=True)
class Annotation:
    """One row: a lesion, or the statement that a film is normal.

    Attributes:
        film_id: `mdb001` and so on.
        tissue: F (fatty), G (fatty-glandular) or D (dense-glandular).
        abnormality: CALC, CIRC, SPIC, MISC, ARCH, ASYM or NORM.
        severity: B or M; None for a normal film.
        x_px, y_px: centre from the top-left corner (the file counts y from the bottom: y_px = 1024 − y); None
            where the row gives no place.
        radius_px: of a circle around the lesion; None like the centre.
    """

    film_id: str
    tissue: str
    abnormality: str
    severity: str | None = None
    x_px: int | None = None
    y_px: int | None = None
    radius_px: int | None = None


Laterality = Literal["right", "left"]


def film_number(film_id: str) -> int:
    """The number in a film's name: `mdb012` → 12."""
    return int(film_id.removeprefix("mdb"))


def patient_of(film_id: str) -> str:
    """The patient of a film. Films (1, 2), (3, 4) and so on are the two breasts of one: `mdb002` → `p001`."""
    return f"p{(film_number(film_id) + 1) // 2:03d}"


def laterality_of(film_id: str) -> Laterality:
    """The breast of a film: odd numbers are right, even numbers left (the database's notes)."""
    return "right" if film_number(film_id) % 2 else "left"


def read_annotations(store: FilmStore) -> list[Annotation]:
    """Parse the table of a store; `DataError` where it is damaged, or names other films than are there."""
    annotations = parse_info(store.info.read(), store.info.name)
    named = {one.film_id for one in annotations}
    for missing in sorted(named - store.films.keys()):
        raise DataError(
            f"{store.name}: {missing}.pgm must be there as {store.info.name} names it, got none; "
            "complete the films from the published archive"
        )
    for unnamed in sorted(store.films.keys() - named):
        raise DataError(
            f"{store.info.name}: must have a row for {unnamed}, whose film is there, got none; "
            "use the table that comes with the films"
        )
    return annotations


def parse_info(content: bytes, name: str) -> list[Annotation]:
    """Rows of an `Info.txt`, in the file's order: the lines that begin with a film's name and go on.

    Raises:
        DataError: there is none, or one is damaged; the message names the line.
    """
    lines = enumerate(content.removeprefix(BOM_UTF8).decode("latin-1").splitlines(), start=1)
    rows = [(number, line.strip()) for number, line in lines if _STARTS_ROW.match(line)]
    if not rows:
        raise DataError(
            f"{name}: must hold rows such as 'mdb001 G CIRC B 535 425 197', got none; use the Info.txt "
            "that comes with the films"
        )
    return [_parse_row(line, f"{name}: line {number}") for number, line in rows]


def _parse_row(line: str, where: str) -> Annotation:
    match = _ROW.fullmatch(line)
    rule = "be 'film tissue NORM' or 'film tissue abnormality severity [x y radius]'"
    if match:
        abnormality = match["normal"] or match["abnormality"]
        row = Annotation(match["film"], match["tissue"], abnormality, match["severity"])
        if match["x"] is None:
            return row
        x, y, radius = int(match["x"]), int(match["y"]), int(match["radius"])
        if max(x, y) <= FILM_SIDE_PX and 1 <= radius <= FILM_SIDE_PX // 2:
            return replace(row, x_px=x, y_px=FILM_SIDE_PX - y, radius_px=radius)
        rule = f"have x and y up to {FILM_SIDE_PX} and a radius of 1 to {FILM_SIDE_PX // 2}"
    raise DataError(f"{where} must {rule}, got {line!r}; restore the row from the original file")


def read_films(store: FilmStore, wanted: Collection[str]) -> Iterator[tuple[str, GreyImage]]:
    """Decode the wanted films (ids) one at a time, so that memory holds a single one.

    Of films that are no phantoms, those whose pixels are not the published ones are warned about.

    Raises:
        DataError: a film is damaged or not of mini-MIAS's size.
    """
    for film_id, file in store.films.items():
        if film_id not in wanted:
            continue
        film = decode_image(file.read(), file.name)
        if film.shape != (FILM_SIDE_PX, FILM_SIDE_PX):
            raise DataError(
                f"{file.name}: a mini-MIAS film must be {FILM_SIDE_PX} x {FILM_SIDE_PX} pixels, got "
                f"{film.shape[1]} x {film.shape[0]}; use the films of all-mias.tar.gz unchanged"
            )
        if not store.synthetic and hashlib.sha256(film.tobytes()).hexdigest() != _genuine().get(film_id):
            logger.warning("%s: its pixels are not those of the published film; somebody altered it", file.name)
        yield film_id, film


@cache
def _genuine() -> dict[str, str]:
    """SHA-256 of the pixels of each of the 322 published films."""
    table = resources("mammo.data").joinpath("genuine_films.txt").read_text()
    return dict(line.split() for line in table.splitlines())
