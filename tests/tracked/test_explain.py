"""`mammo explain` on a registered champion."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mammo.core.config import Config
from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from mammo.report.rois import write_explanations
from mammo.serve.predict import explain_rois, predict_files


@pytest.fixture
def roi_file(finished: tuple[Workspace, Config], tmp_path: Path) -> Path:
    path = tmp_path / "roi one.png"
    Image.fromarray(read_rois(finished[0].rois).images[1]).save(path)
    return path


def test_a_file_and_a_roi_id_get_a_picture_and_the_decision_of_predict(
    finished: tuple[Workspace, Config], roi_file: Path, tmp_path: Path
) -> None:
    explained = explain_rois(finished[0], [str(roi_file), "disc-001"])
    predicted = predict_files(finished[0], [roi_file])[0]
    del predicted["file"]
    rows = [row for row, _ in explained]
    for row in rows:
        assert row.items() >= predicted.items()
        assert [int(score > 0.5) for score in row["patch_scores"]] == row["votes"]
        assert json.loads(json.dumps(row)) == row
        assert row["synthetic"] is True
    assert [row["truth"] for row in rows] == [None, "Tumor"]
    paths = write_explanations(explained, tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_the_block_can_be_named(finished: tuple[Workspace, Config]) -> None:
    ((row, explanation),) = explain_rois(finished[0], ["disc-000"], "block3")
    assert row["block"] == explanation.block == "block3"
    with pytest.raises(MammoError, match=r"block5.*got 'conv1'"):
        explain_rois(finished[0], ["disc-000"], "conv1")


def test_a_bad_name_refuses_the_whole_call(
    finished: tuple[Workspace, Config], roi_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_bytes(b"this is a text")
    with pytest.raises(DataError, match=r"text\.png"):
        explain_rois(finished[0], [str(roi_file), str(tmp_path / "text.png")])
    with pytest.raises(DataError, match=r"disc-999.*a roi_id of.*disc-000"):
        explain_rois(finished[0], ["disc-001", "disc-999"])
    with pytest.raises(DataError, match="does not exist"):
        explain_rois(Workspace(tmp_path), ["disc-000"])
