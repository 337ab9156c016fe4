"""DVC's view of studies that were made by their commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from mammo.core.files import Workspace
from mammo.core.provenance import commit_all, note_made, run_dvc

GRAPH = """
stages:
  ablate:
    wdir: ../..
    cmd: mammo ablate
    deps: [code]
  study:
    matrix:
      file: [choices]
    wdir: ../..
    cmd: mammo study ${item.file}.yaml
    deps: [code]
"""


def changed(root: Path) -> set[str]:
    """The studies that `dvc status` lists."""
    done = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=root, capture_output=True, text=True, check=True)
    return {line.split(":")[1] for line in done.stdout.splitlines() if line.startswith("pipelines")}


@pytest.mark.slow
def test_a_study_that_its_command_made_is_listed_only_after_a_change(tmp_path: Path) -> None:
    (tmp_path / "pipelines" / "studies").mkdir(parents=True)
    (tmp_path / "pipelines" / "studies" / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "code").write_text("one")
    commit_all(tmp_path, "a graph")
    run_dvc(tmp_path, "init", "--quiet")
    assert changed(tmp_path) == {"ablate", "study@choices"}
    note_made(Workspace(tmp_path), "ablate")
    note_made(Workspace(tmp_path), "seeds")  # no stage
    note_made(Workspace(tmp_path), "study", Path("mine.yaml"))  # a file of one's own
    assert changed(tmp_path) == {"study@choices"}
    note_made(Workspace(tmp_path), "study", Path("pipelines/studies/choices.yaml"))
    assert changed(tmp_path) == set()
    (tmp_path / "code").write_text("two")
    assert changed(tmp_path) == {"ablate", "study@choices"}
