"""PostgreSQL goes away in the middle of a study, for moments and for good."""

from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.core.tune_config import TuneConfig
from mammo.track.store import connect
from mammo.tuning import claims, database
from mammo.tuning.claims import claim
from mammo.tuning.coordinator import Plan, run_tuning
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.space import distributions
from mammo.tuning.storage import using_storage
from mammo.tuning.study import OpenStudy, join_study, make_study
from mammo.tuning.trials import INDEX
from mammo.tuning.worker import work
from tests.docker.processes import Postgresql, wait_until
from tests.tuning.conftest import PASSWORD, agrees_with_storage, line_with, tune_command

N_TRIALS = 8


@pytest.fixture
def opened(workspace: tuple[Workspace, Config], database_url: str) -> Iterator[OpenStudy]:
    space, config = workspace
    with using_storage(space, database_url, config.tune.heartbeat_s) as storage:
        yield make_study(space, config, storage, read_trial_rois(space, config), fresh=True)


@pytest.mark.slow
def test_a_study_waits_for_a_database_that_restarts_and_loses_nothing(
    workspace: tuple[Workspace, Config],
    opened: OpenStudy,
    server: Postgresql,
    database_url: str,
    store_of: Callable[[Workspace], None],
) -> None:
    space, _ = workspace
    store_of(space)
    with tune_command(
        space, "--trials", str(N_TRIALS), "--workers", "2", "--storage", database_url
    ) as command:
        said = [line_with(command, "trials ended before")]
        for n_ended in (1, 3):

            def so_many_have_ended(n_ended: int = n_ended) -> bool:
                return len(opened.ended) >= n_ended

            wait_until(so_many_have_ended, 90, lambda: "trials end")
            server.stop()
            said.append(line_with(command, "does not answer"))
            server.start()
            said.append(line_with(command, "answers again, after"))
        rest, errors = command.communicate(timeout=180)
    assert (command.returncode, errors) == (0, "")
    assert PASSWORD not in "".join(said) + rest
    assert [t.user_attrs[INDEX] for t in opened.ended] == list(range(N_TRIALS))
    assert {t.state for t in opened.trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    agrees_with_storage(opened, StudyRuns(opened, N_TRIALS))


def test_a_claim_whose_lock_is_lost_in_a_restart_is_made_again(
    workspace: tuple[Workspace, Config],
    opened: OpenStudy,
    server: Postgresql,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, config = workspace
    taken: list[optuna.Trial | None] = []

    def first_restart_and_let_another_claim(tune: TuneConfig) -> dict[str, BaseDistribution]:
        patch.undo()
        server.stop()
        server.start()
        with using_storage(space, database_url, config.tune.heartbeat_s) as storage:
            taken.append(claim(join_study(space, config, storage, read_trial_rois(space, config)), 4))
        return distributions(tune)

    # What a claim does between its look at the trials and its own: others may claim only if the lock is lost.
    with monkeypatch.context() as patch:
        patch.setattr(claims, "distributions", first_restart_and_let_another_claim)
        taken.append(claim(opened, 4))
    assert [trial and trial.user_attrs[INDEX] for trial in taken] == [0, 1]
    for trial in opened.trials:
        opened.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def test_a_database_that_stays_away_ends_a_worker_with_one_message(
    workspace: tuple[Workspace, Config],
    opened: OpenStudy,
    server: Postgresql,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, config = workspace
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("trial"):
            server.stop()

    try:
        with pytest.raises(TrackingError, match=r"must answer, and has not for .* then run the same command"):
            work(space.root, config, database_url, 2, say)
    finally:
        server.start()
    assert [line.split(":")[0] for line in lines] == ["trial 0", "postgresql+psycopg"]
    assert PASSWORD not in "".join(lines)
    assert len(opened.ended) == 1


def test_a_worker_that_the_command_starts_waits_for_its_database(
    workspace: tuple[Workspace, Config], opened: OpenStudy, server: Postgresql, database_url: str
) -> None:
    space, config = workspace
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "does not answer" in line:
            server.start()

    server.stop()
    assert work(space.root, config, database_url, 1, say, is_known=True) == 1
    assert ["does not answer" in lines[0], "answers again" in lines[1], "trial 0" in lines[2]] == [True] * 3


def test_a_study_is_not_forgotten_while_a_worker_is_on_it(
    workspace: tuple[Workspace, Config], opened: OpenStudy
) -> None:
    space, config = workspace
    trial = claim(opened, 2)
    assert trial is not None
    material = read_trial_rois(space, config)
    with pytest.raises(MammoError, match=r"nobody may be at work.*stop them, or leave --fresh out"):
        make_study(space, config, opened.storage, material, fresh=True)
    before = opened.id
    opened.study.tell(trial, state=TrialState.PRUNED)
    assert make_study(space, config, opened.storage, material, fresh=True).id != before


@pytest.mark.slow
def test_a_worker_whose_study_is_deleted_says_so(
    workspace: tuple[Workspace, Config], opened: OpenStudy, database_url: str
) -> None:
    space, config = workspace

    def delete(line: str) -> None:
        assert line.startswith("trial 0")
        make_study(space, config, opened.storage, read_trial_rois(space, config), fresh=True)

    with pytest.raises(MammoError, match=r"was deleted meanwhile .*; start again"):
        work(space.root, config, database_url, 2, delete)


@pytest.mark.slow
def test_a_command_whose_study_is_deleted_says_so_and_ends_its_run(
    workspace: tuple[Workspace, Config],
    opened: OpenStudy,
    database_url: str,
    store_of: Callable[[Workspace], None],
) -> None:
    space, config = workspace
    store_of(space)
    said: list[str] = []

    class Deleting(Console):
        def print(self, *objects: object, **_: object) -> None:
            said.append(str(objects[0]))
            make_study(space, config, opened.storage, read_trial_rois(space, config), fresh=True)

    with pytest.raises(MammoError, match=r"was deleted meanwhile .*; start again"):
        run_tuning(space, config, Plan(2, 0, database_url), Deleting())
    assert len(said) == 1
    client = connect(space)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FAILED"]


def test_trials_that_were_open_at_once_are_counted_whoever_took_them(opened: OpenStudy) -> None:
    alone = claim(opened, 4)
    assert alone is not None
    opened.study.tell(alone, state=TrialState.PRUNED)
    after_it = claim(opened, 4)
    assert after_it is not None
    assert opened.study.user_attrs["n_workers"] == 1
    assert claim(opened, 4) is not None
    assert opened.study.user_attrs["n_workers"] == 2
