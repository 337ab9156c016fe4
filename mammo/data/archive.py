"""The authors' archive of 326 ROIs, and how raw data are fetched."""

import hashlib
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol
from urllib.error import HTTPError
from urllib.request import urlopen

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_folder, atomic_path, sha256_of
from mammo.core.records import SPLITS, Label
from mammo.data.decode import decode_roi
from mammo.data.films import check_films, open_films
from mammo.data.rois import Progress, RoiSet, make_roi_set

MAX_MEMBERS: Final = 5_000
MAX_MEMBER_BYTES: Final = 256 * 1024
"""A 120 × 120 grey picture has 14,400 bytes before compression."""
MAX_TOTAL_BYTES: Final = 64 * 2**20
MAX_RATIO: Final = 100
"""The published pictures do not shrink at all in the archive."""

_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    OSError,
)
"""What zipfile raises for a damaged archive, whatever method packed its members."""

_MEMBER: Final = re.compile(
    r"(?:MIAS_ROIs/)?(?P<folder>train|val|test|trainval)/"
    r"(?P<label>Normal|Tumor) \((?P<number>[1-9]\d{0,4})\)\.png"
)
_FOLDER: Final = re.compile(r"(?:MIAS_ROIs/)?(?:(?:train|val|test|trainval)/)?")


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    folder: str
    label: Label
    number: int

    @property
    def roi_id(self) -> str:
        return f"{self.folder}/{self.label.title} ({self.number})"


def load_mias_rois(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Read the published ROIs: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged, unsafe to open, incomplete, or holds what it should not.
    """
    try:
        with zipfile.ZipFile(raw) as archive:
            members = _members(archive, raw)
            contents = [_read(archive, member.info, raw) for member in members]
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    _check_trainval_repeats(members, contents, raw)
    rows, images = [], []
    for member, content in zip(members, contents, strict=True):
        if member.folder not in SPLITS:
            continue
        images.append(decode_roi(content, f"{raw}: {member.info.filename}"))
        rows.append(
            {
                "roi_id": member.roi_id,
                "source": "mias_rois",
                "label": int(member.label),
                "published_split": member.folder,
                "synthetic": False,
            }
        )
        if progress:
            progress(len(rows), len(members))
    return make_roi_set(rows, images)


def _members(archive: zipfile.ZipFile, raw: Path) -> list[_Member]:
    """Check the archive's directory and return its pictures in natural order."""
    infos = archive.infolist()
    _check_sizes(infos, raw)
    members: dict[str, _Member] = {}
    for info in infos:
        _check_safe(info, raw)
        if _FOLDER.fullmatch(info.filename):
            continue
        match = _MEMBER.fullmatch(info.filename)
        if match is None:
            raise DataError(
                f"{raw}: members must be named like 'MIAS_ROIs/train/Tumor (1).png', got {info.filename!r}; "
                "use the archive as its authors published it (`mammo fetch`)"
            )
        member = _Member(info, match["folder"], Label[match["label"].upper()], int(match["number"]))
        if member.roi_id in members:
            raise DataError(
                f"{raw}: each ROI must appear once, got {member.roi_id!r} twice; run `mammo fetch` again"
            )
        members[member.roi_id] = member
    for split in SPLITS:
        present = {member.label for member in members.values() if member.folder == split}
        if len(present) < len(Label):
            raise DataError(
                f"{raw}: the folder {split} must hold Normal and Tumor ROIs, got "
                f"{sorted(label.title for label in present) or 'none'}; run `mammo fetch` again"
            )
    folders = (*SPLITS, "trainval")
    return sorted(
        members.values(), key=lambda member: (folders.index(member.folder), member.label, member.number)
    )


def _check_sizes(infos: list[zipfile.ZipInfo], raw: Path) -> None:
    """Refuse a zip bomb by what the directory says; `_read` holds each member to it."""
    remedy = "use the archive as its authors published it (`mammo fetch`)"
    if len(infos) > MAX_MEMBERS:
        raise DataError(f"{raw}: must have at most {MAX_MEMBERS} members, got {len(infos)}; {remedy}")
    total = sum(info.file_size for info in infos)
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{raw}: must unpack to at most {MAX_TOTAL_BYTES} bytes, got {total}; {remedy}")
    for info in infos:
        if info.file_size > min(MAX_MEMBER_BYTES, MAX_RATIO * max(info.compress_size, 1)):
            raise DataError(
                f"{raw}: a member must unpack to at most {MAX_MEMBER_BYTES} bytes and {MAX_RATIO} times its "
                f"packed size, got {info.filename!r} with {info.file_size} from {info.compress_size}; {remedy}"
            )


def _check_safe(info: zipfile.ZipInfo, raw: Path) -> None:
    """Refuse names that lead out of a folder, and links.

    Nothing is unpacked here, but an archive that holds them is hostile.
    """
    name = info.filename
    outside = name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name)
    if outside or stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(
            f"{raw}: members must be plain files inside the archive, got {name!r}; the archive is not to be "
            "trusted, delete it and run `mammo fetch`"
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: Path) -> bytes:
    with archive.open(info) as member:
        content = member.read(MAX_MEMBER_BYTES + 1)
    if len(content) != info.file_size:
        raise DataError(
            f"{raw}: {info.filename!r} must unpack to the {info.file_size} bytes that the directory names, "
            f"got {len(content)}; run `mammo fetch` again"
        )
    return content


def _check_trainval_repeats(members: list[_Member], contents: list[bytes], raw: Path) -> None:
    """Check that `trainval`, where there is one, holds train and val and nothing else."""
    counts: dict[bool, Counter[tuple[Label, str]]] = {True: Counter(), False: Counter()}
    for member, content in zip(members, contents, strict=True):
        if member.folder != "test":
            counts[member.folder == "trainval"][member.label, hashlib.sha256(content).hexdigest()] += 1
    if counts[True] and counts[True] != counts[False]:
        foreign, missing = (counts[True] - counts[False]).total(), (counts[False] - counts[True]).total()
        raise DataError(
            f"{raw}: the folder trainval must repeat train and val, got {foreign} ROIs that are not theirs and "
            f"{missing} missing; run `mammo fetch` again"
        )


ROIS_URL: Final = "https://github.com/yxchspring/MIAS/raw/master/MIAS_ROIs.zip"
ROIS_SHA256: Final = "829115da28c50186eb3bfde7169aa28e12f3740221f14cb2e9c801f7e9cead3f"
ROIS_VARIABLE: Final = "MAMMO_MIAS_ROIS"
FILMS_VARIABLE: Final = "MAMMO_MINI_MIAS"

MAX_DOWNLOAD_BYTES: Final = 64 * 2**20
TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 256 * 1024


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def fetch_raw(
    config: IngestConfig,
    root: Path,
    archive: Path | None = None,
    env: Mapping[str, str] = os.environ,
    progress: Progress | None = None,
) -> Path:
    """Bring the raw data of `config.source` to where `config.raw` says, relative to `root`.

    Args:
        archive: a copy on this machine; comes before every other place.
        env: where the variables `MAMMO_MIAS_ROIS` and `MAMMO_MINI_MIAS` are looked up.

    Returns:
        The path of the checked data.

    Raises:
        DataError: no copy can be had, or it is not what it must be; the message says what to do.
    """
    target = root / config.raw
    if config.source == "mias_rois":
        return fetch_rois(target, archive, env, progress=progress)
    if config.source == "mini_mias":
        return fetch_films(target, archive, env)
    if not target.is_dir():
        raise DataError(f"{target}: phantoms are written, not fetched, got none; run `mammo phantom`")
    check_films(target)
    return target


def fetch_rois(
    target: Path,
    archive: Path | None,
    env: Mapping[str, str],
    url: str = ROIS_URL,
    sha256: str = ROIS_SHA256,
    progress: Progress | None = None,
) -> Path:
    """Bring `MIAS_ROIs.zip` to `target`.

    Tried in this order: `archive`, the variable `MAMMO_MIAS_ROIS`, what is at `target` already, the network. The
    first that exists decides; its SHA-256 must be `sha256`.

    Raises:
        DataError: the copy is missing, unreadable or another file, or the download fails.
    """
    local = _named_copy(archive, env, ROIS_VARIABLE)
    if local is None and target.exists():
        if target.is_dir() or sha256_of(target) != sha256:
            raise DataError(
                f"{target}: must be the published archive with SHA-256 {sha256}, got another file; delete it and "
                "run `mammo fetch` again"
            )
        return target
    origin = url if local is None else str(local)
    chunks = _download(url, target, progress) if local is None else _read_file(local)
    with atomic_path(target) as temporary, temporary.open("wb") as file, closing(chunks):
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{origin}: must have the SHA-256 {sha256}, got {digest.hexdigest()}; it is damaged or another "
                "version, nothing was kept. Get the archive again"
            )
    return target


def fetch_films(target: Path, archive: Path | None, env: Mapping[str, str]) -> Path:
    """Bring mini-MIAS, as `all-mias.tar.gz` or a folder, to `target`, from `archive` or `MAMMO_MINI_MIAS`.

    No hash of the archive is public, so its structure is checked: a readable table and every film that it names.

    Raises:
        DataError: there is no copy, it is incomplete or damaged, or a folder is at `target` already.
    """
    local = _named_copy(archive, env, FILMS_VARIABLE)
    if local is None:
        if not target.exists():
            raise DataError(
                f"{target}: the films of mini-MIAS must be got by hand under their licence, got none; download "
                "all-mias.tar.gz from the Mammographic Image Analysis Society's page and put it there, or name it "
                f"with --archive or the variable {FILMS_VARIABLE}"
            )
        check_films(target)
        return target
    check_films(local)
    if target.exists() and target.samefile(local):
        return target
    if target.is_dir():
        raise DataError(f"{target}: films are there already; delete the folder to take those of {local}")
    if local.is_dir():
        _copy_films(local, target)
        return target
    with atomic_path(target) as temporary, temporary.open("wb") as file, closing(_read_file(local)) as chunks:
        file.writelines(chunks)
    return target


def _named_copy(archive: Path | None, env: Mapping[str, str], variable: str) -> Path | None:
    """The copy that the user names; a named copy must exist."""
    named, by = (archive, "--archive") if archive else (Path(env.get(variable, "")), variable)
    if named == Path():
        return None
    if not named.exists():
        raise DataError(f"{by}: must name a file that exists, got {named}; correct the path or leave it out")
    return named


def _read_file(path: Path) -> Generator[bytes, None, None]:
    try:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name the archive file itself") from error


def _download(url: str, target: Path, progress: Progress | None) -> Generator[bytes, None, None]:
    """Yield a file from the network, refusing one that is too large before and while it comes in."""
    remedy = (
        f"download {url} on another machine, then put it at {target}, or name it with --archive or the variable "
        f"{ROIS_VARIABLE}"
    )
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:
            announced = int(response.headers.get("Content-Length") or 0)
            received = 0
            for chunk in _chunks_of(response):
                received += len(chunk)
                if max(received, announced) > MAX_DOWNLOAD_BYTES:
                    raise DataError(
                        f"{url}: must have at most {MAX_DOWNLOAD_BYTES} bytes, got {max(received, announced)}; {remedy}"
                    )
                yield chunk
                if progress:
                    progress(received, announced)
    except HTTPError as error:
        raise DataError(f"{url}: cannot be downloaded (HTTP {error.code}); {remedy}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{url}: cannot be downloaded ({error}); {remedy}") from error


def _chunks_of(source: _Readable) -> Iterator[bytes]:
    return iter(lambda: source.read(_CHUNK_BYTES), b"")


def _copy_films(source: Path, target: Path) -> None:
    """Copy the films and their table into a new folder, which appears complete or not at all."""
    with atomic_folder(target) as made, open_films(source) as store:
        (made / "Info.txt").write_bytes(store.info.read())
        for film_id, file in store.films.items():
            (made / f"{film_id}.pgm").write_bytes(file.read())
