"""What `mammo tune` refuses at once."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mammo.cli import app
from mammo.core.errors import ConfigError, MammoError

PARAMS = Path(__file__).parents[2] / "params.yaml"
NOT_POSTGRESQL = ("sqlite:///study.db", "mysql://a:b@c/d", "no address")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials must be at least 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--workers", "-1", "--storage", "postgresql+psycopg://x"], "--workers must be at least 1"),
        (["--source", "mars"], "--source must be phantom"),
        (["nested", "--trials", "0"], "--trials must be at least 1"),
        (["--trials", "5", "nested"], "write `mammo tune nested --trials …`"),
        (["nested", "--source", "mars"], "--source must be phantom"),
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
