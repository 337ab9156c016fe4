"""A small phantom that the tests of this folder share."""

import os
from pathlib import Path

import pytest

from mammo.core.config import PhantomConfig
from mammo.data.archive import load_mias_rois
from mammo.data.phantom import write_phantom
from mammo.data.rois import Rois
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


@pytest.fixture(scope="session")
def real_rois() -> Rois:
    """The authors' 326 ROIs."""
    archive = os.environ.get("MAMMO_MIAS_ROIS")
    if not archive:
        pytest.skip("needs the real ROI archive: MAMMO_MIAS_ROIS")
    return load_mias_rois(Path(archive))


@pytest.fixture(scope="session")
def real_films() -> Path:
    """The 322 genuine films of mini-MIAS."""
    films = os.environ.get("MAMMO_MINI_MIAS")
    if not films:
        pytest.skip("needs the real films: MAMMO_MINI_MIAS")
    return Path(films)
