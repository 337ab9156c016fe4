"""Starts the servers of a deployment without containers, and ends them as `docker stop` and `docker kill` would."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic
from urllib.error import URLError
from urllib.request import urlopen

import psutil
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


@dataclass
class Program:
    """A server with all its children, as a container holds them; its output lies in `folder/NAME.log`."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str]
    folder: Path
    healthy: Callable[[], bool]
    user: str | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start it and do not wait."""
        with (self.folder / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.variables,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                group=self.user,
            )

    def wait(self, timeout_s: float = 120) -> None:
        """Wait until it is healthy.

        Raises:
            RuntimeError: it ended before.
            TimeoutError: it was not healthy in time.
        """

        def healthy() -> bool:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended before it was healthy:\n{self.log}")
            return self.healthy()

        wait_until(healthy, timeout_s, lambda: f"{self.name} is healthy:\n{self.log}")

    def start(self) -> None:
        """Start it and wait until it is healthy; raises as `wait` does."""
        self.launch()
        self.wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal.

        Raises:
            TimeoutError: it or a child of it did not end; they are killed then.
        """
        family = self._family()
        if not family:
            return
        os.kill(family[0].pid, how)
        try:
            wait_until(lambda: not _alive(family), 60, lambda: f"{self.name} ends with its children:\n{self.log}")
        finally:
            self._end(family)

    def kill(self) -> None:
        """SIGKILL to it and its children at once."""
        self._end(self._family())

    def _family(self) -> list[psutil.Process]:
        if self.process is None or self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _end(self, family: list[psutil.Process]) -> None:
        for one in _alive(family):
            one.kill()
        if self.process is not None and family:
            self.process.wait(10)
            wait_until(lambda: not _alive(family), 10, lambda: f"{self.name} is dead")


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    # An orphan that nobody waits for stays as a zombie where there is no init.
    return [one for one in family if _lives(one)]


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # it may end between the two questions
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def running(program: Program) -> Iterator[Program]:
    """Start a server; stop it when the block ends, if it still runs then."""
    try:
        program.start()
        yield program
    finally:
        program.stop()


@dataclass(frozen=True)
class Postgresql:
    """A server of the tests' own."""

    port: int
    folder: Path
    program: Program
    start: Callable[[], None]
    stop: Callable[[], None]

    def ask(self, user: str, password: str, *arguments: str, **variables: str) -> str:
        """What `psql` prints. Raises CalledProcessError where the server refuses."""
        login = ["--host", "127.0.0.1", "--port", str(self.port), "--username", user]
        return subprocess.run(
            [
                str(postgresql_binaries() / "psql"),
                "--no-psqlrc",
                "--set",
                "ON_ERROR_STOP=1",
                *login,
                *arguments,
            ],
            env=os.environ | {"PGPASSWORD": password} | variables,
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        ).stdout


@contextmanager
def postgresql(
    user: str, password: str, database: str = "", initdb: Sequence[str] = ("--auth=scram-sha-256",)
) -> Iterator[Postgresql]:
    """A PostgreSQL cluster of its own, running, and a database in it if one is named. Skips where it is missing."""
    binaries = postgresql_binaries()
    user_of_system = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses root
    # In /tmp itself: the server's user may not enter pytest's folders, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(password)
    if user_of_system:
        shutil.chown(folder, user_of_system)
        shutil.chown(secret, user_of_system)
    port = free_port()
    data = str(folder / "data")

    def call(program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        line, who = [str(binaries / program), *arguments], user_of_system
        return subprocess.run(line, cwd=folder, user=who, group=who, check=False, timeout=120, capture_output=True)

    def ready() -> bool:
        return call("pg_isready", "--host", "127.0.0.1", "--port", str(port)).returncode == 0

    # What a kill leaves is in the system's cache; fsync guards against the loss of power.
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    server = [str(binaries / "postgres"), "-D", data, "-p", str(port), *settings]
    program = Program("postgresql", server, dict(os.environ), folder, ready, user_of_system)

    def stop() -> None:
        program.stop(signal.SIGINT)  # the fast way, as the image's STOPSIGNAL

    try:
        made = call("initdb", "-D", data, "-U", user, *initdb, f"--pwfile={secret}", "--no-sync")
        assert made.returncode == 0, made.stderr.decode()
        program.start()
        made_server = Postgresql(port, folder, program, program.start, stop)
        if database:
            made_server.ask(user, password, "--dbname", "postgres", "--command", f'CREATE DATABASE "{database}"')
        yield made_server
    finally:
        stop()
        shutil.rmtree(folder)


def postgresql_binaries() -> Path:
    """Where PostgreSQL's programs lie. Skips where they are missing."""
    config = shutil.which("pg_config")
    if config is None:
        pytest.skip("PostgreSQL is not installed (no pg_config on PATH)")
    answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
    folder = Path(answer.stdout.strip())
    if not (folder / "initdb").exists():
        pytest.skip(f"PostgreSQL's server is not installed (no initdb in {folder})")
    return folder
