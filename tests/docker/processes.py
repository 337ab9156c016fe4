"""Starts the servers of a deployment without containers, and stops them as `docker stop` would."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from urllib.error import URLError
from urllib.request import urlopen

import pytest


def wait_until(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    """Ask again and again until the condition holds.

    Raises:
        TimeoutError: it did not hold in time; `what` says what was waited for.
    """
    deadline, pause = monotonic() + timeout_s, Event()
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"{what()}, not within {timeout_s:g} s")
        pause.wait(0.1)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def running(
    command: list[str], variables: Mapping[str, str], folder: Path, health_url: str, timeout_s: float = 120
) -> Iterator[None]:
    """Run a server in `folder` until the block ends; its output lies beside in a `.log` file.

    Raises:
        RuntimeError: it ended before it was healthy.
        TimeoutError: it did not become healthy, or did not end on SIGTERM with all its children.
    """
    log = folder / f"{command[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=variables, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )

    def healthy() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{log.read_text()}")
        return answers(health_url)

    def gone() -> bool:
        process.poll()
        return not _group_exists(process.pid)

    try:
        wait_until(healthy, timeout_s, lambda: f"{health_url} answers:\n{log.read_text()}")
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            wait_until(gone, 60, lambda: f"{command[0]} and its children end on SIGTERM:\n{log.read_text()}")
        finally:
            if _group_exists(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass(frozen=True)
class Postgresql:
    """A server of the tests' own."""

    port: int
    start: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def postgresql(user: str, password: str, database: str) -> Iterator[Postgresql]:
    """A PostgreSQL cluster of its own with password authentication, running. Skips where it is missing."""
    binaries = _postgresql_binaries()
    is_root = os.geteuid() == 0
    if is_root and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses root, and there is no runuser to become another user")
    as_user = ["runuser", "-u", "postgres", "--"] if is_root else []
    # In /tmp itself: the server's user may not enter pytest's folders, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(password)
    if is_root:
        shutil.chown(folder, "postgres")
        shutil.chown(secret, "postgres")
    port = free_port()

    def call(program: str, *arguments: str) -> None:
        line = [*as_user, str(binaries / program), *arguments]
        # PostgreSQL inherits the output of pg_ctl, so a pipe would never end.
        with (folder / "calls.log").open("ab") as output:
            subprocess.run(line, cwd=folder, check=True, timeout=120, stdout=output, stderr=output)

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    data = str(folder / "data")

    def start() -> None:
        call("pg_ctl", "-D", data, "-l", str(folder / "server.log"), "-o", options, "--wait", "start")

    def stop() -> None:
        call("pg_ctl", "-D", data, "--mode", "fast", "--wait", "stop")

    try:
        call("initdb", "-D", data, "-U", user, "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        start()
        environment = os.environ | {"PGPASSWORD": password}
        create = [str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", user, database]
        subprocess.run(create, env=environment, check=True, timeout=60)
        yield Postgresql(port, start, stop)
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            stop()
        shutil.rmtree(folder)


def _postgresql_binaries() -> Path:
    config = shutil.which("pg_config")
    if config is None:
        pytest.skip("PostgreSQL is not installed (no pg_config on PATH)")
    answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
    folder = Path(answer.stdout.strip())
    if not (folder / "initdb").exists():
        pytest.skip(f"PostgreSQL's server is not installed (no initdb in {folder})")
    return folder
