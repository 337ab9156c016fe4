"""What DVC sees of the raw data."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.mark.slow
def test_commands_without_a_target_know_the_raw_archive(tmp_path: Path) -> None:
    # `dvc checkout` and `dvc exp run` remove what they do not know; `dvc push` would leave it behind.
    for arguments in (("git", "init", "--quiet"), ("dvc", "init", "--quiet")):
        subprocess.run(arguments, cwd=tmp_path, check=True)
    for name in (".gitignore", ".dvcignore", "data/raw/mias_rois.dvc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)

    listed = subprocess.run(
        ("dvc", "list", ".", "data/raw", "--dvc-only"),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )

    assert listed.stdout.split() == ["mias_rois"]
