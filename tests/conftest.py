"""Fixtures that several rooms share."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mammo.core.files import Workspace
from mammo.data.rois import Rois
from tests.disc_rois import disc_rois
from tests.settings import PHANTOM

HERE = Path(__file__).parent
SLOWEST_FIRST = ("pipeline", "studies", "data", "tracked", "serve", "tuning")
"""With a file to a process (`--dist loadfile`), one that begins last should not be one that takes minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders that take longest first."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=rank)


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """Programs that the test starts hear Ctrl-C, even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def disc_set() -> Rois:
    """Ten Normal and eight Tumor ROIs."""
    return disc_rois(10, 8)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve films of six patients with their table; tests must not change it."""
    from mammo.data.phantom import write_phantom

    folder = tmp_path_factory.mktemp("films") / "phantom"
    write_phantom(PHANTOM, folder)
    return folder


def named_by(variable: str, what: str) -> Path:
    """A file that an environment variable names. Skips where it names none."""
    if not os.environ.get(variable):
        pytest.skip(f"needs {what}: {variable}")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """The authors' archive of ROIs."""
    return named_by("MAMMO_MIAS_ROIS", "the real ROI archive")


@pytest.fixture(scope="session")
def real_rois(real_archive: Path) -> Rois:
    """The authors' 326 ROIs."""
    from mammo.data.archive import load_mias_rois

    return load_mias_rois(real_archive)


@pytest.fixture(scope="session")
def real_films() -> Path:
    """The 322 genuine films of mini-MIAS."""
    return named_by("MAMMO_MINI_MIAS", "the real films")


@pytest.fixture(scope="session")
def hed_weights() -> Path:
    """HED's convolutions, as the package's file or the safetensors file made of it."""
    return named_by("MAMMO_WEIGHTS", "HED's weights")


@pytest.fixture(scope="session", autouse=True)
def _no_store_of_the_user() -> Iterator[None]:
    """Runs go to the store of the test's workspace, whatever the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Workspace], None]:
    """Gives a workspace an empty MLflow store: making its tables takes seconds, copying it takes none."""
    from mammo.track.store import connect

    template = Workspace(tmp_path_factory.mktemp("template"))
    connect(template)

    def give(workspace: Workspace) -> None:
        workspace.mlruns.mkdir(parents=True, exist_ok=True)
        shutil.copy(template.mlruns / "mlflow.db", workspace.mlruns)

    return give
