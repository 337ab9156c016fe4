"""The tracking store when it is damaged, absent or elsewhere."""

from pathlib import Path
from unittest.mock import MagicMock

import mlflow
import pytest
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

from mammo import cli
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.track import page
from mammo.track.check import tracking_uri
from mammo.track.store import connect, first_line, without_password


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    space.mlruns.mkdir()
    (space.mlruns / "mlflow.db").write_bytes(b"this is no database, it is a text" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        connect(space)
    assert (space.mlruns / "mlflow.db").read_bytes().startswith(b"this is no database")


def test_a_server_that_is_not_there_is_an_error_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as caught:
        connect(Workspace(tmp_path))
    assert str(caught.value).startswith("http://127.0.0.1:9: ")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_tried_twice_and_one_that_answered_as_often_as_mlflow_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    seen: list[int] = []

    def search(*_: object, **__: object) -> None:
        seen.append(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())

    monkeypatch.setattr(mlflow.MlflowClient, "search_experiments", search)
    connect(Workspace(tmp_path))
    assert seen == [1]
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() > 1
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    connect(Workspace(tmp_path))
    assert seen == [1, 3]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("postgresql+psycopg://mammo:p@ss@db:5432/x", "postgresql+psycopg://db:5432/x"),
        ("postgresql+psycopg://mammo:pa/s@s@127.0.0.1:1/x", "postgresql+psycopg://127.0.0.1:1/x"),
        ("postgresql://db/x?password=hunter2&sslmode=off", "postgresql://db/x?password=…&sslmode=off"),
        (
            "request to http://u:s@h/api failed, see http://t@k",
            "request to http://h/api failed, see http://k",
        ),
    ],
)
def test_no_password_of_an_address_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert first_line(RuntimeError(f"{text}\nmore")) == shown


def test_the_page_of_a_server_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(MammoError, match=r"is the server http://127\.0\.0\.1:9, .* open that address"):
        cli.ui(port=0, workspace=Workspace(tmp_path))


def test_the_password_of_a_database_is_no_argument_of_the_page_s_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@127.0.0.1:9/runs")
    monkeypatch.setattr(page, "comparison_rows", lambda *_, **__: [])
    started = MagicMock()
    started.return_value.__enter__.return_value.poll.return_value = 0
    monkeypatch.setattr("subprocess.Popen", started)
    page.serve_page(Workspace(tmp_path), "127.0.0.1", 5000, print)
    command, environment = started.call_args.args[0], started.call_args.kwargs["env"]
    assert "server" in command
    assert not any("secret" in argument for argument in command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://user:secret@127.0.0.1:9/runs"


def test_the_store_lies_in_the_workspace_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(Workspace(tmp_path)) == f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri(Workspace(tmp_path)) == "http://localhost:5000"
