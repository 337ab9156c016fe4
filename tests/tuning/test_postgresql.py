"""Workers on a real PostgreSQL server; one is killed in mid-trial."""

from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.tuning.coordinator import Plan
from mammo.tuning.material import read_trial_rois
from mammo.tuning.runs import StudyRuns
from mammo.tuning.storage import open_storage, using_storage
from mammo.tuning.study import OpenStudy, join_study, make_study, study_name
from mammo.tuning.trials import INDEX, RETRY_OF, WORKER, finished, retried_numbers
from tests.docker.processes import wait_until
from tests.tuning.conftest import PASSWORD, agrees_with_storage, tune_in, work_in

N_TRIALS = 5


@pytest.fixture
def storage(workspace: tuple[Workspace, Config], database_url: str) -> Iterator[BaseStorage]:
    space, config = workspace
    with using_storage(space, database_url, config.tune.heartbeat_s) as opened:
        yield opened


def opened_on(space: Workspace, config: Config, storage: BaseStorage) -> OpenStudy:
    return make_study(space, config, storage, read_trial_rois(space, config), fresh=True)


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_done_by_another_and_counts_once(
    workspace: tuple[Workspace, Config], forked: ForkServerContext, database_url: str, storage: BaseStorage
) -> None:
    space, config = workspace
    opened = opened_on(space, config, storage)
    arguments = (space.root, config, database_url, N_TRIALS)
    victim = forked.Process(target=work_in, args=arguments)
    victim.start()

    def in_mid_trial() -> bool:
        return any(
            t.state == TrialState.RUNNING and t.intermediate_values and WORKER in t.user_attrs
            for t in opened.trials
        )

    wait_until(in_mid_trial, 60, lambda: "a trial reports an epoch")
    victim.kill()
    victim.join()
    assert victim.exitcode == -9
    left = {t.number: t.state for t in opened.trials}
    assert TrialState.RUNNING in left.values()
    survivors = [forked.Process(target=work_in, args=arguments) for _ in range(2)]
    for worker in survivors:
        worker.start()
    for worker in survivors:
        worker.join(120)
        assert worker.exitcode == 0
    trials = opened.trials
    killed = [t for t in trials if left.get(t.number) == TrialState.RUNNING]
    assert [t.state for t in killed] == [TrialState.FAIL]
    assert retried_numbers(trials) == {killed[0].number}
    retry = next(t for t in trials if RETRY_OF in t.user_attrs)
    assert retry.params == killed[0].params
    assert [t.user_attrs[INDEX] for t in finished(trials)] == list(range(N_TRIALS))
    assert len(trials) == N_TRIALS + 1


@pytest.mark.slow
def test_a_command_killed_on_postgresql_goes_on_beside_a_worker_from_elsewhere(
    workspace: tuple[Workspace, Config],
    forked: ForkServerContext,
    database_url: str,
    store_of: Callable[[Workspace], None],
) -> None:
    space, config = workspace
    store_of(space)
    fresh = Plan(N_TRIALS, 1, database_url, fresh=True)
    command = forked.Process(target=tune_in, args=(space.root, config, fresh))
    command.start()
    with using_storage(space, database_url, heartbeat_s=None) as reader:

        def trials_of_the_command() -> list[FrozenTrial]:
            try:
                return optuna.load_study(study_name=study_name(config), storage=reader).trials
            except KeyError:  # not made yet, or just deleted for a fresh one
                return []

        def has_ended_one_and_taken_another() -> bool:
            states = [t.state for t in trials_of_the_command()]
            return len(states) > 1 and states[-1] == TrialState.RUNNING

        wait_until(has_ended_one_and_taken_another, 90, lambda: "a second trial is taken")
    command.kill()
    command.join()
    again = forked.Process(target=tune_in, args=(space.root, config, Plan(N_TRIALS, 0, database_url)))
    elsewhere = forked.Process(target=work_in, args=(space.root, config, database_url, N_TRIALS))
    for process in (again, elsewhere):
        process.start()
    for process in (again, elsewhere):
        process.join(120)
        assert process.exitcode == 0
    with using_storage(space, database_url, heartbeat_s=None) as reader:
        opened = join_study(space, config, reader, read_trial_rois(space, config))
        assert [t.user_attrs[INDEX] for t in opened.ended] == list(range(N_TRIALS))
        agrees_with_storage(opened, StudyRuns(opened, N_TRIALS))
    record = yaml.safe_load((space.reports / "tune" / "best.yaml").read_text())
    assert record["trials"]["ended"] == N_TRIALS


def test_a_worker_of_other_settings_is_refused(
    workspace: tuple[Workspace, Config], storage: BaseStorage
) -> None:
    space, config = workspace
    opened_on(space, config, storage)
    other = config.model_copy(update={"tune": config.tune.model_copy(update={"seed": 1})})
    with pytest.raises(MammoError, match=r"tune\.seed: 0 there, 1 here\n.*the study's params\.yaml and data"):
        join_study(space, other, storage, read_trial_rois(space, config))


def test_a_worker_without_a_study_says_who_makes_it(
    workspace: tuple[Workspace, Config], storage: BaseStorage
) -> None:
    space, config = workspace
    elsewhere = config.model_copy(update={"ingest": config.ingest.model_copy(update={"source": "mini_mias"})})
    with pytest.raises(MammoError, match="run `mammo tune` with this --storage first"):
        join_study(space, elsewhere, storage, read_trial_rois(space, config))


def test_an_unreachable_database_is_named_without_its_password(
    workspace: tuple[Workspace, Config], database_url: str
) -> None:
    space, _ = workspace
    wrong = database_url.replace(PASSWORD, "another-secret")
    with pytest.raises(TrackingError, match="cannot be used") as caught:
        open_storage(space, wrong, 1)
    assert "another-secret" not in str(caught.value)


def test_the_server_misses_a_client_whose_machine_has_gone_within_a_minute(database_url: str) -> None:
    storage = open_storage(Workspace(Path()), database_url, 1)
    assert isinstance(storage, RDBStorage)
    with storage.engine.connect() as connection:
        idle, interval, count, unanswered = (
            connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in (
                "tcp_keepalives_idle",
                "tcp_keepalives_interval",
                "tcp_keepalives_count",
                "tcp_user_timeout",
            )
        )
    storage.engine.dispose()
    assert int(idle) + int(interval) * int(count) <= 60
    assert int(unanswered) == 60_000  # milliseconds


@pytest.mark.parametrize("url", ["sqlite:///study.db", "mysql://a:b@c/d", "no address"])
def test_other_databases_are_refused(workspace: tuple[Workspace, Config], url: str) -> None:
    with pytest.raises(TrackingError, match="must be a PostgreSQL database"):
        open_storage(workspace[0], url, 1)
