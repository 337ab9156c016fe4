"""Fixtures that several rooms share."""

from typing import TYPE_CHECKING

import pytest

from mammo.data.sources import RoiSet
from tests.disc_rois import disc_rois

if TYPE_CHECKING:
    from mammo.training import PatchData


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
