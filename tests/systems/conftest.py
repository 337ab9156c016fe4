"""The ROIs of a tiny system in parts, and their patches."""

import pandas as pd
import pytest

from mammo.core.records import SPLITS
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from tests.disc_rois import dealt_split
from tests.tiny_fits import tiny_config


@pytest.fixture(scope="session")
def parts(disc_set: Rois) -> dict[str, Rois]:
    split = dealt_split(disc_set)
    return {name: disc_set.with_split(split).part(name) for name in SPLITS}


@pytest.fixture(scope="session")
def patch_sets(parts: dict[str, Rois]) -> dict[str, pd.DataFrame]:
    config = tiny_config().patches
    return {name: drawn_patches(parts[name].table, config) for name in ("train", "val")}
