"""The commands of `docker/` at work, without containers: the very words of the files, with other ports and paths."""

import io
import json
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import psycopg
import pytest
from PIL import Image

from mammo.core.files import Workspace
from mammo.models.bundle import load_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from mammo.track.registry import register
from mammo.track.store import comparison_rows, open_run
from tests.docker.dockerfiles import FOLDER, ROOT, SECRETS, health_command, read_dockerfile, start_command
from tests.docker.processes import free_port, running
from tests.docker.topology import (
    compose_postgresql,
    logged_in,
    mlflow_server,
    replaced,
    services,
    tiny_bundle,
    variables,
    voting_service,
)

pytestmark = pytest.mark.slow

ROI: Final = np.random.default_rng(0).integers(0, 256, size=(120, 120), dtype=np.uint8)


@dataclass(frozen=True)
class Server:
    """An MLflow server, what it writes to, and a run that went through it."""

    url: str
    database: str
    artifacts: Path
    workspace: Workspace
    run_id: str


def health_check(name: str, listening: str, port: str) -> int:
    """Exit code of an image's health check, asked about another port."""
    words = health_command(read_dockerfile(FOLDER / f"{name}.Dockerfile"))
    command = [word.replace(f":{listening}/", f":{port}/") for word in words]
    assert command != words
    command[0] = sys.executable
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Compose's `postgres` and `mlflow`, with one run logged through them."""
    folder = tmp_path_factory.mktemp("mlflow")
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(ROOT / "params.yaml", workspace.params)
    with compose_postgresql() as database:
        program, url = mlflow_server(folder, database.port)
        with running(program), logged_in(url):
            params, tags = {"train.seed": 0}, {"mammo.system": "compact-model1"}
            data = [("phantom-train", pd.DataFrame({"label": [0, 1]}), "0" * 32, "training")]
            bundle = tiny_bundle(workspace)
            with open_run(workspace, "deployment", "compact-model1", params, tags, data) as run:
                run.log_metrics({"val_loss": 0.25}, step=0)
                run.log_file(bundle / "model.json", "bundle")
            yield Server(
                url=url,
                database=f"host=127.0.0.1 port={database.port} user=mlflow dbname=mlflow",
                artifacts=folder / "artifacts",
                workspace=workspace,
                run_id=run.run_id,
            )


@pytest.fixture(scope="module")
def voting_url(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[str]:
    """Compose's `voting`, with a champion that lies in the MLflow server and nowhere else."""
    version = register(
        server.workspace, "mammo-roi", server.run_id, server.workspace.bundle("compact-model1")
    )
    assert version.aliases == ("champion",)
    program, url = voting_service(tmp_path_factory.mktemp("voting"), server.url)
    with running(program):
        yield url


def asked(server: Server, query: str) -> list[tuple[Any, ...]]:
    """What PostgreSQL itself says of the run."""
    with psycopg.connect(server.database, password=SECRETS["MLFLOW_DATABASE_PASSWORD"]) as connection:
        return connection.execute(query, {"run": server.run_id}).fetchall()


def test_a_run_goes_through_the_server_into_postgresql_and_the_artifact_volume(server: Server) -> None:
    run = "SELECT name, status FROM runs WHERE run_uuid = %(run)s"
    loss = "SELECT value FROM metrics WHERE run_uuid = %(run)s AND key = 'val_loss'"
    assert asked(server, run) == [("compact-model1", "FINISHED")]
    assert asked(server, loss) == [(0.25,)]
    assert asked(server, "SELECT name FROM datasets") == [("phantom-train",)]
    stored = list(server.artifacts.glob(f"*/{server.run_id}/artifacts/bundle/model.json"))
    logged = server.workspace.bundle("compact-model1") / "model.json"
    assert [path.read_bytes() for path in stored] == [logged.read_bytes()]
    assert not server.workspace.mlruns.exists()


def test_an_unfinished_run_goes_on_through_the_server_and_is_compared_there(server: Server) -> None:
    with open_run(server.workspace, "deployment", "compact-model1", {}, {}, unfinished=server.run_id) as run:
        run.log_metrics({"train_loss": 0.5}, step=1)
    loss = "SELECT value, step FROM metrics WHERE run_uuid = %(run)s AND key = 'train_loss'"
    assert asked(server, loss) == [(0.5, 1)]
    (row,) = comparison_rows(server.workspace)
    assert (row["experiment"], row["run_id"]) == ("deployment", server.run_id)
    assert row["metrics"]["val_loss"] == 0.25


@pytest.mark.parametrize(("host", "status"), [("mlflow:5000", 200), ("elsewhere.example", 403)])
def test_the_server_answers_to_its_own_names_only(server: Server, host: str, status: int) -> None:
    login = b64encode(f"admin:{SECRETS['MLFLOW_ADMIN_PASSWORD']}".encode()).decode()
    request = Request(
        f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0",
        headers={"Host": host, "Authorization": f"Basic {login}"},
    )
    try:
        with urlopen(request, timeout=10) as answer:
            got = answer.status
    except HTTPError as error:
        got = error.code
        error.close()
    assert got == status


def test_the_service_votes_as_the_registered_bundle_does(voting_url: str, server: Server) -> None:
    with urlopen(f"{voting_url}/readyz", timeout=10) as answer:
        assert json.load(answer).items() >= {"ready": True, "alias": "1", "loaded": "1"}.items()
    buffer = io.BytesIO()
    Image.fromarray(ROI).save(buffer, format="PNG")
    with urlopen(Request(f"{voting_url}/v1/rois", data=buffer.getvalue()), timeout=30) as answer:
        (row,) = json.load(answer)["rois"]
    scorer = RoiScorer.on(load_bundle(server.workspace.bundle("compact-model1")), choose_device("auto"))
    expected = scorer.votes(ROI[None])[0]
    assert (row["label"], row["votes"]) == (expected.label, list(expected.votes))
    assert row["patch_scores"] == pytest.approx(list(expected.patch_scores), abs=1e-3)


def test_health_checks_pass_on_a_server_that_answers_and_fail_on_one_that_does_not(
    server: Server, voting_url: str
) -> None:
    for name, port, url in (("mlflow", "5000", server.url), ("serve", "8000", voting_url)):
        assert health_check(name, port, url.rpartition(":")[2]) == 0
        assert health_check(name, port, str(free_port())) != 0


def test_a_service_without_a_champion_ends_with_the_reason_and_exit_code_2(
    server: Server, tmp_path: Path
) -> None:
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        params.replace("model_name: mammo-roi", "model_name: never-registered")
    )
    command = replaced(
        start_command(read_dockerfile(FOLDER / "serve.Dockerfile")), {"8000": str(free_port())}
    )
    environment = variables("serve", services()["voting"], {"MLFLOW_TRACKING_URI": server.url})
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 2
    assert "never-registered: no version has the alias champion" in ended.stderr
