"""What `mammo tune` refuses at once, and what it says before any work."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

from mammo.cli import app
from mammo.core.config import Config
from mammo.core.errors import ConfigError, MammoError
from mammo.core.files import Workspace
from mammo.tuning.space import distributions, without_fold
from mammo.tuning.storage import journal_path
from mammo.tuning.study import OpenStudy
from tests.settings import params
from tests.tuning.conftest import study_in

PARAMS = Path(__file__).parents[2] / "params.yaml"
NOT_POSTGRESQL = ("sqlite:///study.db", "mysql://a:b@c/d", "no address")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--dry-run"], "run `dvc repro split` first"),
        (["nested", "--dry-run"], "run `dvc repro split` first"),
        (["--source", "phantom", "--dry-run"], "tune-demo/data/splits/split.parquet: --dry-run counts"),
        (["--trials", "5", "nested"], "write `mammo tune nested --trials …`"),
        (["--dry-run", "nested"], "write `mammo tune nested --dry-run …`"),
        (["worker"], "needs --storage"),
        (
            ["worker", "--storage", "postgresql+psycopg://x/y", "--held-out-fold", "5"],
            "must be below nested_folds (5)",
        ),
        *((["worker", "--storage", url], "must be a PostgreSQL database") for url in NOT_POSTGRESQL),
        (["dashboard"], "run `mammo tune` to make a study"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert isinstance(result.exception, MammoError)
    assert message in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_a_bad_space_is_refused_before_a_phantom_workspace_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(PARAMS.read_text())
    values["tune"]["space"]["size_px"]["high"] = 136
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["tune", "--source", "phantom"])
    assert isinstance(result.exception, ConfigError)
    assert "size_px must be between 32 and 120" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patches": {"corner_patches": False}},
            r"tune\.space: corner_patches: false leaves no patch .*size_px 80, stride_px 24.*lower stride_px",
        ),
        (
            {"train": {"recipe": "frozen", "features": "kept"}},
            r"a trial of tune\.recipe and tune\.space: train\.features must be fresh .*backbone_lr of 0\.0001; let a",
        ),
        (
            {"model": {"road": "dense"}, "tune": {"recipe": "paper"}},
            r"a trial of tune\.recipe and tune\.space: model\.road dense .*set the recipe's validate_on to grid",
        ),
    ],
)
@pytest.mark.parametrize("command", [["tune"], ["tune", "nested"], ["tune", "--source", "phantom"]])
def test_a_study_with_a_trial_that_breaks_a_rule_is_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, dict[str, Any]],
    message: str,
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params(**changes)))
    Config.load(tmp_path / "params.yaml")  # nothing is wrong with them for whoever does not tune
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigError)
    assert re.search(message, str(result.exception))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def ended_trials(opened: OpenStudy, seconds: list[float]) -> None:
    """Trials that have ended, the first of them pruned, each after so many seconds."""
    space = distributions(opened.config.tune)
    for index, trial_s in enumerate(seconds):
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=index)).ask(space)
        opened.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if index else TrialState.PRUNED,
                value=0.8 if index else None,
                params=drawn.params,
                distributions=drawn.distributions,
                user_attrs={"index": index, "trial_s": trial_s},
            )
        )


def said_without_work(*arguments: str) -> str:
    """What a dry run says, in one line."""
    result = CliRunner().invoke(app, ["tune", *arguments, "--dry-run"], catch_exceptions=False)
    (line,) = result.output.splitlines()
    return line


def test_a_dry_run_says_how_long_the_trials_left_will_take_and_makes_no_study(
    workspace: tuple[Workspace, Config],
) -> None:
    space, config = workspace
    here = ("--workspace", str(space.root), "--trials", "10", "--workers", "4")
    unknown = "workers: 4, how long shows once a trial has ended"
    assert said_without_work(*here) == f"10 trials to do, 0 ended before; {unknown}"
    assert not journal_path(space).exists()

    with study_in(space, config) as opened:
        ended_trials(opened, [30.0, 90.0, 60.0])
    # Seven trials of a minute, on four workers and on two.
    assert said_without_work(*here).endswith(
        "7 trials to do, 3 ended before; workers: 4, about 0:01:45 (hours:minutes:seconds)"
    )
    assert "workers: 2, about 0:03:30 " in said_without_work(*here[:-1], "2")
    # The last trial is no shorter for a second worker.
    assert "workers: 4, about 0:01:00 " in said_without_work(*here[:2], "--trials", "4", *here[4:])
    assert said_without_work(*here[:2], "--trials", "3") == "0 trials to do, 3 ended before"
    assert said_without_work(*here, "--fresh") == f"10 trials to do, 0 ended before; {unknown}"

    # Of five studies of ten trials, one has two: 48 trials of two minutes on four workers.
    with study_in(space, without_fold(config, 2)) as opened:
        ended_trials(opened, [60.0, 180.0])
    before = journal_path(space).read_bytes()
    assert said_without_work("nested", *here) == (
        "5 studies: 48 trials to do, 2 ended before; workers: 4, about 0:24:00 (hours:minutes:seconds); "
        "then up to 20 fits of what they chose and of params.yaml's settings"
    )
    # What one study has too many of is no trial of the others.
    assert said_without_work("nested", *here[:2], "--trials", "1").startswith("5 studies: 4 trials to do, 2")
    assert journal_path(space).read_bytes() == before


def test_a_dry_run_tells_that_a_study_would_not_go_on(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    with study_in(space, config.model_copy(update={"tune": config.tune.model_copy(update={"epochs": 7})})):
        pass
    with pytest.raises(MammoError, match=r"(?s)tune\.epochs: 7 there, 2 here.*start anew with --fresh"):
        said_without_work("--workspace", str(space.root))
