"""The servers that people start: MLflow's UI and the voting service."""

import os
import socket
import sys
from pathlib import Path

from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.track.check import tracking_uri
from mammo.track.store import QUIET, connect, without_password


def mlflow_ui_command(space: Workspace, host: str, port: int) -> list[str]:
    """The lean MLflow server: one worker, no job runners."""
    return [
        str(Path(sys.executable).parent / "mlflow"),
        "server",
        "--workers",
        "1",
        "--backend-store-uri",
        tracking_uri(space),
        "--artifacts-destination",
        str((space.mlruns / "artifacts").resolve()),
        "--host",
        host,
        "--port",
        str(port),
    ]


def run_mlflow_ui(space: Workspace, host: str, port: int) -> None:
    """Replace this process by the MLflow server.

    Raises:
        MammoError: the port is taken, or the store cannot be used or is a server, which has a page of its own.
    """
    uri = tracking_uri(space)
    if uri.startswith(("http://", "https://")):
        raise MammoError(
            f"MLFLOW_TRACKING_URI is the server {without_password(uri)}, which has the page itself; open that address"
        )
    _check_port(host, port)
    connect(space)
    environment = {**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = mlflow_ui_command(space, host, port)
    sys.stderr.write(f"MLflow UI: http://{host}:{port} (stop with Ctrl-C)\n")
    os.execve(command[0], command, environment)


def run_dashboard(space: Workspace, url: str | None, host: str, port: int) -> None:
    """Serve optuna-dashboard on a study's storage until stopped.

    Raises:
        MammoError: the port is taken, or there is no study.
    """
    _check_port(host, port)
    from optuna_dashboard import run_server

    from mammo.tuning.storage import journal_path, using_storage

    if url is None and not journal_path(space).is_file():
        raise MammoError(f"{journal_path(space)}: does not exist; run `mammo tune` to make a study")
    with using_storage(space, url, heartbeat_s=None) as storage:
        sys.stderr.write(f"optuna-dashboard: http://{host}:{port} (stop with Ctrl-C)\n")
        run_server(storage, host=host, port=port)


def run_service(space: Workspace, host: str, port: int) -> None:
    """Serve the champion until stopped.

    Raises:
        MammoError: the port is taken, or there is no champion.
    """
    _check_port(host, port)
    import uvicorn

    from mammo.serve.app import create_app

    app = create_app(space)
    sys.stderr.write(f"voting service: http://{host}:{port} (stop with Ctrl-C)\n")
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise MammoError(
            f"{host}:{port}: cannot be listened on ({error}); choose another with --port"
        ) from error
