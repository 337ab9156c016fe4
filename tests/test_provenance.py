"""Commits, hashes and versions are those of git, DVC and the libraries themselves."""

import subprocess
from pathlib import Path

import pytest

from mammo.core.provenance import data_hashes, fingerprint, git_commit


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit of params.yaml, dvc.lock and a report."""
    root = tmp_path / "checkout"
    (root / "reports").mkdir(parents=True)
    git(root, "init", "--quiet")
    for name in ("params.yaml", "dvc.lock", "reports/results.json"):
        (root / name).write_text("first")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "First")
    return root


def test_the_commit_is_dirty_if_tracked_files_differ_but_for_what_the_pipeline_writes(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("not tracked")
    (checkout / "dvc.lock").write_text("second")
    (checkout / "reports" / "results.json").write_text("second")
    assert git_commit(checkout) == git(checkout, "rev-parse", "HEAD")

    (checkout / "params.yaml").write_text("second")
    assert git_commit(checkout) == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_without_git_or_a_first_commit_there_is_no_commit(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path / "no-such-folder"))
    assert git_commit(checkout) is None


def test_data_hashes_are_those_of_data_sets_not_of_an_earlier_run_s_reports(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\n"
        "stages:\n"
        "  ingest:\n"
        "    cmd: python pipelines/ingest.py\n"
        "    deps:\n"
        "    - {path: data/raw/MIAS_ROIs.zip, md5: aaa}\n"
        "    outs:\n"
        "    - {path: data/rois, md5: bbb.dir, size: 1}\n"
        "  evaluate:\n"
        "    cmd: python pipelines/evaluate.py\n"
        "    outs:\n"
        "    - {path: reports/evaluate, md5: ccc}\n"
        "    - {path: reports/plots}\n"
        "  register:\n"
        "    cmd: python pipelines/register.py\n"
    )

    assert data_hashes(tmp_path) == {"data/rois": "bbb.dir"}


@pytest.mark.parametrize("lock", [None, "", "schema: '2.0'\n"])
def test_before_the_first_repro_there_are_no_hashes(tmp_path: Path, lock: str | None) -> None:
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)

    assert data_hashes(tmp_path) == {}


def test_fingerprints_ignore_the_order_of_keys_and_tell_values_apart() -> None:
    settings = {"seed": 0, "recipe": {"epochs": 5, "lr": 1e-4}}

    assert fingerprint(settings) == fingerprint({"recipe": {"lr": 0.0001, "epochs": 5}, "seed": 0})
    assert fingerprint(settings) != fingerprint({**settings, "seed": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint(["1"]) != fingerprint([1])
