"""Where things lie in a workspace, and files that are written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mammo.core.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd


WEIGHTS_FILE: Final = "model.safetensors"
DESCRIPTION_FILE: Final = "model.json"
"""The two files of a bundle."""


@dataclass(frozen=True)
class _At:
    """A place below a workspace's root, or below its `home`, which the temporary copies of a checkout share."""

    path: str
    home: bool = False

    def __get__(self, workspace: "Workspace", owner: type) -> Path:
        return (workspace.home if self.home else workspace.root) / self.path


@dataclass(frozen=True)
class Workspace:
    """The folders and files of one workspace."""

    root: Path = Path()

    params = _At("params.yaml")
    """The settings."""
    films = _At("data/raw/mini_mias", home=True)
    """Folder of the films of mini-MIAS, or of their archive; holds a README where there are none."""
    hed = _At("data/weights/vgg16_hed.safetensors", home=True)
    """Pretrained weights: VGG16's convolutions in the edge detector HED."""
    rois = _At("data/rois")
    """Folder of the ROI table and images."""
    overlaps = _At("data/audit/overlaps.parquet")
    """Pairs of ROIs that share tissue."""
    located = _At("data/located/located.parquet")
    """Where the archive's ROIs were found in the films; null where there are no films."""
    split = _At("data/splits/split.parquet")
    """Which part each ROI belongs to."""
    features = _At("data/features")
    """Block features of frozen backbones, versioned by DVC."""
    feature_cache = _At(".cache/features")
    """Block features that studies computed."""
    checkpoints = _At("models/.fits")
    """States of networks' fits. Outside the bundles: DVC empties a stage's outputs before it runs."""
    fits = _At(".cache/fits")
    """Cache of the fits of seeds, ledger, ablation and studies."""
    reports = _At("reports")
    """What people read."""
    predictions = _At("predictions")
    """Folder of what the service answered, a file for each of its processes."""
    mlruns = _At("mlruns", home=True)
    """MLflow's database and artifacts."""

    def raw(self, source: str) -> Path:
        """Folder of a source's raw data."""
        return self.root / "data" / "raw" / source

    def patches(self, part: str) -> Path:
        """The patch set of a part."""
        return self.root / "data" / "patches" / f"{part}.parquet"

    def bundle(self, system: str) -> Path:
        """Folder of a trained system."""
        return self.root / "models" / system

    def description(self, system: str) -> Path:
        """What a trained system is; it names the hash of its weights, so that its own hash identifies the bundle."""
        return self.bundle(system) / DESCRIPTION_FILE

    def run_note(self, system: str) -> Path:
        """Which MLflow run made the bundle; beside the bundle, not versioned with it."""
        return self.root / "models" / f"{system}.run.json"

    @property
    def home(self) -> Path:
        """The checkout that this is a temporary copy of, made for `dvc exp run --temp` or `--queue`; else the root."""
        home, copy, _ = str(self.root.resolve()).partition(f"{os.sep}.dvc{os.sep}tmp{os.sep}exps{os.sep}")
        return Path(home) if copy else self.root


HERE = Workspace()
"""The workspace in the current folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block succeeds, else remove it.

    A full disk or a folder that cannot be written is a `DataError`.
    """
    with _writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; put it in the place of `path` if the block succeeds, else remove it.

    A full disk or a folder that cannot be written is a `DataError`.
    """
    beside: dict[str, Any] = {"dir": path.parent, "prefix": f".{path.name}."}
    with _writing(path), tempfile.TemporaryDirectory(**beside, ignore_cleanup_errors=True) as workshop:
        fresh = Path(workshop, "new")
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.replace(Path(workshop, "old"))
        fresh.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Make the folder of `path`, and say in a line what the block could not write."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose a writable folder, then run "
            "again"
        ) from error


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Say in a line that `path` is missing, or is not of its kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not {kind} ({error}); run `dvc repro` to rebuild it") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline. NaN is refused: JSON has none."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; `DataError` where it is missing or is no JSON."""
    with _reading(path, "valid JSON"):
        return json.loads(path.read_text())


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a parquet table atomically; the same table gives the same bytes."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> "pd.DataFrame":
    """Read a parquet table; `DataError` where it is missing or is no such table."""
    import pandas as pd

    with _reading(path, "a readable parquet table"):
        return pd.read_parquet(path)


def read_array(path: Path) -> "npt.NDArray[Any]":
    """Read a `.npy` file, never a pickled one; `DataError` where it is missing or is no plain array."""
    import numpy as np

    with _reading(path, "a plain .npy array"), path.open("rb") as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(folder: Path) -> str:
    """One hash of a folder's files, of their names and contents; what Python has compiled does not count."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def missing_file(path: Path) -> DataError:
    """The error for an input that an earlier stage should have made."""
    return DataError(f"{path}: does not exist; run `dvc repro` (after `mammo fetch`) to make it")
