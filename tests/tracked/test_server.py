"""`mammo serve` as a program: clients that hang up, are slow or hostile, and versions that come and go."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import psutil
import pytest
import yaml

from mammo.core.config import Config
from mammo.core.files import WEIGHTS_FILE, Workspace
from mammo.data.decode import PHANTOM_ROI
from mammo.serve.loaded import fetch_version
from mammo.track.history import CHAMPION
from mammo.track.record import ensure_run, fill_store
from mammo.track.registry import announced, register
from mammo.track.store import connect
from tests.docker.processes import Program, answers, free_port, running, wait_until

pytestmark = pytest.mark.slow
NAME = "mammo-roi"
BODY_S = 2


@dataclass
class Running:
    """A service as a process of its own."""

    program: Program
    port: int

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The one that takes requests."""
        assert self.program.process is not None
        return self.program.process

    def get(self, path: str) -> dict[str, Any]:
        """The answer in JSON, whatever its status."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return dict(json.load(answer))
        except HTTPError as refused:
            return dict(json.load(refused))

    def vote(self, content: bytes | None = None) -> dict[str, Any]:
        """The first row of an answer, or why there is none."""
        sent = Request(f"http://127.0.0.1:{self.port}/v1/rois", content or PHANTOM_ROI.read_bytes())
        sent.add_header("Content-Type", "image/png")
        try:
            with urlopen(sent, timeout=60) as answer:
                return dict(json.load(answer)["rois"][0])
        except HTTPError as refused:
            return dict(json.load(refused)) | {"status": refused.code}

    def memory_mb(self) -> float:
        """Resident memory of the process that takes requests."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for an event of another process."""
    wait_until(holds, seconds, lambda: "it has happened")


@pytest.fixture(scope="module")
def space(
    tmp_path_factory: pytest.TempPathFactory,
    finished: tuple[Workspace, Config],
    store_of: Callable[[Workspace], None],
) -> Workspace:
    """A workspace of its own with two versions: champion 1 and challenger 2."""
    root = tmp_path_factory.mktemp("served") / "space"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("mlruns", "*.run.json", "predictions"))
    space, config = Workspace(root), finished[1]
    store_of(space)
    first = fill_store(space, config)
    (other,) = set(config.systems) - {first.system}
    register(space, NAME, ensure_run(space, config, other), space.bundle(other))
    values = yaml.safe_load(space.params.read_text())
    values["serve"] |= {"body_s": BODY_S, "poll_s": 0.1, "shadow_share": 1.0, "drain_s": 0.5}
    space.params.write_text(yaml.safe_dump(values))
    return space


@contextmanager
def serving(space: Workspace) -> Iterator[Running]:
    """The service, as soon as it says where it is."""
    port = free_port()
    command = [sys.executable, "-m", "mammo.cli", "serve", "--port", str(port), "-w", str(space.root)]
    program = Program(f"serve-{port}", command, os.environ, space.root, lambda: "voting service: " in program.log)
    with running(program):
        yield Running(program, port)


@pytest.fixture(scope="module")
def served(space: Workspace) -> Iterator[Running]:
    with serving(space) as service:
        yield service


def move(space: Workspace, number: str) -> None:
    """Move the alias as MLflow's page does."""
    connect(space).set_registered_model_alias(NAME, CHAMPION, number)


def test_the_service_follows_the_alias_and_each_answer_names_its_version(served: Running, space: Workspace) -> None:
    assert served.vote()["model_version"] == "1"
    move(space, "2")
    until(lambda: served.vote()["model_version"] == "2", 30)
    assert served.get("/readyz")["loaded"] == "2"
    move(space, "1")
    until(lambda: served.vote()["model_version"] == "1", 30)


def test_the_challenger_s_unseen_vote_stands_in_the_log(served: Running, space: Workspace) -> None:
    row = served.vote()

    def shadowed() -> list[dict[str, Any]]:
        lines = [json.loads(line) for path in space.predictions.iterdir() for line in path.read_text().splitlines()]
        return [line for line in lines if line["prediction_id"] == row["prediction_id"] and line["challenger"]]

    until(lambda: bool(served.vote() and shadowed()), 60)  # the challenger may still be loading
    assert shadowed()[-1]["model_version"] == "1"
    assert shadowed()[-1]["challenger"]["model_version"] == "2"
    assert shadowed()[-1]["challenger"]["prediction_id"].startswith("v2.")


def test_a_damaged_version_is_refused_and_the_old_one_goes_on(served: Running, space: Workspace) -> None:
    client = connect(space)
    made = mlflow.register_model(client.get_model_version(NAME, "2").source, NAME)  # the same files once more
    weights = fetch_version(space, NAME, "2").bundle / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])

    def is_refused(alias: str) -> bool:
        ready = served.get("/readyz")
        return ready["alias"] == alias and str(made.version) in ready["refused"]

    with announced(space, NAME, str(made.version)):  # loaded before the alias moves
        until(lambda: is_refused("1"), 60)
    move(space, str(made.version))
    until(lambda: is_refused(str(made.version)), 60)
    ready = served.get("/readyz")
    assert (ready["ready"], ready["loaded"]) == (True, "1")
    assert "must be what was registered" in ready["refused"][str(made.version)]
    assert served.vote()["model_version"] == "1"
    weights.write_bytes(whole)
    until(lambda: served.get("/readyz")["loaded"] == str(made.version), 60)  # tried again, it answers
    assert served.get("/readyz")["refused"] == {}
    move(space, "1")
    until(lambda: served.vote()["model_version"] == "1", 30)


def test_half_a_body_is_answered_in_time_and_costs_no_memory(served: Running) -> None:
    served.vote()
    before = served.memory_mb()
    half = b"POST /v1/films?at=9,9 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b"0" * 900_000
    clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(60)]
    for client in clients:
        client.sendall(half)
    assert served.vote()["label"] in ("Normal", "Tumor")
    for client in clients:
        client.settimeout(BODY_S + 13)
        assert client.recv(100).startswith((b"HTTP/1.1 408", b"HTTP/1.1 429"))
        client.close()
    until(lambda: served.memory_mb() < before + 40, 30)


def test_clients_that_hang_up_leave_no_traceback(served: Running) -> None:
    for sent in (
        b"POST /v1/rois HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nhalf",
        b"GET / HTTP",
    ):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(sent)
    assert served.vote()["label"]
    until(lambda: '"status": 499' in served.program.log)
    assert "Traceback" not in served.program.log


def test_mutated_pictures_are_refused_or_voted_on_and_memory_stays(served: Running) -> None:
    draw, content = random.Random(0), PHANTOM_ROI.read_bytes()
    statuses: list[int] = []
    for round_ in range(200):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        statuses.append(served.vote(bytes(changed[: draw.randint(1, len(changed))])).get("status", 200))
        if round_ == 50:
            before = served.memory_mb()
    assert set(statuses) <= {200, 422}
    assert served.memory_mb() < before + 40


def test_no_invented_request_gets_an_answer_that_openapi_does_not_promise(served: Running) -> None:
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", "--seed", "1", "--max-examples", "25"]
    command += ["--phases", "fuzzing", "--checks", ",".join((*checks, "response_schema_conformance"))]
    command += ["--request-timeout", "60", f"http://127.0.0.1:{served.port}/openapi.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=served.program.folder)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Traceback" not in served.program.log


def test_sigterm_turns_readiness_off_answers_a_while_longer_and_ends_cleanly(served: Running) -> None:
    served.process.send_signal(signal.SIGTERM)
    until(lambda: not served.get("/readyz")["ready"], 5)
    assert served.vote()["label"]
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert served.process.wait(30) == 0
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Traceback" not in served.program.log


def test_a_second_signal_ends_at_once_though_a_request_is_at_work(space: Workspace) -> None:
    with serving(space) as service:
        workers = psutil.Process(service.process.pid).children(recursive=True)
        for worker in workers:
            if "torch" in worker.cmdline():  # it votes, for which there is more time than to decode
                worker.suspend()
        content = PHANTOM_ROI.read_bytes()
        head = f"POST /v1/rois HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(head.encode() + content)
            assert service.get("/readyz")["ready"]
            service.process.send_signal(signal.SIGINT)
            until(lambda: not answers(f"http://127.0.0.1:{service.port}/healthz"), 10)
            assert service.process.poll() is None
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(10) == 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []
