"""`mammo explain` on a registered champion."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mammo.core.config import Config
from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from mammo.report.explain import explain_named, picture_paths
from mammo.serve.predict import predict_files
from tests.tracked.test_cli import broken_files


@pytest.fixture
def roi_file(finished: tuple[Workspace, Config], tmp_path: Path) -> Path:
    path = tmp_path / "roi one.png"
    Image.fromarray(read_rois(finished[0].rois).images[1]).save(path)
    return path


def test_a_file_and_a_roi_id_get_a_picture_and_the_decision_of_predict(
    finished: tuple[Workspace, Config], roi_file: Path, tmp_path: Path
) -> None:
    space = finished[0]
    rows = explain_named(space, [str(roi_file), "disc-001"], tmp_path / "out")
    predicted = predict_files(space, [roi_file])[0]
    for row in rows:
        assert {key: row[key] for key in ("label", "votes", "score", "model_version")} == {
            key: predicted[key] for key in ("label", "votes", "score", "model_version")
        }
        with Image.open(row["picture"]) as picture:
            assert picture.format == "PNG"
        assert json.loads(json.dumps(row)) == row
        assert row["synthetic"] is True
    assert [row["truth"] for row in rows] == [None, "Tumor"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_block_can_be_named(finished: tuple[Workspace, Config], tmp_path: Path) -> None:
    rows = explain_named(finished[0], ["disc-000"], tmp_path, "block3")
    assert rows[0]["block"] == "block3"
    with pytest.raises(MammoError, match="block"):
        explain_named(finished[0], ["disc-000"], tmp_path / "none", "conv1")
    assert not (tmp_path / "none").exists()


def test_a_bad_picture_refuses_the_whole_call_and_leaves_nothing(
    finished: tuple[Workspace, Config], roi_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    for name, path in broken_files(tmp_path / "bad").items():
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            explain_named(finished[0], [str(roi_file), str(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_roi_id_is_refused_with_an_example(
    finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"disc-999.*a roi_id of.*disc-000"):
        explain_named(finished[0], ["disc-999"], tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        explain_named(Workspace(tmp_path), ["disc-000"], tmp_path)


def test_pictures_are_named_after_the_last_parts_and_never_share_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.b.png").write_bytes(np.zeros(1).tobytes())
    names = [
        "test/Tumor (3)",
        "x/test/Tumor (3)",
        "test/Tumor 3",
        str(tmp_path / "a.b.png"),
        "..",
        "disc-001",
        "disc-001",
        "disc-001-2",
    ]
    paths = picture_paths(names, Path("out"))
    assert [path.name for path in paths[:3]] == [
        "test-Tumor-3.png",
        "test-Tumor-3-2.png",
        "test-Tumor-3-3.png",
    ]
    assert paths[3].name.endswith("a.b.png")
    assert [path.name for path in paths[5:]] == ["disc-001.png", "disc-001-2.png", "disc-001-2-2.png"]
    assert len(set(paths)) == len(names)
    assert all(path.parent == Path("out") for path in paths)
