"""What a stopped command leaves in MLflow and on the disk, and what it says of what it cannot read."""

import signal
from collections.abc import Callable

import pytest
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.track.record import experiment_name
from mammo.track.store import connect
from mammo.tuning.coordinator import Plan, run_tuning
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import journal_path, open_storage, set_aside_damaged
from mammo.tuning.study import make_study
from tests.tuning.conftest import line_with, tune_command


def statuses(space: Workspace, config: Config) -> list[str]:
    """Of the runs in MLflow, the study's own first."""
    client = connect(space)
    experiment = client.get_experiment_by_name(experiment_name(config))
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [str(run.info.status) for run in runs]


@pytest.mark.slow
def test_sigterm_says_one_line_and_leaves_no_run_that_seems_to_go_on(
    workspace: tuple[Workspace, Config], store_of: Callable[[Workspace], None]
) -> None:
    space, config = workspace
    store_of(space)
    with tune_command(space, "--trials", "50", "--workers", "1") as command:
        line_with(command, "trial 0")
        command.send_signal(signal.SIGTERM)
        _, said = command.communicate()
    assert (command.returncode, said) == (143, "stopped; run the same command to go on\n")
    assert "KILLED" in statuses(space, config)
    assert "RUNNING" not in statuses(space, config)


def test_a_study_begun_anew_ends_the_runs_of_the_one_that_a_kill_left_open(
    workspace: tuple[Workspace, Config], store_of: Callable[[Workspace], None]
) -> None:
    space, config = workspace
    store_of(space)
    material = read_trial_rois(space, config)
    storage = open_storage(space, None, None)
    StudyRuns(make_study(space, config, storage, material, fresh=False), 2)
    assert statuses(space, config) == ["RUNNING"]
    StudyRuns(make_study(space, config, storage, material, fresh=True), 2)
    assert sorted(statuses(space, config)) == ["KILLED", "RUNNING"]


@pytest.mark.parametrize("garbage", ["not json", '{"op_code": 4', "[]", '{"no": "operation"}'])
def test_a_damaged_journal_is_named_with_its_line_and_set_aside_by_fresh(
    workspace: tuple[Workspace, Config], garbage: str
) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    make_study(space, config, open_storage(space, None, None), material, fresh=False)
    journal = journal_path(space)
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], garbage, *lines[2:]]) + "\n")
    damaged = journal.read_bytes()
    with pytest.raises(TrackingError, match=r"journal\.log: every line must be .* line 3 is not; .*--fresh"):
        run_tuning(space, config, Plan(1, 1), Console(quiet=True))
    assert set_aside_damaged(space) == journal.with_name("journal.log.damaged-1")
    make_study(space, config, open_storage(space, None, None), material, fresh=True)
    assert set_aside_damaged(space) is None
    assert journal.with_name("journal.log.damaged-1").read_bytes() == damaged


def test_half_a_line_that_a_killed_writer_left_is_no_damage(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    make_study(space, config, open_storage(space, None, None), read_trial_rois(space, config), fresh=False)
    with journal_path(space).open("ab") as journal:
        journal.write(b'{"op_code": 4, "wor')
    assert set_aside_damaged(space) is None
    open_storage(space, None, None)


def test_other_settings_are_refused_by_name(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    storage = open_storage(space, None, None)
    make_study(space, config, storage, material, fresh=False)
    tune = config.tune.model_copy(update={"epochs": 7})
    train = config.train.model_copy(update={"precision": "bfloat16"})
    other = config.model_copy(update={"tune": tune, "train": train})
    with pytest.raises(MammoError) as refused:
        make_study(space, other, storage, material, fresh=False)
    lines = str(refused.value).splitlines()
    assert "  tune.epochs: 2 there, 7 here" in lines
    assert lines[-1] == "restore params.yaml and data, or start anew with `mammo tune --fresh`"
    assert any(
        line.startswith("  train.precision and the kind of device: ['float32', 'cpu'] there")
        for line in lines
    )
    assert not any("wilcoxon" in line for line in lines)
