"""Fixtures that several rooms share."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mammo.data.sources import RoiSet
from mammo.layout import Workspace
from tests.disc_rois import disc_rois

if TYPE_CHECKING:
    from mammo.training import PatchData

HERE = Path(__file__).parent
TOGETHER = ("pipeline", "studies", "tuning", "tracked", "data")
"""Folders by the time they take; the first ones share what is costly to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest, and keep tests on one worker that share costly fixtures (`--dist loadgroup`)."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return TOGETHER.index(folder) if folder in TOGETHER else len(TOGETHER)

    items.sort(key=rank)
    for item in items:
        path = item.path.relative_to(HERE)
        shares = path.parts[0] in ("pipeline", "tracked")
        item.add_marker(pytest.mark.xdist_group(path.parts[0] if shares else str(path)))


@pytest.fixture(scope="session")
def disc_set() -> RoiSet:
    """Ten Normal and eight Tumor ROIs."""
    return disc_rois(10, 8)


@pytest.fixture(scope="session")
def train() -> "PatchData":
    """66 patches of 11 ROIs."""
    from tests.tiny_fits import data_of  # torch: other rooms' tests start without it

    return data_of(disc_rois(6, 5))


@pytest.fixture(scope="session")
def val() -> "PatchData":
    """48 patches of 8 other ROIs."""
    from tests.tiny_fits import data_of

    return data_of(disc_rois(4, 4, seed=1))


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making its tables takes seconds, copying it takes none."""
    from mammo.tracking import connect

    space = Workspace(tmp_path_factory.mktemp("template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(space)
    return space.mlruns / "mlflow.db"
