"""Films can be cut again with another setting, and the ROIs stay paired."""

from pathlib import Path

import numpy as np
import pytest

from mammo.core.config import PhantomConfig
from mammo.core.files import Workspace, write_table
from mammo.data.locate import can_be_cut_again, locate_rois
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


@pytest.mark.slow
def test_rois_that_came_cut_are_cut_again_from_the_films_in_which_they_were_located(tmp_path: Path) -> None:
    config, workspace = tiny_config(), Workspace(tmp_path)
    write_phantom(section(PhantomConfig, n_patients=6), tmp_path / "data" / "raw" / "phantom")
    truth = load_rois(config.ingest, tmp_path)
    unknown = dict.fromkeys(("film_id", "patient_id", "x_px", "y_px"))
    table = truth.table.assign(source="mias_rois", group_id=truth.table["patient_id"], **unknown)
    reference = Rois(table, truth.images)
    assert not can_be_cut_again(table, workspace)
    (tmp_path / "data" / "raw" / "phantom").rename(workspace.films)
    write_table(workspace.located, locate_rois(reference, workspace.films))
    assert can_be_cut_again(table, workspace)

    config = config.model_copy(update={"ingest": config.ingest.model_copy(update={"source": "mias_rois"})})
    assert (recut(workspace, config, reference).images == truth.images).all()
    plain = recut(workspace, with_overrides(config, {"ingest.bounding_box": False}), reference)
    assert list(plain.table["roi_id"]) == list(truth.table["roi_id"])
    workspace.films.rename(tmp_path / "data" / "raw" / "phantom")
    cut = load_rois(tiny_config().ingest.model_copy(update={"bounding_box": False}), tmp_path)
    assert (plain.images == cut.images).all()
