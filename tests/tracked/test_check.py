"""What the store is found to lack, and that it gets it."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.doctor import examine
from mammo.models.bundle import load_bundle, save_bundle
from mammo.track.check import BUNDLE_TAG, lacking, place_of_champion
from mammo.track.record import fill_store
from mammo.track.registry import champion, register, versions
from mammo.track.store import comparison_rows, connect
from tests.tracked.registered import NAME


def delete_alias(space: Workspace) -> None:
    connect(space).delete_registered_model_alias(NAME, "champion")


def delete_version(space: Workspace) -> None:
    connect(space).delete_model_version(NAME, "1")


def delete_run(space: Workspace) -> None:
    client = connect(space)
    for row in comparison_rows(space):
        if row["system"] == champion(space, NAME).system:
            client.delete_run(row["run_id"])


def change_results(space: Workspace) -> None:
    path = space.reports / "evaluate" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "evaluated again"}))


def train_again(space: Workspace) -> None:
    """Of the same weights: a second run, without results."""
    client, (newest, *_) = connect(space), comparison_rows(space)
    tags = client.get_run(newest["run_id"]).data.tags
    client.create_run(newest["experiment_id"], tags={name: tags[name] for name in (BUNDLE_TAG, "mammo.system")})


@pytest.fixture
def filled(files_only: tuple[Workspace, Config]) -> tuple[Workspace, Config]:
    fill_store(*files_only)
    return files_only


def test_results_that_a_conflict_of_two_branches_has_broken_are_named(
    files_only: tuple[Workspace, Config],
) -> None:
    space, _ = files_only
    (space.reports / "champion.json").write_text("<<<<<<< HEAD\n{}\n")
    with pytest.raises(DataError, match=r"champion\.json: is not valid JSON"):
        lacking(space)
    assert any("champion.json" in one.found for one in examine(space))


def test_an_empty_store_lacks_everything(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    best = json.loads((space.reports / "champion.json").read_text())["system"]
    everything = [
        *(f"a run of {system} with these test results" for system in config.systems),
        f"a version of {NAME} from {best}",
        f"a champion of {NAME}",
    ]
    assert lacking(space) == everything
    (space.mlruns / "mlflow.db").unlink()
    assert lacking(space) == everything


@pytest.mark.parametrize(
    ("damage", "lacks"),
    [
        (delete_alias, ["a champion of"]),
        (delete_version, ["a version of", "a champion of"]),
        (delete_run, ["a run of"]),
        (train_again, ["a run of"]),
        (change_results, ["a run of", "a run of"]),
    ],
)
def test_what_was_taken_from_the_store_is_found_and_brought_back(
    filled: tuple[Workspace, Config], damage: Callable[[Workspace], None], lacks: list[str]
) -> None:
    space, config = filled
    assert lacking(space) == []
    damage(space)
    assert [what[: len(start)] for what, start in zip(lacking(space) or [], lacks, strict=True)] == lacks
    assert "champion" in fill_store(space, config).aliases
    assert lacking(space) == []


@pytest.mark.slow
def test_two_first_commands_at_once_register_everything_once(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    code = "from mammo.cli import _register_results, Workspace, Path; _register_results(Workspace(Path()))"
    commands = [subprocess.Popen([sys.executable, "-c", code], cwd=space.root) for _ in range(2)]
    assert [command.wait() for command in commands] == [0, 0]
    assert [version.aliases for version in versions(space, NAME)] == [("champion",)]
    assert len(comparison_rows(space)) == len(config.systems)


def test_an_experiment_that_was_deleted_comes_back_with_its_runs(filled: tuple[Workspace, Config]) -> None:
    space, config = filled
    client, rows = connect(space), comparison_rows(space)
    client.delete_experiment(rows[0]["experiment_id"])
    assert comparison_rows(space) == []
    fill_store(space, config)
    assert comparison_rows(space) == rows


def test_an_experiment_beside_a_champion_gets_its_runs_and_no_version_until_it_is_applied(
    filled: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, _ = filled
    n_runs, folder = len(comparison_rows(space)), space.bundle(champion(space, NAME).system)
    bundle = load_bundle(folder)
    save_bundle(replace(bundle, vote=bundle.vote.model_copy(update={"share_threshold": 0.123})), folder)
    stage = runpy.run_path(str(Path(__file__).parents[2] / "pipelines" / "register.py"))["main"]
    monkeypatch.chdir(space.root)
    with monkeypatch.context() as experiment:
        experiment.setenv("DVC_EXP_NAME", "longer")
        stage()
    assert len(comparison_rows(space)) == n_runs + 1
    assert [version.aliases for version in versions(space, NAME)] == [("champion",)]
    stage()
    assert [version.aliases for version in versions(space, NAME)] == [("challenger",), ("champion",)]


def test_the_choice_of_a_champion_by_people_is_left_alone(filled: tuple[Workspace, Config]) -> None:
    space, config = filled
    (other,) = set(config.systems) - {champion(space, NAME).system}
    run_id = next(row["run_id"] for row in comparison_rows(space) if row["system"] == other)
    number = register(space, NAME, run_id, space.bundle(other)).number
    connect(space).set_registered_model_alias(NAME, "champion", number)
    assert lacking(space) == []
    fill_store(space, config)
    assert champion(space, NAME).system == other


def test_a_challenger_becomes_champion_once_that_is_deleted(filled: tuple[Workspace, Config]) -> None:
    space, config = filled
    (other,) = set(config.systems) - {champion(space, NAME).system}
    run_id = next(row["run_id"] for row in comparison_rows(space) if row["system"] == other)
    assert register(space, NAME, run_id, space.bundle(other)).aliases == ("challenger",)
    delete_version(space)
    assert register(space, NAME, run_id, space.bundle(other)).aliases == ("champion",)
    assert [version.aliases for version in versions(space, NAME)] == [("champion",)]


def test_only_mlflow_can_tell_what_a_server_or_another_program_s_database_lacks(
    filled: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, _ = filled
    (space.mlruns / "mlflow.db").write_bytes(b"no database")
    assert lacking(space) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert lacking(space) is None


def test_the_first_workspace_with_a_champion_is_served(
    space: Workspace, store_of: Callable[[Workspace], None], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    store_of(Workspace(empty))
    demo = str(space.root)
    assert place_of_champion(str(empty), demo) == demo
    assert place_of_champion(demo, str(empty)) == demo
    assert place_of_champion(str(empty), str(tmp_path / "missing")) == str(empty)
