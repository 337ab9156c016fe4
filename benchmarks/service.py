"""The voting service under load: `python -m benchmarks.service`, or `make bench-service`. It needs wrk and a champion.

Writes `service.json`, and a table of it between two markers of `README.md`, both beside this file.
"""

import base64
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from time import perf_counter
from typing import Annotated, Any, Final
from urllib.request import urlopen

import numpy as np
import typer
import yaml
from rich.console import Console

from benchmarks.measure import free_port, program, put_table, running
from mammo.core.errors import MammoError, guarded
from mammo.core.files import write_json
from mammo.core.settings import parse_yaml
from mammo.data.decode import PHANTOM_ROI
from mammo.track.check import place_of_champion

HERE: Final = Path(__file__).parent
CLIENTS: Final = (1, 4, 16, 64, 200)


def load(address: str, clients: int, seconds: int, script: Path) -> dict[str, Any]:
    """What wrk saw: answers a second, percentiles in ms, answers that were no success, failures of the connection."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), address]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, n, p50, p95, bad, broken = map(float, said.split("figures:")[1].split())
    return {
        "rate": rate,
        "n": int(n),
        "p50_ms": p50,
        "p95_ms": p95,
        "refused": int(bad),
        "broken": int(broken),
    }


SCRIPT: Final = """
local file = io.open("BODY", "rb")
wrk.method, wrk.body = "POST", file:read("*all")
wrk.headers["Content-Type"] = "TYPE"
function done(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("figures: %.3f %d %.3f %.3f %d %d", summary.requests / summary.duration * 1e6,
    summary.requests, latency:percentile(50) / 1000, latency:percentile(95) / 1000, errors.status, broken))
end
"""


@contextmanager
def readiness(address: str, times: list[float]) -> Iterator[None]:
    """Meanwhile ask whether the service is ready, ten times a second, and note how long each answer took, in ms."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.1):
            started = perf_counter()
            with urlopen(address, timeout=30):
                times.append((perf_counter() - started) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure(workspace: Path, seconds: int, console: Console) -> dict[str, Any]:
    """Rows of the service, of the service without batches, and of MLflow's own server, under the same load."""
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load_at_start": [round(one, 2) for one in os.getloadavg()],
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        values = parse_yaml((workspace / "params.yaml").read_text())
        picture = base64.b64encode(PHANTOM_ROI.read_bytes()).decode()
        write_json(Path(folder, "rows.json"), {"dataframe_records": [{"image": picture}]})
        as_png = _script(PHANTOM_ROI, "image/png", Path(folder))
        as_json = _script(Path(folder, "rows.json"), "application/json", Path(folder))
        limits = values["serve"] | {"per_client": 1000, "queue": 1000}
        for name, serve in {"mammo serve": limits, "one ROI at a time": limits | {"max_batch": 1}}.items():
            own = Path(folder) / name.replace(" ", "-")
            own.mkdir()
            (own / "params.yaml").write_text(yaml.safe_dump(values | {"serve": serve}))
            (own / "mlruns").symlink_to((workspace / "mlruns").resolve())
            port = free_port()
            base = f"http://127.0.0.1:{port}"
            store = f"sqlite:///{(workspace / 'mlruns' / 'mlflow.db').resolve()}"
            with running(
                [program("mammo"), "serve", "--port", str(port)],
                own,
                f"{base}/readyz",
                MLFLOW_TRACKING_URI=store,
            ):
                rows += _loaded(name, f"{base}/v1/rois", seconds, as_png, console, f"{base}/readyz")
        port = free_port()
        command = [program("mlflow"), "models", "serve", "-m", "models:/mammo-roi@champion", "-p", str(port)]
        with running(
            [*command, "--env-manager", "local"],
            workspace,
            f"http://127.0.0.1:{port}/ping",
            MLFLOW_TRACKING_URI=f"sqlite:///{(workspace / 'mlruns' / 'mlflow.db').resolve()}",
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        ):
            address = f"http://127.0.0.1:{port}/invocations"
            rows += _loaded("mlflow models serve", address, seconds, as_json, console)
    return {"machine": machine, "seconds": seconds, "rows": rows}


def _script(body: Path, content_type: str, folder: Path) -> Path:
    script = folder / f"{body.stem}.lua"
    script.write_text(SCRIPT.replace("BODY", str(body)).replace("TYPE", content_type))
    return script


def _loaded(
    name: str, address: str, seconds: int, script: Path, console: Console, ready: str | None = None
) -> Iterator[dict[str, Any]]:
    load(address, 4, 2, script)  # whatever is done once
    for clients in CLIENTS:
        times: list[float] = []
        with readiness(ready, times) if ready else nullcontext():
            row = {"server": name, "clients": clients} | load(address, clients, seconds, script)
        if times:
            row |= {"ready_p50_ms": round(float(np.median(times)), 1), "ready_max_ms": round(max(times), 1)}
        console.print(str(row), highlight=False, soft_wrap=True)
        yield row


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    machine, of = found["machine"], {(row["server"], row["clients"]): row for row in found["rows"]}
    load_ = ", ".join(map(str, machine["load_at_start"]))
    lines = [
        f"{machine['date']}, {machine['cores']} cores that also run wrk; load at the start {load_}. One PNG of a ROI a "
        f"request, {found['seconds']} s each. Ratio: to `mlflow models serve` with as many clients.",
        "",
        "| server | clients | ROIs/s | ratio | p50, ms | p95, ms | refused | /readyz p50 and longest, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        other = of.get(("mlflow models serve", row["clients"]))
        ratio = "" if other is None or other is row else f"{row['rate'] / other['rate']:.1f}"
        ready = f"{row['ready_p50_ms']}, {row['ready_max_ms']}" if "ready_p50_ms" in row else ""
        cells = (
            row["server"],
            row["clients"],
            f"{row['rate']:.0f}",
            ratio,
            f"{row['p50_ms']:.0f}",
            f"{row['p95_ms']:.0f}",
            row["refused"] + row["broken"],
            ready,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main(
    seconds: Annotated[int, typer.Option(min=2, help="Of load for each number of clients.")] = 10,
    workspace: Annotated[str, typer.Option(help="With a registered champion.")] = "",
) -> None:
    """Measure the service under load and write the table."""
    if which("wrk") is None:
        raise MammoError("wrk: is not installed; install Debian's package wrk")
    found = measure(Path(workspace or place_of_champion(".", "demo")), seconds, Console())
    write_json(HERE / "service.json", found)
    put_table(HERE / "README.md", "service", table(found))


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
