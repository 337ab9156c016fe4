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

TRAINING: Final = "workflowType=machine_learning"
"""What has the page show models in training, not language models."""


def serve_page(workspace: Workspace, host: str, port: int, say: Callable[[str], None]) -> int:
    """Serve MLflow's page until it is stopped; once it answers, say where the newest run is listed, and open that.

    Returns:
        The server's exit status.

    Raises:
        MammoError: the store is a server, which has the page itself.
    """
    store, server = tracking_uri(workspace), f"http://{host}:{port}"
    if store.startswith("http"):
        raise MammoError(
            f"MLFLOW_TRACKING_URI is the server {without_password(store)}, which has the page itself; open that address"
        )
    address = f"{server}/#/experiments?{TRAINING}"
    for row in comparison_rows(workspace, most=1):
        made = experiment_id(connect(workspace), workspace, row["experiment"])  # an older one gets the view
        address = f"{server}/#/experiments/{made}/runs?{TRAINING}&viewStateShareKey={VIEW}"
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    command += ["--artifacts-destination", str((workspace.mlruns / "artifacts").resolve())]
    command += ["--uvicorn-opts", "--log-level warning"]
    # Arguments are seen by every user of the machine, and the store's address may hold a password.
    # Of its libraries' deprecations nobody who looks at runs can do anything.
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    with ending_on_sigterm(), subprocess.Popen(command, env=environment) as process:
        try:
            while process.poll() is None and not _answers(f"{server}/health"):
                time.sleep(0.2)
            if process.poll() is None:
                say(f"MLflow UI: {address} (stop with Ctrl-C)")
                if sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
                    webbrowser.open(address)
            return process.wait()
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False


def compare_pages(workspace: Workspace, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Where each experiment's newest runs of all systems are compared, on the store's page or that of `mammo ui`."""
    store, pages = tracking_uri(workspace), {}
    server = without_password(store) if store.startswith("http") else "http://127.0.0.1:5000"
    for name, number in {row["experiment"]: row["experiment_id"] for row in rows}.items():
        newest = {row["system"]: row["run_id"] for row in reversed(rows) if row["experiment"] == name}
        runs, experiments = (quote(json.dumps(ids)) for ids in (list(newest.values()), [number]))
        if len(newest) > 1:
            pages[name] = f"{server}/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING}"
    return pages
