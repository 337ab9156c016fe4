"""A git clone of the project, whose dvc.lock knows every hash and whose MLflow store is empty, ends with a champion."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import yaml
from PIL import Image

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.files import Workspace, read_array
from mammo.data.phantom import write_phantom
from mammo.track.registry import versions
from mammo.track.store import comparison_rows, connect
from tests.pipeline.conftest import PROJECT, run

pytestmark = pytest.mark.slow

IDENTITY: Final = {"user.name": "tests", "user.email": "tests@localhost"}
SYSTEM: Final = "compact-baseline"
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "phantom": {"n_patients": 24, "seed": 3},
    "ingest": {"source": "phantom"},
    "patches": {"tumor_draws": 4, "normal_draws": 4},
    "train": {"epochs": 1, "patches_per_epoch": 64, "device": "cpu"},
    "evaluate": {"n_bootstrap": 100},
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project's tree with small settings, its pipeline run, committed to git and pushed to a DVC remote."""
    space = Workspace(tmp_path_factory.mktemp("origin") / "project")
    names = git(PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (space.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, space.root / name)
    values = yaml.safe_load(space.params.read_text()) | {"settings_from": OWN_SETTINGS, "systems": [SYSTEM]}
    for section, changes in SETTINGS.items():
        values[section] |= changes
    space.params.write_text(yaml.safe_dump(values, sort_keys=False))
    git(space.root, "init", "--quiet")
    must(space, "dvc", "remote", "add", "--default", "shelf", str(space.root.parent / "remote"))
    add_films(space)
    must(space, "dvc", "repro")
    must(space, "dvc", "push", "dvc.yaml")
    git(space.root, "add", "--all")
    for name, value in IDENTITY.items():
        git(space.root, "config", name, value)
    git(space.root, "commit", "--quiet", "--message", "results")
    return space


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def must(space: Workspace, *command: str) -> str:
    done = run(space, *command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def add_films(space: Workspace) -> None:
    write_phantom(Config.load(space.params).phantom, space.root / "data" / "raw" / "phantom")


@pytest.mark.parametrize("fetched", [False, True], ids=["stages run", "outputs from the remote"])
def test_a_fresh_clone_ends_with_a_champion_and_a_clean_tree(
    origin: Workspace, tmp_path: Path, fetched: bool
) -> None:
    clone = Workspace(tmp_path / "clone")
    git(tmp_path, "clone", "--quiet", str(origin.root), str(clone.root))
    add_films(clone)
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


def test_an_experiment_in_a_temporary_copy_keeps_its_run_here_and_makes_no_version(
    origin: Workspace, tmp_path: Path
) -> None:
    """docs/experiments.md, to the letter."""
    clone = Workspace(tmp_path / "clone")
    git(tmp_path, "clone", "--quiet", str(origin.root), str(clone.root))
    add_films(clone)
    page = (PROJECT / "docs" / "experiments.md").read_text()
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^(?:dvc|git) .*", page, re.M)]

    def follow(first: str, other: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run the page's command that begins with these words, with other words in it."""
        (words,) = (one for one in commands if shlex.join(one).startswith(first))
        return must(clone, *(other.get(word, word) for word in words))

    for name, value in IDENTITY.items():
        git(clone.root, "config", name, value)
    must(clone, "dvc", "pull", "dvc.yaml")
    must(clone, "dvc", "repro")
    films = {"data/raw/own": "data/raw/phantom", "data/raw/own.dvc": "data/raw/phantom.dvc"}
    for first in ("dvc add", "git add data/raw/own.dvc", "git rm", "git commit --message 'own data'"):
        follow(first, films)

    follow("dvc exp run", {"train.epochs=24": "train.epochs=2"})

    assert git(clone.root, "status", "--porcelain") == ""
    client = connect(clone)
    tagged = [
        run.data.tags.get("mammo.dvc_experiment")
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]
    assert sorted(filter(None, tagged)) == ["longer"]
    assert [one.aliases for one in versions(clone, "mammo-roi")] == [("champion",)]
    assert "longer" in follow("dvc exp show")
    follow("dvc exp apply")
    must(clone, "dvc", "repro")  # asked for, it becomes a version
    assert [one.aliases for one in versions(clone, "mammo-roi")] == [("challenger",), ("champion",)]
    follow("git checkout .")
    follow("dvc checkout")
    assert git(clone.root, "status", "--porcelain") == ""
