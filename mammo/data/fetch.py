"""Raw data, brought to the folder of their source from a named copy or the network, and checked."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import Workspace, atomic_folder, atomic_path, sha256_of
from mammo.data.archive import ROIS_ARCHIVE
from mammo.data.films import ARCHIVE, check_films, holds_films, open_films
from mammo.data.own import bring_own

ROIS_URL: Final = "https://github.com/yxchspring/MIAS/raw/master/MIAS_ROIs.zip"
ROIS_SHA256: Final = "829115da28c50186eb3bfde7169aa28e12f3740221f14cb2e9c801f7e9cead3f"
VARIABLES: Final = {"mias_rois": "MAMMO_MIAS_ROIS", "mini_mias": "MAMMO_MINI_MIAS"}
"""Where a copy on this machine may be named, by source."""
TIMEOUT_S: Final = 30.0


def fetch_raw(
    config: IngestConfig, workspace: Workspace, copy: Path | None = None, env: Mapping[str, str] = os.environ
) -> list[Path]:
    """Bring the raw data of `config.source` to its folder, `data/raw/SOURCE`, and return the checked folders.

    With the authors' archive come the films of mini-MIAS where `MAMMO_MINI_MIAS` names them: they tell the patients.

    Args:
        copy: a copy on this machine, before every other place; of `own`, the table (`own.load_own`).
        env: where the variables `MAMMO_MIAS_ROIS` and `MAMMO_MINI_MIAS` are looked up.

    Raises:
        DataError: no copy can be had, or it is not what it must be; the message says what to do.
    """
    target = workspace.raw(config.source)
    if config.source == "mias_rois":
        fetch_rois(target / ROIS_ARCHIVE, copy, env)
        if env.get(VARIABLES["mini_mias"]) or holds_films(workspace.films):
            fetch_films(workspace.films, None, env)
            return [target, workspace.films]
    elif config.source == "mini_mias":
        fetch_films(target, copy, env)
    elif config.source == "own":
        bring_own(target, copy, config)
    elif target.is_dir():
        check_films(target)
    else:
        raise DataError(f"{target}: phantoms are written, not fetched, got none; run `mammo phantom`")
    return [target]


def fetch_rois(
    target: Path, copy: Path | None, env: Mapping[str, str], url: str = ROIS_URL, sha256: str = ROIS_SHA256
) -> None:
    """Bring `MIAS_ROIs.zip` to `target`: `copy`, else `MAMMO_MIAS_ROIS`, else what is there, else the network.

    The first that exists decides; its SHA-256 must be `sha256`.

    Raises:
        DataError: the copy is missing, unreadable or another file, or the download fails.
    """
    from pooch import HTTPDownloader

    local = _named_copy(copy, env, "mias_rois")
    if local is None and target.exists():
        if target.is_dir() or sha256_of(target) != sha256:
            raise DataError(
                f"{target}: must be the published archive with SHA-256 {sha256}, got another file; delete it and "
                "run `mammo fetch` again"
            )
        return
    with atomic_path(target) as temporary:
        if local is None:
            try:
                HTTPDownloader(timeout=TIMEOUT_S)(url, str(temporary), None)
            except OSError as error:
                if error.errno is not None:  # of the disk: what the network refuses has no number
                    raise
                raise DataError(
                    f"{url}: cannot be downloaded ({error}); download {url} on another machine, then put it at "
                    f"{target}, or name it with --archive or the variable {VARIABLES['mias_rois']}"
                ) from error
        else:
            _copy(local, temporary)
        found = sha256_of(temporary)
        if found != sha256:
            raise DataError(
                f"{local or url}: must have the SHA-256 {sha256}, got {found}; it is damaged or another version, "
                "nothing was kept. Get the archive again"
            )


def fetch_films(target: Path, copy: Path | None, env: Mapping[str, str]) -> None:
    """Bring mini-MIAS, as `all-mias.tar.gz` or a folder, into the folder `target`, from `copy` or `MAMMO_MINI_MIAS`.

    Raises:
        DataError: there is no copy, it is incomplete or damaged, or other films are at `target` already.
    """
    local = _named_copy(copy, env, "mini_mias")
    if local is None and not holds_films(target):
        raise DataError(
            f"{target}: the films of mini-MIAS must be got by hand under their licence, got none; download "
            f"{ARCHIVE} from the Mammographic Image Analysis Society's page and put it there, or name it "
            f"with --archive or the variable {VARIABLES['mini_mias']}"
        )
    check_films(local or target)
    there = target / ARCHIVE
    if local is None or target.resolve() in (local.resolve(), local.resolve().parent):
        return
    if local.is_file() and (there.is_file() or not holds_films(target)):
        with atomic_path(there) as temporary:
            _copy(local, temporary)
        return
    if holds_films(target):
        raise DataError(f"{target}: films are there already; delete them to take those of {local}")
    with atomic_folder(target) as made, open_films(local) as store:
        if target.is_dir():
            shutil.copytree(target, made, dirs_exist_ok=True)
        (made / "Info.txt").write_bytes(store.info.read())
        for film_id, film in store.films.items():
            (made / f"{film_id}.pgm").write_bytes(film.read())


def _named_copy(copy: Path | None, env: Mapping[str, str], source: str) -> Path | None:
    """The copy that the user names; a named copy must exist."""
    variable = VARIABLES[source]
    named, by = (copy, "--archive") if copy else (Path(env.get(variable, "")), variable)
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
