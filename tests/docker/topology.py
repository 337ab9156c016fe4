"""All of `docker/compose.yaml` without containers: PostgreSQL, MLflow with log-in, voting services, nginx, load."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, Final

import httpx2
import pytest

from mammo.core.config import Config, VoteConfig
from mammo.core.files import Workspace
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle, save_bundle
from mammo.track.registry import register
from mammo.track.store import open_run, without_addresses
from tests.data.pictures import encoded, noise
from tests.docker.dockerfiles import (
    FOLDER,
    SECRETS,
    environment,
    final_stage,
    nginx_config,
    read_compose,
    read_dockerfile,
    start_command,
)
from tests.docker.processes import Postgresql, Program, answers, free_port, postgresql, wait_until
from tests.settings import PARAMS, TINY_MODEL, section

MODEL: Final = "mammo-roi"


def services() -> dict[str, Any]:
    """Compose's services, with passwords."""
    found: dict[str, Any] = read_compose(SECRETS)["services"]
    return found


def replaced(words: list[str], others: Mapping[str, str]) -> list[str]:
    """A command with whole words exchanged; each must be there."""
    assert set(others) <= set(words), f"{words} lacks some of {sorted(others)}"
    return [others.get(word, word) for word in words]


def variables(name: str, service: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container: the image's variables, then the service's, on this machine's programs."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG"))}
    image = environment(final_stage(read_dockerfile(FOLDER / f"{name}.Dockerfile")))
    wanted = image | dict(service["environment"]) | dict(others)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | wanted | {"PATH": programs, "OMP_NUM_THREADS": "1"}


@contextmanager
def compose_postgresql() -> Iterator[Postgresql]:
    """Compose's `postgres`: its options of initdb, its roles."""
    options = services()["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()
    superuser = SECRETS["POSTGRES_PASSWORD"]
    with postgresql("postgres", superuser, initdb=options) as server:
        secret = SECRETS["MLFLOW_DATABASE_PASSWORD"]
        script = str(FOLDER / "roles.sql")
        server.ask("postgres", superuser, "--file", script, MLFLOW_DATABASE_PASSWORD=secret)
        yield server


def mlflow_server(folder: Path, database_port: int) -> tuple[Program, str]:
    """Compose's `mlflow`, not started, and its address."""
    service, port = services()["mlflow"], free_port()
    image = [one for one in read_dockerfile(FOLDER / "mlflow.Dockerfile") if one.keyword != "CMD"]
    address = "postgresql+psycopg://mlflow@postgres:5432/mlflow"
    here = address.replace("postgres:5432", f"127.0.0.1:{database_port}")
    others = {
        "0.0.0.0": "127.0.0.1",
        "5000": str(port),
        "/mlflow/artifacts": str(folder / "artifacts"),
        address: here,
    }
    accounts = (FOLDER / "basic_auth.ini").read_text()
    assert address in accounts
    (folder / "basic_auth.ini").write_text(accounts.replace(address, here))
    set_here = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"), "HOME": str(folder)}
    command = replaced(start_command(image) + service["command"], others)
    url = f"http://127.0.0.1:{port}"
    program = Program(
        "mlflow", command, variables("mlflow", service, set_here), folder, lambda: answers(f"{url}/health")
    )
    return program, url


def voting_service(folder: Path, registry_url: str) -> tuple[Program, str]:
    """One of compose's `voting`, not started, and its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(PARAMS.read_text())
    service, port = services()["voting"], free_port()
    assert service["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    image = start_command(read_dockerfile(FOLDER / "serve.Dockerfile"))
    command = replaced(image, {"0.0.0.0": "127.0.0.1", "8000": str(port)})
    set_here = {"MLFLOW_TRACKING_URI": registry_url, "MAMMO_SERVE_TOKEN": "", "HOME": str(folder)}
    url = f"http://127.0.0.1:{port}"
    program = Program(
        "mammo", command, variables("serve", service, set_here), folder, lambda: answers(f"{url}/healthz")
    )
    return program, url


def nginx_server(folder: Path, voting: list[str], registry_url: str) -> tuple[Program, str, str]:
    """Compose's `nginx`, not started, and its two addresses: of the votes, of the registry."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    folder.mkdir(exist_ok=True)
    port, registry_port = free_port(), free_port()
    config = nginx_config(folder, port, registry_port, voting, registry_url)
    url = f"http://127.0.0.1:{port}"
    command = ["nginx", "-e", "stderr", "-c", str(config), "-g", "daemon off;"]  # as the image starts it
    program = Program("nginx", command, os.environ, folder, lambda: answers(f"{url}/nginx"))
    return program, url, f"http://127.0.0.1:{registry_port}"


@contextmanager
def logged_in(registry_url: str, password: str = SECRETS["MLFLOW_ADMIN_PASSWORD"]) -> Iterator[None]:
    """This process and its children use the server as admin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", registry_url)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        yield


def tiny_bundle(workspace: Workspace, seed: int = 0) -> Path:
    """A system with random weights, as training would leave it."""
    config = Config.load(workspace.params)
    model = config.model.model_copy(update=TINY_MODEL)
    classifier = build_classifier("compact-model1", model, seed=seed).eval()
    bundle = Bundle(classifier, size_px=48, stride_px=36, vote=section(VoteConfig), synthetic=True)
    save_bundle(bundle, workspace.bundle("compact-model1"))
    return workspace.bundle("compact-model1")


def register_versions(workspace: Workspace, count: int) -> list[str]:
    """Numbers of `count` versions with different weights, in the store that is logged into; the first is champion."""
    numbers = []
    for seed in range(count):
        bundle = tiny_bundle(workspace, seed)
        with open_run(workspace, "topology", "compact-model1", {}, {"mammo.system": "compact-model1"}) as run:
            numbers.append(register(workspace, MODEL, run.run_id, bundle).number)
    return numbers


@dataclass(frozen=True)
class Topology:
    """All programs of the deployment, running, and what is in the registry."""

    database: Postgresql
    mlflow: Program
    voting: tuple[Program, ...]
    nginx: Program
    workspace: Workspace
    versions: tuple[str, ...]
    url: str
    """Of the votes, through nginx."""
    registry_url: str
    """Of MLflow, through nginx."""


@contextmanager
def deployed(folder: Path, n_services: int = 2, n_versions: int = 3) -> Iterator[Topology]:
    """Start everything in compose's order; this process is logged in to the registry meanwhile."""
    workspace = Workspace(folder / "workspace")
    workspace.root.mkdir()
    workspace.params.write_text(PARAMS.read_text())
    with ExitStack() as stack:
        database = stack.enter_context(compose_postgresql())
        mlflow, mlflow_url = mlflow_server(folder, database.port)
        made = [voting_service(folder / f"voting-{one}", mlflow_url) for one in range(n_services)]
        nginx, url, registry_url = nginx_server(folder / "nginx", [address for _, address in made], mlflow_url)
        for program in (mlflow, nginx, *(program for program, _ in made)):
            stack.callback(program.kill)
        mlflow.start()
        nginx.start()
        stack.enter_context(logged_in(registry_url))
        stack.enter_context(without_addresses())
        versions = register_versions(workspace, n_versions)
        for program, _ in made:
            program.launch()
        for program, _ in made:
            program.wait()
        yield Topology(
            database=database,
            mlflow=mlflow,
            voting=tuple(program for program, _ in made),
            nginx=nginx,
            workspace=workspace,
            versions=tuple(versions),
            url=url,
            registry_url=registry_url,
        )


def mammo(workspace: Workspace, *arguments: str) -> "subprocess.Popen[str]":
    """A command of `mammo`, started; for an operator who uses the registry that is logged into."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("mammo"), *arguments, "--workspace", str(workspace.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def ended(command: "subprocess.Popen[str]", timeout_s: float = 120) -> tuple[int, str]:
    """Exit code and output of a command."""
    output, _ = command.communicate(timeout=timeout_s)
    return command.returncode, output


@dataclass(frozen=True)
class Answer:
    """One answer of the service, or what went wrong in its place.

    Attributes:
        started, ended: of this process's monotonic clock, in s.
        status: 0 where there was no answer.
        version: `model_version` of the row; empty where there is none.
        text: the body of what is not 200, or the error.
    """

    started: float
    ended: float
    status: int
    version: str
    text: str = ""


@dataclass
class Load:
    """Clients that ask for votes, each after its last answer."""

    url: str
    n_clients: int = 4
    pause_s: float = 0.1
    answers: list[Answer] = field(default_factory=list)
    _ended: Event = field(default_factory=Event)

    @property
    def failed(self) -> list[Answer]:
        """What was not answered with a vote."""
        return [one for one in self.answers if one.status != 200]

    def since(self, moment: float) -> list[Answer]:
        """Answers to requests that began after a moment."""
        return [one for one in list(self.answers) if one.started >= moment]

    def wait_for(self, count: int, version: str | None = None, timeout_s: float = 120) -> None:
        """Wait until the last `count` answers, begun from here on, are all votes of one version, or of any.

        Raises:
            TimeoutError: they are not in time.
        """
        begun = monotonic()

        def there() -> bool:
            last = [one.version for one in self.since(begun) if one.status == 200][-count:]
            return len(last) == count and (version is None or set(last) == {version})

        wait_until(there, timeout_s, lambda: f"{count} votes of version {version}: {self.answers[-3:]}")

    async def _client(self, number: int) -> None:
        async with httpx2.AsyncClient(timeout=30) as client:
            body = encoded(noise(number))
            while not self._ended.is_set():
                started = monotonic()
                try:
                    answer = await client.post(self.url, content=body)
                    self.answers.append(_answer(started, answer))
                except httpx2.HTTPError as error:
                    self.answers.append(Answer(started, monotonic(), 0, "", repr(error)))
                await asyncio.sleep(self.pause_s)

    def _run(self) -> None:
        async def all_clients() -> None:
            await asyncio.gather(*(self._client(number) for number in range(self.n_clients)))

        asyncio.run(all_clients())

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Ask until the block ends."""
        thread = Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()


def _answer(started: float, answer: httpx2.Response) -> Answer:
    if answer.status_code != 200:
        return Answer(started, monotonic(), answer.status_code, "", answer.text)
    (row,) = answer.json()["rois"]
    return Answer(started, monotonic(), 200, row["model_version"])
