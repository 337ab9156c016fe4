"""The demo's copy of the pipeline."""

from pathlib import Path

import pytest

from mammo.demo import prepare

PROJECT = Path(__file__).parents[1]


def modules(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in (root / "mammo").rglob("*.py")}


def test_a_module_that_the_project_no_longer_has_goes_from_the_demo_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mammo.demo.commit_all", lambda *_: None)
    (tmp_path / ".git").mkdir()  # made before
    gone = tmp_path / "mammo" / "serve" / "gone.py"
    gone.parent.mkdir(parents=True)
    gone.touch()
    prepare(PROJECT, tmp_path)
    assert modules(tmp_path) == modules(PROJECT)
