"""Raw data: brought in place from a named copy or the network, and the authors' archive of 326 ROIs read in place."""

import hashlib
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_folder, atomic_path, sha256_of
from mammo.core.records import SPLITS, Label
from mammo.data.decode import decode_roi
from mammo.data.films import check_films, open_films
from mammo.data.rois import Rois, make_roi_set

ROIS_URL: Final = "https://github.com/yxchspring/MIAS/raw/master/MIAS_ROIs.zip"
ROIS_SHA256: Final = "829115da28c50186eb3bfde7169aa28e12f3740221f14cb2e9c801f7e9cead3f"
ROIS_VARIABLE: Final = "MAMMO_MIAS_ROIS"
FILMS_VARIABLE: Final = "MAMMO_MINI_MIAS"
TIMEOUT_S: Final = 30.0


def fetch_raw(
    config: IngestConfig, root: Path, archive: Path | None = None, env: Mapping[str, str] = os.environ
) -> Path:
    """Bring the raw data of `config.source` to `config.raw`, relative to `root`, and return the checked path.

    Args:
        archive: a copy on this machine; comes before every other place.
        env: where the variables `MAMMO_MIAS_ROIS` and `MAMMO_MINI_MIAS` are looked up.

    Raises:
        DataError: no copy can be had, or it is not what it must be; the message says what to do.
    """
    target = root / config.raw
    if config.source == "mias_rois":
        return fetch_rois(target, archive, env)
    if config.source == "mini_mias":
        return fetch_films(target, archive, env)
    if not target.is_dir():
        raise DataError(f"{target}: phantoms are written, not fetched, got none; run `mammo phantom`")
    check_films(target)
    return target


def fetch_rois(
    target: Path, archive: Path | None, env: Mapping[str, str], url: str = ROIS_URL, sha256: str = ROIS_SHA256
) -> Path:
    """Bring `MIAS_ROIs.zip` to `target`: `archive`, else `MAMMO_MIAS_ROIS`, else what is there, else the network.

    The first that exists decides; its SHA-256 must be `sha256`.

    Raises:
        DataError: the copy is missing, unreadable or another file, or the download fails.
    """
    from pooch import HTTPDownloader

    local = _named_copy(archive, env, ROIS_VARIABLE)
    if local is None and target.exists():
        if target.is_dir() or sha256_of(target) != sha256:
            raise DataError(
                f"{target}: must be the published archive with SHA-256 {sha256}, got another file; delete it and "
                "run `mammo fetch` again"
            )
        return target
    with atomic_path(target) as temporary:
        if local is None:
            try:
                HTTPDownloader(timeout=TIMEOUT_S)(url, str(temporary), None)
            except OSError as error:
                if error.errno is not None:  # of the disk: what the network refuses has no number
                    raise
                raise DataError(
                    f"{url}: cannot be downloaded ({error}); download {url} on another machine, then put it at "
                    f"{target}, or name it with --archive or the variable {ROIS_VARIABLE}"
                ) from error
        else:
            _copy(local, temporary)
        found = sha256_of(temporary)
        if found != sha256:
            raise DataError(
                f"{local or url}: must have the SHA-256 {sha256}, got {found}; it is damaged or another version, "
                "nothing was kept. Get the archive again"
            )
    return target


def fetch_films(target: Path, archive: Path | None, env: Mapping[str, str]) -> Path:
    """Bring mini-MIAS, as `all-mias.tar.gz` or a folder, to `target`, from `archive` or `MAMMO_MINI_MIAS`.

    No hash of the archive is public, so its structure is checked: a readable table and every film that it names.

    Raises:
        DataError: there is no copy, it is incomplete or damaged, or a folder is at `target` already.
    """
    local = _named_copy(archive, env, FILMS_VARIABLE)
    if local is None and not target.exists():
        raise DataError(
            f"{target}: the films of mini-MIAS must be got by hand under their licence, got none; download "
            "all-mias.tar.gz from the Mammographic Image Analysis Society's page and put it there, or name it "
            f"with --archive or the variable {FILMS_VARIABLE}"
        )
    check_films(local or target)
    if local is None or (target.exists() and target.samefile(local)):
        return target
    if target.is_dir():
        raise DataError(f"{target}: films are there already; delete the folder to take those of {local}")
    if local.is_file():
        with atomic_path(target) as temporary:
            _copy(local, temporary)
        return target
    with atomic_folder(target) as made, open_films(local) as store:
        (made / "Info.txt").write_bytes(store.info.read())
        for film_id, film in store.films.items():
            (made / f"{film_id}.pgm").write_bytes(film.read())
    return target


def _named_copy(archive: Path | None, env: Mapping[str, str], variable: str) -> Path | None:
    """The copy that the user names; a named copy must exist."""
    named, by = (archive, "--archive") if archive else (Path(env.get(variable, "")), variable)
    if named == Path():
        return None
    if not named.exists():
        raise DataError(f"{by}: must name a file that exists, got {named}; correct the path or leave it out")
    return named


def _copy(source: Path, target: Path) -> None:
    try:
        file = source.open("rb")
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}); name the archive file itself"
        ) from error
    with file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


MAX_TOTAL_BYTES: Final = 64 * 2**20
"""The published archive unpacks to 4 MB."""

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)
"""What zipfile raises for a damaged archive, whatever method packed its members."""

_FOLDERS: Final = (*SPLITS, "trainval")
_MEMBER: Final = re.compile(
    r"(?:MIAS_ROIs/)?(?P<folder>train|val|test|trainval)/"
    r"(?P<label>Normal|Tumor) \((?P<number>[1-9]\d{0,4})\)\.png"
)
_FOLDER: Final = re.compile(r"(?:MIAS_ROIs/)?(?:(?:train|val|test|trainval)/)?")
_AS_PUBLISHED: Final = "use the archive as its authors published it (`mammo fetch`)"


class _Member(NamedTuple):
    """A picture in the archive; members sort in natural order."""

    folder: int
    label: Label
    number: int
    name: str

    @property
    def roi_id(self) -> str:
        return f"{_FOLDERS[self.folder]}/{self.label.title} ({self.number})"


def load_mias_rois(raw: Path, config: IngestConfig) -> Rois:
    """Read the published ROIs: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged, unsafe to open, incomplete, or holds what it should not.
    """
    try:
        with zipfile.ZipFile(raw) as archive:
            total = sum(info.file_size for info in archive.infolist())
            # A zip bomb: zipfile reads no more of a member than the directory announces.
            if total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"{raw}: must unpack to at most {MAX_TOTAL_BYTES} bytes, got {total}; {_AS_PUBLISHED}"
                )
            pictures = {member: archive.read(member.name) for member in _members(archive.namelist(), raw)}
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    _check_trainval_repeats(pictures, raw)
    rows, images = [], []
    for member, content in pictures.items():
        split = _FOLDERS[member.folder]
        if split not in SPLITS:
            continue
        images.append(decode_roi(content, f"{raw}: {member.name}"))
        row = {"roi_id": member.roi_id, "source": "mias_rois", "synthetic": False}
        rows.append({**row, "label": int(member.label), "published_split": split})
    return make_roi_set(rows, images)


def _members(names: list[str], raw: Path) -> list[_Member]:
    """Check the names in the archive and return its pictures in natural order."""
    members = []
    for name in names:
        if _FOLDER.fullmatch(name):
            continue
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise DataError(
                f"{raw}: members must be named like 'MIAS_ROIs/train/Tumor (1).png', got {name!r}; {_AS_PUBLISHED}"
            )
        folder = _FOLDERS.index(match["folder"])
        members.append(_Member(folder, Label[match["label"].upper()], int(match["number"]), name))
    (roi_id, count), *_ = Counter(member.roi_id for member in members).most_common(1) or [("", 0)]
    if count > 1:
        raise DataError(f"{raw}: each ROI must appear once, got {roi_id!r} twice; run `mammo fetch` again")
    for folder, split in enumerate(SPLITS):
        present = {member.label for member in members if member.folder == folder}
        if len(present) < len(Label):
            raise DataError(
                f"{raw}: the folder {split} must hold Normal and Tumor ROIs, got "
                f"{sorted(label.title for label in present) or 'none'}; run `mammo fetch` again"
            )
    return sorted(members)


def _check_trainval_repeats(pictures: dict[_Member, bytes], raw: Path) -> None:
    """Check that `trainval`, where there is one, holds train and val and nothing else."""
    counts: dict[bool, Counter[tuple[Label, str]]] = {True: Counter(), False: Counter()}
    for member, content in pictures.items():
        folder = _FOLDERS[member.folder]
        if folder != "test":
            counts[folder == "trainval"][member.label, hashlib.sha256(content).hexdigest()] += 1
    if counts[True] and counts[True] != counts[False]:
        foreign, missing = (counts[True] - counts[False]).total(), (counts[False] - counts[True]).total()
        raise DataError(
            f"{raw}: the folder trainval must repeat train and val, got {foreign} ROIs that are not theirs and "
            f"{missing} missing; run `mammo fetch` again"
        )
