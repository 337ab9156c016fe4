"""Films can be cut again with another setting, and the ROIs stay paired."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.files import Workspace, write_table
from mammo.data.locate import locate_rois
from mammo.data.rois import Rois, load_rois
from mammo.studies.variants import recut, with_overrides
from tests.studies.tiny_studies import tiny_config


@pytest.mark.slow
@pytest.mark.parametrize("source", ["phantom", "mias_rois"], ids=["places known", "places located"])
def test_rois_without_the_bounding_box_are_the_same_places_as_that_setting_cuts_them(
    tmp_path: Path, phantom_folder: Path, source: str
) -> None:
    workspace, films = Workspace(tmp_path), tiny_config().ingest
    workspace.raw("phantom").parent.mkdir(parents=True)
    workspace.raw("phantom").symlink_to(phantom_folder)
    boxed, whole = (load_rois(films.model_copy(update={"bounding_box": box}), tmp_path) for box in (True, False))
    shuffled = np.arange(len(boxed.table))[::-1]
    table = boxed.table.iloc[shuffled].reset_index(drop=True)
    table = table.assign(source=source, group_id=table["patient_id"])
    if source == "mias_rois":  # which came cut: films and places are unknown but for what `locate` says
        table = table.assign(**dict.fromkeys(("film_id", "patient_id", "x_px", "y_px")))
        workspace.films.symlink_to(phantom_folder)
        write_table(workspace.located, locate_rois(Rois(table, boxed.images[shuffled]), workspace.films))
    reference = Rois(table, boxed.images[shuffled])

    config = tiny_config(ingest={"source": source})
    same = recut(workspace, config, reference)
    plain = recut(workspace, with_overrides(config, {"ingest.bounding_box": False}), reference)
    for column in ("roi_id", "label", "x_px", "y_px", "group_id"):
        assert plain.table[column].equals(reference.table[column])
    assert (same.images == reference.images).all()
    assert (plain.images == whole.images[shuffled]).all()
