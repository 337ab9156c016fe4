"""Kills at random moments: nothing lost, nothing doubled, and the same trials as without a kill."""

import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.tuning.claims import claim, mend
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import journal_path, open_storage
from mammo.tuning.study import OpenStudy, make_study
from mammo.tuning.trials import FOLDS, INDEX, RETRY_OF, finished, state_of
from tests.tuning.conftest import agrees_with_storage, line_with, make_workspace, tune_command, work_in

N_TRIALS = 6
N_KILLS = 10
BYTES_OF_A_TRIAL = 2400
"""About what a trial writes into the journal."""


def opened_study(space: Workspace, config: Config) -> OpenStudy:
    material = read_trial_rois(space, config)
    return make_study(space, config, open_storage(space, None, 1), material, fresh=False)


def what_counts(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All of a finished trial that the machine's speed and the number of kills may not touch."""
    return [
        {
            "index": trial.user_attrs[INDEX],
            "state": trial.state,
            "value": trial.value,
            "params": trial.params,
            "epochs": trial.intermediate_values,
            "folds": trial.user_attrs.get(FOLDS),
        }
        for trial in finished(trials)
    ]


def run_whole(forked: ForkServerContext, space: Workspace, config: Config) -> None:
    worker = forked.Process(target=work_in, args=(space.root, config, None, N_TRIALS))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0


def run_killed(forked: ForkServerContext, space: Workspace, config: Config, seed: int) -> None:
    """Kill -9 the worker ten times, each after a random number of writes, then let it end."""
    rng = np.random.default_rng(seed)
    journal = journal_path(space)
    for _ in range(N_KILLS):
        worker = forked.Process(target=work_in, args=(space.root, config, None, N_TRIALS))
        until = journal.stat().st_size + int(rng.integers(1, BYTES_OF_A_TRIAL))
        worker.start()
        while journal.stat().st_size < until:
            worker.join(0.002)
            assert worker.exitcode is None, "the study ended before the last kill"
        worker.kill()
        worker.join()
        assert worker.exitcode == -9
    run_whole(forked, space, config)


@pytest.mark.slow
def test_a_study_killed_ten_times_ends_with_the_trials_of_an_undisturbed_one(
    tmp_path: Path, forked: ForkServerContext, store_of: Callable[[Workspace], None]
) -> None:
    calm, config = make_workspace(tmp_path / "calm")
    undisturbed = opened_study(calm, config)
    run_whole(forked, calm, config)
    shaken, _ = make_workspace(tmp_path / "shaken")
    store_of(shaken)
    disturbed = opened_study(shaken, config)
    run_killed(forked, shaken, config, seed=0)
    expected = what_counts(undisturbed.trials)
    assert [trial["index"] for trial in expected] == list(range(N_TRIALS))
    assert what_counts(disturbed.trials) == expected
    assert sum(RETRY_OF in t.user_attrs for t in disturbed.trials) >= 5
    assert {"pruned", "complete"} <= {state_of(t, set()) for t in disturbed.trials}
    assert all(t.state != TrialState.RUNNING and t.state != TrialState.WAITING for t in disturbed.trials)
    runs = StudyRuns(disturbed, N_TRIALS)
    runs.sync()
    agrees_with_storage(disturbed, runs)


def test_a_sync_that_was_killed_is_completed_without_doubles(
    workspace: tuple[Workspace, Config], store_of: Callable[[Workspace], None]
) -> None:
    space, config = workspace
    store_of(space)
    opened = opened_study(space, config)
    for value in (0.5, 0.75):
        taken = claim(opened, N_TRIALS)
        assert taken is not None
        taken.report(value, 0)
        opened.study.tell(taken, value)
    runs = StudyRuns(opened, N_TRIALS)
    trial = opened.trials[0]
    # As if killed after the metrics and before the state: all is written again.
    run_id = runs._make_nested(trial)
    runs._write(run_id, trial, state_of(trial, set()))
    runs._client.delete_tag(run_id, "mammo.state")
    again = StudyRuns(opened, N_TRIALS)
    again.sync()
    again.sync()
    assert again.parent == runs.parent
    agrees_with_storage(opened, again)


def test_a_trial_whose_taker_died_under_the_lock_is_drawn_again(
    workspace: tuple[Workspace, Config],
) -> None:
    space, config = workspace
    opened = opened_study(space, config)
    first = claim(opened, 2)
    assert first is not None
    half_made = opened.study.ask()  # neither parameters nor index nor worker: killed at once
    mend(opened)
    tries = opened.trials
    assert tries[half_made.number].state == TrialState.FAIL
    assert tries[first.number].state == TrialState.RUNNING  # its worker, this process, lives
    retry = tries[-1]
    assert (retry.user_attrs[RETRY_OF], retry.user_attrs[INDEX]) == (half_made.number, 1)
    again = claim(opened, 2)
    assert again is not None
    assert again.number == retry.number
    assert set(again.params) == set(config.tune.space)
    assert claim(opened, 2) is None


def test_a_kill_between_fail_and_retry_loses_nothing(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    opened = opened_study(space, config)
    trial = claim(opened, 1)
    assert trial is not None
    opened.study.tell(trial, state=TrialState.FAIL)  # and killed before it was enqueued again
    mend(opened)
    mend(opened)
    retries = [t for t in opened.trials if t.user_attrs.get(RETRY_OF) == trial.number]
    assert len(retries) == 1
    assert finished(opened.trials) == []


def test_an_index_that_was_left_out_is_done_before_a_study_ends(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    opened = opened_study(space, config)
    for index in (0, 0, 2):  # as if two workers had taken trials at once
        params = {"size_px": 72, "head_lr": 0.01, "fusion": "baseline", "vote_rule": "majority"}
        opened.study.enqueue_trial(params, user_attrs={INDEX: index})
    taken = [trial.user_attrs[INDEX] for _ in range(4) if (trial := claim(opened, 3)) is not None]
    assert taken == [0, 0, 2, 1]
    assert claim(opened, 3) is None


def test_a_trial_that_kills_every_worker_is_given_up_as_failed(tmp_path: Path) -> None:
    space, config = make_workspace(tmp_path / "space", max_retries=2)
    opened = opened_study(space, config)
    for _ in range(3):
        trial = claim(opened, 1)
        assert trial is not None
        opened.study.tell(trial, state=TrialState.FAIL)
    assert claim(opened, 1) is None
    ended = finished(opened.trials)
    assert [(t.user_attrs[INDEX], t.state) for t in ended] == [(0, TrialState.FAIL)]
    assert "worker died 3 times" in ended[0].user_attrs["error"]


def test_half_a_line_that_a_killed_writer_left_is_cut_off(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    opened = opened_study(space, config)
    assert claim(opened, 5) is not None
    with journal_path(space).open("ab") as journal:
        journal.write(b'{"op_code":6,"worker_')
    again = optuna.load_study(study_name=opened.study.study_name, storage=open_storage(space, None, 1))
    again.set_user_attr("after", "the kill")
    fresh = optuna.load_study(study_name=opened.study.study_name, storage=open_storage(space, None, 1))
    assert fresh.user_attrs["after"] == "the kill"
    assert len(fresh.trials) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("hears_interrupts")
def test_ctrl_c_while_workers_import_says_one_line_and_the_same_command_goes_on(
    workspace: tuple[Workspace, Config], store_of: Callable[[Workspace], None]
) -> None:
    space, _ = workspace
    store_of(space)
    arguments = ("--trials", "2", "--workers", "2")
    with tune_command(space, *arguments) as command:
        line_with(command, "0 of 2 trials ended before")
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to all of its processes
        _, said = command.communicate()
    assert (command.returncode, said) == (130, "stopped; run the same command to go on\n")

    with tune_command(space, *arguments) as again:
        line_with(again, "of 2 trials ended before")
        line_with(again, "best: trial")
        again.communicate()
    assert again.returncode == 0
