"""Fixtures that several rooms share."""

import pytest

from mammo.data.sources import RoiSet
from tests.disc_rois import disc_rois


@pytest.fixture(scope="session")
def disc_set() -> RoiSet:
    """Ten Normal and eight Tumor ROIs."""
    return disc_rois(10, 8)
