"""The demo's copy of the pipeline."""

from pathlib import Path

import pytest

from mammo.core.errors import ConfigError, MammoError
from mammo.core.provenance import commit_all
from mammo.demo import prepare

PROJECT = Path(__file__).parents[1]


def modules(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in (root / "mammo").rglob("*.py")}


def test_a_module_that_the_project_no_longer_has_goes_from_the_demo_too_and_what_it_never_had_stays(
    tmp_path: Path,
) -> None:
    gone, own = (tmp_path / "mammo" / "serve" / name for name in ("gone.py", "own.py"))
    gone.parent.mkdir(parents=True)
    gone.touch()
    commit_all(tmp_path, "an earlier demo")
    own.touch()
    prepare(PROJECT, tmp_path)
    assert modules(tmp_path) == modules(PROJECT) | {own.relative_to(tmp_path)}


def test_a_folder_that_holds_other_work_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "params.yaml"
    own.write_text("mine: 1\n")
    with pytest.raises(MammoError, match="must be new, empty or an earlier demo"):
        prepare(PROJECT, tmp_path)
    assert list(tmp_path.iterdir()) == [own]


def test_broken_settings_of_the_project_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    project, folder = tmp_path / "project", tmp_path / "demo"
    project.mkdir()
    (project / "dvc.yaml").touch()
    (project / "params.yaml").write_text("trian: {}\n")
    with pytest.raises(ConfigError, match="trian is not a known key"):
        prepare(project, folder)
    assert not folder.exists()
