"""The films of mini-MIAS: their files, their Info.txt, and the ROIs cut from them."""

import logging
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.records import Label
from mammo.data.decode import decode_image
from mammo.data.extraction import choose_normal_films, draw_normal_centre, extract_roi, preprocess_film
from mammo.data.rois import Progress, RoiSet, make_roi_set

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


FILM_SIDE_PX: Final = 1024
"""Every mini-MIAS film is 1024 × 1024 pixels of 200 µm."""

Laterality = Literal["right", "left"]

_STARTS_ROW: Final = re.compile(r"mdb\d+\s+\S")
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


def film_number(film_id: str) -> int:
    """The number in a film's name: `mdb012` → 12."""
    return int(film_id.removeprefix("mdb"))


def patient_of(film_id: str) -> str:
    """The patient of a film. Films (1, 2), (3, 4) and so on are the two breasts of one: `mdb002` → `p001`."""
    return f"p{(film_number(film_id) + 1) // 2:03d}"


def laterality_of(film_id: str) -> Laterality:
    """The breast of a film: odd numbers are right, even numbers left (the database's notes)."""
    return "right" if film_number(film_id) % 2 else "left"


def parse_info(content: bytes, name: str) -> list[Annotation]:
    """Read the table of an `Info.txt`.

    Returns:
        The rows in the file's order.

    Raises:
        DataError: there is no table, a line of it is no row, or two rows contradict each other; the message
            names the line.
    """
    lines = content.decode("latin-1").splitlines()
    starts = [index for index, line in enumerate(lines) if _STARTS_ROW.match(line.lstrip())]
    if not starts:
        raise DataError(
            f"{name}: must hold rows such as 'mdb001 G CIRC B 535 425 197', got none; use the Info.txt "
            "that comes with the films"
        )
    end = starts[-1] + 1
    while end < len(lines) and lines[end].strip():
        end += 1
    rows: list[Annotation] = []
    for number, line in enumerate(lines[starts[0] : end], start=starts[0] + 1):
        if line.strip():
            rows.append(_parse_row(line, number, name))
            _check_consistent(rows, number, name)
    return rows


def _parse_row(line: str, number: int, name: str) -> Annotation:
    match = _ROW.fullmatch(line.strip())
    if match is None:
        raise _garbled(
            name,
            number,
            line,
            "must be 'film tissue NORM' or 'film tissue abnormality severity [x y radius]'",
        )
    if match["normal"]:
        return Annotation(match["film"], match["tissue"], "NORM")
    lesion = Annotation(match["film"], match["tissue"], match["abnormality"], match["severity"])
    if match["x"] is None:
        return lesion
    x, y, radius = int(match["x"]), int(match["y"]), int(match["radius"])
    if max(x, y) > FILM_SIDE_PX or not 1 <= radius <= FILM_SIDE_PX // 2:
        raise _garbled(
            name,
            number,
            line,
            f"must have x and y up to {FILM_SIDE_PX} and a radius of 1 to {FILM_SIDE_PX // 2}",
        )
    return Annotation(
        lesion.film_id, lesion.tissue, lesion.abnormality, lesion.severity, x, FILM_SIDE_PX - y, radius
    )


def _check_consistent(rows: Sequence[Annotation], number: int, name: str) -> None:
    """Check the last row against the earlier ones of its film."""
    new = rows[-1]
    for row in rows[:-1]:
        if row.film_id != new.film_id:
            continue
        if row == new:
            raise DataError(
                f"{name}: line {number} repeats an earlier row of {new.film_id}; remove one of them"
            )
        if row.tissue != new.tissue:
            raise DataError(
                f"{name}: line {number} gives {new.film_id} the tissue {new.tissue}, an earlier row "
                f"{row.tissue}; a film has one tissue, correct the row"
            )
        if "NORM" in (row.abnormality, new.abnormality):
            raise DataError(
                f"{name}: line {number} calls {new.film_id} {new.abnormality}, an earlier row "
                f"{row.abnormality}; a normal film has no lesion, remove the wrong row"
            )


def _garbled(name: str, number: int, line: str, rule: str) -> DataError:
    return DataError(
        f"{name}: line {number} {rule}, got {line.strip()!r}; restore the row from the original file"
    )


logger = logging.getLogger(__name__)

GreyImage = npt.NDArray[np.uint8]
Row = dict[str, Any]


def load_mini_mias(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Cut the ROIs of the mini-MIAS films in `all-mias.tar.gz` or its unpacked folder.

    Every lesion with a place gives a Tumor ROI; normal films, chosen by `config.seed` to match the lesions'
    tissues, give one Normal ROI each. Ordered by film, then by the rows of `Info.txt`.

    Raises:
        DataError: the raw data is missing, incomplete, damaged, or a phantom.
    """
    if is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source mini_mias needs real films, got a phantom ({PHANTOM_MARK} is there); "
            "set ingest.source to phantom"
        )
    return _load_films(raw, config, "mini_mias", progress)


def load_phantom(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Cut the ROIs of a phantom folder as `load_mini_mias` does; every row is marked as synthetic.

    Raises:
        DataError: the folder is missing, incomplete, damaged, or not a phantom.
    """
    if raw.is_dir() and not is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source phantom needs a folder that `mammo phantom` wrote, got one without "
            f"{PHANTOM_MARK}; set ingest.source to mini_mias if the films are real"
        )
    if not raw.is_dir():
        raise DataError(
            f"{raw}: must be a folder of phantom films, got none; run `mammo phantom` to write it"
        )
    return _load_films(raw, config, "phantom", progress)


def check_films(raw: Path) -> int:
    """Check that `raw` is a mini-MIAS archive or folder whose films and table agree, pixels aside.

    Returns:
        The number of films.

    Raises:
        DataError: it is not.
    """
    with open_films(raw) as store:
        read_annotations(store)
        return len(store.films)


def _load_films(raw: Path, config: IngestConfig, source: str, progress: Progress | None) -> RoiSet:
    with open_films(raw) as store:
        annotations = read_annotations(store)
        lesions = _lesions_by_film(annotations)
        normals = _choose_normals(annotations, config.seed)
        found: dict[str, list[tuple[Row, GreyImage]]] = {}
        wanted = lesions.keys() | normals.keys()
        for done, (film_id, film) in enumerate(read_films(store, wanted), start=1):
            if film_id in lesions:
                found[film_id] = _cut_lesions(film, lesions[film_id], config)
            else:
                found[film_id] = _cut_normal(film, normals[film_id], config)
            if progress:
                progress(done, len(wanted))
    pairs = [pair for film_id in sorted(found) for pair in found[film_id]]
    shared = {"source": source, "synthetic": source == "phantom"}
    return make_roi_set([row | shared for row, _ in pairs], [image for _, image in pairs])


def read_annotations(store: FilmStore) -> list[Annotation]:
    """Parse the table of a store and check that it names exactly the films that are there.

    Raises:
        DataError: it does not, or is damaged.
    """
    annotations = parse_info(store.info.read(), store.info.name)
    named = {annotation.film_id for annotation in annotations}
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


def _lesions_by_film(annotations: Sequence[Annotation]) -> dict[str, list[Annotation]]:
    """Lesions with a place, in the table's order."""
    lesions: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.x_px is not None:
            lesions.setdefault(annotation.film_id, []).append(annotation)
    return lesions


def _choose_normals(annotations: Sequence[Annotation], seed: int) -> dict[str, Annotation]:
    normals = {
        annotation.film_id: annotation for annotation in annotations if annotation.abnormality == "NORM"
    }
    tissues = {film_id: annotation.tissue for film_id, annotation in normals.items()}
    lesion_tissues = [annotation.tissue for annotation in annotations if annotation.x_px is not None]
    return {film_id: normals[film_id] for film_id in choose_normal_films(tissues, lesion_tissues, seed)}


def read_films(store: FilmStore, wanted: Collection[str]) -> Iterator[tuple[str, GreyImage]]:
    """Decode the wanted films (ids) one at a time, so that memory holds a single one.

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
        yield film_id, film


def _cut_lesions(
    film: GreyImage, lesions: Sequence[Annotation], config: IngestConfig
) -> list[tuple[Row, GreyImage]]:
    preprocessed = preprocess_film(film)
    cut = []
    for number, lesion in enumerate(lesions, start=1):
        assert lesion.x_px is not None
        assert lesion.y_px is not None
        place = {"x_px": lesion.x_px, "y_px": lesion.y_px, "radius_px": lesion.radius_px}
        row = _row(lesion, f"lesion {number}", Label.TUMOR) | place
        cut.append((row, extract_roi(preprocessed, lesion.x_px, lesion.y_px, config.bounding_box)))
    return cut


def _cut_normal(film: GreyImage, annotation: Annotation, config: IngestConfig) -> list[tuple[Row, GreyImage]]:
    centre = draw_normal_centre(film, film_number(annotation.film_id), config.seed)
    if centre is None:
        logger.warning("%s gives no normal ROI: no crop fits inside its breast", annotation.film_id)
        return []
    row = _row(annotation, "normal", Label.NORMAL) | {"x_px": centre[0], "y_px": centre[1]}
    return [(row, extract_roi(preprocess_film(film), *centre, config.bounding_box))]


def _row(annotation: Annotation, which: str, label: Label) -> Row:
    return {
        "roi_id": f"{annotation.film_id}/{which}",
        "film_id": annotation.film_id,
        "patient_id": patient_of(annotation.film_id),
        "label": int(label),
        "abnormality": annotation.abnormality,
        "severity": annotation.severity,
        "tissue": annotation.tissue,
    }
