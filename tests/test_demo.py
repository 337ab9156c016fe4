"""The demo's copy of the pipeline."""

from pathlib import Path

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
