"""A small phantom that the tests of this folder share."""

from pathlib import Path

import pytest

from mammo.core.config import PhantomConfig
from mammo.data.phantom import write_phantom
from tests.settings import section


@pytest.fixture(scope="session")
def phantom_config() -> PhantomConfig:
    return section(PhantomConfig, n_patients=6, seed=3)


@pytest.fixture(scope="session")
def phantom_folder(phantom_config: PhantomConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve films with their table; tests must not change it."""
    folder = tmp_path_factory.mktemp("films") / "phantom"
    write_phantom(phantom_config, folder)
    return folder
