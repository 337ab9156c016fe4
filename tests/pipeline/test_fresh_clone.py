"""A git clone of the project, whose dvc.lock knows every hash and whose MLflow store is empty, ends with a champion."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from mammo.core.files import Workspace, read_array
from mammo.track.store import comparison_rows
from tests.pipeline.clones import SYSTEM, clone_of, git, must
from tests.pipeline.workspaces import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fetched", [False, True], ids=["stages run", "outputs from the remote"])
def test_a_fresh_clone_ends_with_a_champion_and_a_clean_tree(origin: Workspace, tmp_path: Path, fetched: bool) -> None:
    clone = clone_of(origin, tmp_path / "clone")
    picture = tmp_path / "roi.png"
    if fetched:  # a colleague predicts before anything else
        must(clone, "dvc", "pull", "dvc.yaml")
    else:
        first = must(clone, "dvc", "repro")
        assert "Running stage 'train" in first
        assert "Stage 'evaluate' didn't change, skipping" in first
    Image.fromarray(read_array(clone.rois / "images.npy")[0]).save(picture)
    vote = json.loads(must(clone, "mammo", "predict", "--json", str(picture)))
    assert (vote["model_name"], vote["model_version"]) == ("mammo-roi", "1")
    results = json.loads((clone.reports / "evaluate" / "results.json").read_text())
    (row,) = comparison_rows(clone)
    accuracy = results["systems"][SYSTEM]["roi"]["accuracy"]["value"]
    assert row["metrics"]["test/accuracy"] == pytest.approx(accuracy, abs=1e-4)

    second = must(clone, "dvc", "repro")
    assert [line for line in second.splitlines() if line.startswith("Running stage")] == [
        "Running stage 'register':"  # which only looks
    ]
    assert "MLflow's store is up to date" in second
    assert git(clone.root, "status", "--porcelain") == ""
    if fetched:
        moved = Workspace(clone.root.rename(tmp_path / "renamed"))
        said = run(moved, "mammo", "doctor")
        assert (said.returncode, "empty mlruns/ and run `dvc repro`" in " ".join(said.stdout.split())) == (
            2,
            True,
        )
    else:  # its run knows the commit that it was trained at
        rebuilt = must(clone, "mammo", "rebuild", "1")
        assert re.search(r"weights .* yes", rebuilt)
        assert not re.search(r" no\s*$", rebuilt, flags=re.MULTILINE)
