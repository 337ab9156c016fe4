"""MLflow's own page: its server, and the addresses that say something at first sight."""

import json
import os
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mammo.core.errors import MammoError, ending_on_sigterm
from mammo.core.files import Workspace
from mammo.track.check import tracking_uri
from mammo.track.store import VIEW, comparison_rows, connect, experiment_id, without_password

PORT: Final = 5000
SERVERS: Final = ("http://", "https://")
TRAINING: Final = "workflowType=machine_learning"
"""What has the page show models in training, not language models."""


def serve_page(workspace: Workspace, host: str, port: int, say: Callable[[str], None]) -> int:
    """Serve MLflow's page of a workspace until it is stopped; once it answers, say the address and open it.

    Returns:
        The server's exit status.

    Raises:
        MammoError: the store is a server, which has the page itself.
    """
    store = tracking_uri(workspace)
    if store.startswith(SERVERS):
        raise MammoError(
            f"MLFLOW_TRACKING_URI is the server {without_password(store)}, which has the page itself; open that address"
        )
    address = first_page(workspace, f"http://{host}:{port}")
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--workers", "1"]
    command += ["--backend-store-uri", store, "--host", host, "--port", str(port)]
    command += ["--artifacts-destination", str((workspace.mlruns / "artifacts").resolve())]
    command += ["--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ending_on_sigterm(), subprocess.Popen(command, env=environment) as server:
        try:
            while server.poll() is None and not _answers(f"http://{host}:{port}/health"):
                time.sleep(0.2)
            if server.poll() is None:
                say(f"MLflow UI: {address} (stop with Ctrl-C)")
                if sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
                    webbrowser.open(address)
            return server.wait()
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False


def first_page(workspace: Workspace, server: str) -> str:
    """Where the newest run of a system is listed; the list of experiments where there is none."""
    rows = comparison_rows(workspace, most=1)
    if not rows:
        return f"{server}/#/experiments"
    made = experiment_id(
        connect(workspace), workspace, rows[0]["experiment"]
    )  # which has the view from here on
    return f"{server}/#/experiments/{made}/runs?{TRAINING}&viewStateShareKey={VIEW}"


def compare_pages(workspace: Workspace, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """For each experiment of several systems the address of the page that compares the newest run of each system.

    Where the store is no server it is that of `mammo ui`.
    """
    store, pages = tracking_uri(workspace), {}
    server = without_password(store) if store.startswith(SERVERS) else f"http://127.0.0.1:{PORT}"
    for name, number in {row["experiment"]: row["experiment_id"] for row in rows}.items():
        newest = {row["system"]: row["run_id"] for row in reversed(rows) if row["experiment"] == name}
        lists = (quote(json.dumps(ids)) for ids in (list(newest.values()), [number]))
        if len(newest) > 1:
            pages[name] = "{}/#/compare-runs?runs={}&experiments={}&{}".format(server, *lists, TRAINING)
    return pages
