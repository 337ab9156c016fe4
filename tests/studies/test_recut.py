"""Films can be cut again with another setting, and the ROIs stay paired."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.config import PhantomConfig
from mammo.core.files import Workspace
from mammo.data.phantom import write_phantom
from mammo.data.rois import Rois, load_rois
from mammo.studies.variants import recut, with_overrides
from tests.settings import section
from tests.studies.tiny_studies import tiny_config


@pytest.mark.slow
def test_rois_without_the_bounding_box_are_the_same_places_as_that_setting_cuts_them(tmp_path: Path) -> None:
    config = tiny_config()
    write_phantom(section(PhantomConfig, n_patients=6), tmp_path / "data" / "raw" / "phantom")
    rois = load_rois(config.ingest, tmp_path)
    shuffled = np.arange(len(rois.table))[::-1]
    table = rois.table.iloc[shuffled].reset_index(drop=True)
    reference = Rois(table.assign(group_id=table["patient_id"]), rois.images[shuffled])
    plain = recut(Workspace(tmp_path), with_overrides(config, {"ingest.bounding_box": False}), reference)
    same = recut(Workspace(tmp_path), config, reference)
    for column in ("roi_id", "label", "x_px", "y_px", "group_id"):
        assert plain.table[column].equals(reference.table[column])
    assert (same.images == reference.images).all()
    cut = load_rois(config.ingest.model_copy(update={"bounding_box": False}), tmp_path).images[shuffled]
    assert (plain.images == cut).all()
