"""Compose's deployment without containers: the words of `docker/`, promoted under load, and killed at any moment."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import create_connection
from time import monotonic
from typing import Any, Final

import httpx2
import pytest
from mlflow import MlflowClient

from mammo.models.bundle import load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from tests.data.pictures import encoded, noise
from tests.docker.dockerfiles import FOLDER, SECRETS, health_command, read_dockerfile, start_command
from tests.docker.processes import Program, free_port, running, wait_until
from tests.docker.topology import (
    MODEL,
    Load,
    Topology,
    deployed,
    ended,
    logged_in,
    mammo,
    nginx_server,
    replaced,
    services,
    tiny_bundle,
    variables,
)
from tests.settings import PARAMS

pytestmark = pytest.mark.slow

MOVES: Final = int(os.environ.get("MAMMO_TOPOLOGY_MOVES", "3"))
KILLS: Final = int(os.environ.get("MAMMO_TOPOLOGY_KILLS", "4"))
"""How often the champion is moved, and programs are killed; 20 of each is what the service promises."""
SEED: Final = int(os.environ.get("MAMMO_TOPOLOGY_SEED", "0"))
FOLLOWED_S: Final = float(os.environ.get("MAMMO_TOPOLOGY_FOLLOWED_S", "30"))
"""How soon after a move the old version must have given its last answer: 2 s where nothing else computes."""


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with deployed(tmp_path_factory.mktemp("topology")) as running:
        yield running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx alone: behind it nobody answers."""
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    program, url, _ = nginx_server(tmp_path_factory.mktemp("edge") / "nginx", nobody, nobody[0])
    with running(program):
        yield url


def promotion(number: str) -> list[str]:
    """Words of a promotion whatever the gates say: these versions have random weights."""
    return ["promote", number, "--force", "--reason", "tests"]


def champion() -> str:
    found: str = MlflowClient().get_registered_model(MODEL).aliases["champion"]
    return found


def kept() -> tuple[dict[str, Any], dict[str, str]]:
    """Each version with its tags, run and source; and the history's lines, which are tags of the model."""
    client = MlflowClient()
    found = client.search_model_versions(f"name = '{MODEL}'")
    versions = {one.version: (one.tags, one.run_id, one.source) for one in found}
    tags = client.get_registered_model(MODEL).tags
    return versions, {name: text for name, text in tags.items() if name.startswith("mammo.history.")}


def port_of(program: Program) -> str:
    return program.command[program.command.index("--port") + 1]


@pytest.mark.parametrize(("host", "status"), [("mlflow:5000", 200), ("elsewhere.example", 403)])
def test_the_server_answers_to_its_own_names_only(topology: Topology, host: str, status: int) -> None:
    answer = httpx2.get(
        f"http://127.0.0.1:{port_of(topology.mlflow)}/api/2.0/mlflow/experiments/get?experiment_id=0",
        headers={"Host": host},
        auth=("admin", SECRETS["MLFLOW_ADMIN_PASSWORD"]),
        timeout=30,
    )
    assert answer.status_code == status


def test_the_service_votes_as_the_registered_bundle_does(topology: Topology) -> None:
    ready = httpx2.get(f"{topology.url}/readyz", timeout=30).json()
    assert ready.items() >= {"ready": True, "alias": champion(), "loaded": champion()}.items()
    answer = httpx2.post(f"{topology.url}/v1/rois", content=encoded(noise(0)), timeout=30)
    (row,) = answer.json()["rois"]
    registered = tiny_bundle(topology.workspace, seed=topology.versions.index(champion()))
    (expected,) = RoiScorer.on(load_bundle(registered), choose_device("auto")).votes(noise(0)[None])
    assert (row["label"], row["votes"]) == (expected.label, list(expected.votes))
    assert row["patch_scores"] == pytest.approx(list(expected.patch_scores), abs=1e-3)


@pytest.mark.parametrize(("name", "listening"), [("mlflow", "5000"), ("serve", "8000")])
def test_health_checks_pass_on_a_server_that_answers_and_fail_on_one_that_does_not(
    topology: Topology, name: str, listening: str
) -> None:
    words = health_command(read_dockerfile(FOLDER / f"{name}.Dockerfile"))
    server = {"mlflow": topology.mlflow, "serve": topology.voting[0]}[name]
    for port, passes in ((port_of(server), True), (str(free_port()), False)):
        asked = [word.replace(f":{listening}/", f":{port}/") for word in words]
        assert asked != words
        done = subprocess.run([sys.executable, *asked[1:]], capture_output=True, check=False, timeout=30)
        assert (done.returncode == 0) is passes


def test_a_service_without_a_champion_ends_with_the_reason_and_exit_code_2(topology: Topology, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace(MODEL, "never-registered"))
    command = replaced(start_command(read_dockerfile(FOLDER / "serve.Dockerfile")), {"8000": str(free_port())})
    environment = variables("serve", services()["voting"], {"MLFLOW_TRACKING_URI": topology.registry_url})
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert "never-registered: no version has the alias champion" in done.stderr


def test_moves_under_load_cost_no_answer_and_are_soon_followed(topology: Topology) -> None:
    chance, path, lags = random.Random(SEED), [champion()], []
    with Load(f"{topology.url}/v1/rois").running() as load:
        load.wait_for(20)
        for _ in range(MOVES):
            if len(path) > 1 and chance.random() < 0.4:
                words = ["rollback", "--reason", "tests"]
                path.pop()
            else:
                path.append(chance.choice([one for one in topology.versions if one != path[-1]]))
                words = promotion(path[-1])
            code, said = ended(mammo(topology.workspace, *words))
            moved = monotonic()
            assert (code, champion()) == (0, path[-1]), said
            load.wait_for(40, path[-1])
            old = [one.started for one in load.since(moved) if one.version != path[-1]]
            lags.append(round(max(old, default=moved) - moved, 2))
    print(f"{len(load.answers)} answers, {len(load.failed)} failed; old version last asked after, s: {lags}")  # noqa: T201
    assert load.failed == []
    assert max(lags) <= FOLLOWED_S


def test_kills_at_any_moment_lose_no_version_no_alias_and_no_line_of_the_history(topology: Topology) -> None:
    chance = random.Random(SEED)
    servers: dict[str, Callable[[], Any]] = {"mlflow": lambda: topology.mlflow}
    servers |= {
        "service": lambda: chance.choice(topology.voting),
        "postgresql": lambda: topology.database.program,
    }
    victims = [name for _ in range(-(-KILLS // 4)) for name in chance.sample([*servers, "promoter"], 4)]
    with Load(f"{topology.url}/v1/rois", n_clients=2).running() as load:
        for victim in victims[:KILLS]:
            old = champion()
            new = chance.choice([one for one in topology.versions if one != old])
            versions, history = kept()
            promoter = mammo(topology.workspace, *promotion(new))
            with suppress(subprocess.TimeoutExpired):
                promoter.wait(timeout=chance.uniform(0, 8))
            if victim == "promoter":
                promoter.kill()
            else:
                program = servers[victim]()
                program.kill()
                program.start()
            code, said = ended(promoter)
            assert champion() in (old, new), victim
            if code != 0:  # the same command mends what is left
                code, said = ended(mammo(topology.workspace, *promotion(new)))
            assert (code, champion()) == (0, new), said
            versions_now, history_now = kept()
            assert versions_now == versions, victim
            assert history_now.items() >= history.items(), victim
        code, said = ended(mammo(topology.workspace, "history", "--verify"))
        assert code == 0, said
        load.wait_for(20, new)
    assert load.failed == []


@pytest.mark.parametrize(("path", "mib", "status"), [("/v1/rois", 2, 413), ("/v1/films", 21, 413)])
def test_a_body_that_is_too_large_is_refused_by_nginx_in_the_words_of_the_api(
    edge: str, path: str, mib: int, status: int
) -> None:
    answer = httpx2.post(f"{edge}{path}", content=b"0" * (mib * 2**20))
    assert (answer.status_code, "must be at most" in answer.json()["error"]) == (status, True)


def test_a_client_with_many_half_sent_bodies_is_told_to_wait_others_are_not_and_the_bodies_are_cut_off(
    edge: str,
) -> None:
    at = ("127.0.0.1", int(edge.rpartition(":")[2]))
    with ExitStack() as stack:
        greedy, modest = (
            stack.enter_context(httpx2.Client(headers={"X-Client": address})) for address in ("192.0.2.1", "192.0.2.2")
        )
        begun = monotonic()
        halves = [stack.enter_context(create_connection(at, 15)) for _ in range(80)]
        for half in halves:
            half.sendall(
                b"POST /v1/rois HTTP/1.1\r\nHost: localhost\r\nX-Client: 192.0.2.1\r\nContent-Length: 1000\r\n\r\nP"
            )
        wait_until(lambda: greedy.get(edge).status_code == 429, 8, lambda: "64 connections are counted")
        refused = greedy.get(edge)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "64 at a time" in refused.json()["error"]
        passed_on = modest.get(edge)
        assert (passed_on.status_code, passed_on.headers["retry-after"]) == (503, "2")
        assert "none does" in passed_on.json()["error"]
        for half in halves:  # nginx closes without an answer, or with 408; the last 16 it refuses at once
            assert half.recv(12) in (b"", b"HTTP/1.1 408", b"HTTP/1.1 429")
        assert monotonic() - begun < 15


@pytest.mark.parametrize("password", ["", "wrong"])
def test_without_the_right_password_a_command_says_so_in_a_line_that_names_the_variables(
    topology: Topology, password: str
) -> None:
    with logged_in(topology.registry_url, password):
        code, said = ended(mammo(topology.workspace, "runs"))
    assert (code, said.count("\n")) == (2, 1), said
    assert "401" in said
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said


def test_mlflow_s_role_is_no_superuser_and_nobody_comes_in_without_a_password(topology: Topology) -> None:
    secret = SECRETS["MLFLOW_DATABASE_PASSWORD"]
    rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    checksums = "SHOW data_checksums"
    asked = ["--dbname", "mlflow", "--tuples-only", "--no-align", "--command"]
    assert topology.database.ask("mlflow", secret, *asked, rights).strip() == "f"
    assert topology.database.ask("mlflow", secret, *asked, checksums).strip() == "on"
    methods = "SELECT DISTINCT auth_method FROM pg_hba_file_rules"
    superuser = ("postgres", SECRETS["POSTGRES_PASSWORD"], "--dbname", "postgres", *asked[2:])
    assert topology.database.ask(*superuser, methods).split() == ["scram-sha-256"]
    for user, password, database in (("mlflow", "wrong", "mlflow"), ("mlflow", secret, "postgres")):
        with pytest.raises(subprocess.CalledProcessError):
            topology.database.ask(user, password, "--dbname", database, "--command", "SELECT 1")


def test_nginx_logs_a_line_of_json_for_each_answer_without_the_picture(topology: Topology) -> None:
    httpx2.get(f"{topology.url}/v1/example?secret=1")
    lines = [json.loads(line) for line in topology.nginx.log.splitlines() if line.startswith("{")]
    assert {"client", "request", "status", "seconds", "upstream"} <= lines[-1].keys()
    assert lines[-1]["request"] == "GET /v1/example"
