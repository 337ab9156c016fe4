"""`mammo explain` on a registered champion."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace
from mammo.report.rois import write_explanations
from mammo.serve.predict import explain_rois, predict_files


def test_a_file_and_a_roi_id_get_a_picture_and_the_decision_of_predict(
    space: Workspace, picture: Path, tmp_path: Path
) -> None:
    explained = explain_rois(space, [str(picture), "disc-000"])
    predicted = predict_files(space, [picture])[0]
    del predicted["file"]
    rows = [row for row, _ in explained]
    for row in rows:
        assert row.items() >= predicted.items()
        assert [int(score > 0.5) for score in row["patch_scores"]] == row["votes"]
        assert json.loads(json.dumps(row)) == row
        assert row["synthetic"] is True
    assert [row["truth"] for row in rows] == [None, "Normal"]
    paths = write_explanations(explained, tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"


def test_the_block_can_be_named(space: Workspace) -> None:
    ((row, explanation),) = explain_rois(space, ["disc-000"], "block3")
    assert row["block"] == explanation.block == "block3"
    with pytest.raises(MammoError, match=r"block5.*got 'conv1'"):
        explain_rois(space, ["disc-000"], "conv1")


def test_a_bad_name_refuses_the_whole_call(space: Workspace, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"this is a text")
    with pytest.raises(DataError, match=r"text\.png"):
        explain_rois(space, [str(picture), str(tmp_path / "text.png")])
    with pytest.raises(DataError, match=r"disc-999.*a roi_id of.*disc-000"):
        explain_rois(space, ["disc-001", "disc-999"])
    with pytest.raises(DataError, match="does not exist"):
        explain_rois(Workspace(tmp_path), ["disc-000"])
