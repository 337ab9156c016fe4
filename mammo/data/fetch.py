"""Where raw data come from: a copy that the user names, what is in place already, or the network."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_folder, atomic_path, sha256_of
from mammo.data.films import check_films, open_films

ROIS_URL: Final = "https://github.com/yxchspring/MIAS/raw/master/MIAS_ROIs.zip"
ROIS_SHA256: Final = "829115da28c50186eb3bfde7169aa28e12f3740221f14cb2e9c801f7e9cead3f"
ROIS_VARIABLE: Final = "MAMMO_MIAS_ROIS"
FILMS_VARIABLE: Final = "MAMMO_MINI_MIAS"
TIMEOUT_S: Final = 30.0


def fetch_raw(
    config: IngestConfig, root: Path, archive: Path | None = None, env: Mapping[str, str] = os.environ
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
        return fetch_rois(target, archive, env)
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
    with atomic_path(target) as temporary:
        if local is None:
            _download(url, temporary, target)
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


def _download(url: str, temporary: Path, target: Path) -> None:
    from pooch import HTTPDownloader

    try:
        HTTPDownloader(timeout=TIMEOUT_S)(url, str(temporary), None)
    except OSError as error:
        if error.errno is not None:  # of the disk: what the network refuses has no number
            raise
        raise DataError(
            f"{url}: cannot be downloaded ({error}); download {url} on another machine, then put it at {target}, or "
            f"name it with --archive or the variable {ROIS_VARIABLE}"
        ) from error
