"""Bringing raw data under `data/raw/`: found, checked, and put in place whole or not at all.

The ROI archive may come over the network from its authors' repository. The films of mini-MIAS are under a
licence that each user accepts at the source, so they are only taken from a copy on this machine.
"""

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol
from urllib.error import HTTPError
from urllib.request import urlopen

from mammo.config import IngestConfig
from mammo.data.film_store import open_films
from mammo.data.mini_mias import check_films
from mammo.data.sources import Progress
from mammo.errors import DataError
from mammo.storage import atomic_folder, atomic_path, sha256_of

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
