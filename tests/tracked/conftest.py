"""A small workspace that went through training, evaluation and registration, made once."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mammo import cli
from mammo.core.choice import chosen
from mammo.core.config import Config
from mammo.core.files import Workspace, write_json, write_table
from mammo.core.records import ROI_SCHEMA, conform
from mammo.data.patches import drawn_patches, grid_patches
from mammo.data.rois import Rois, read_rois
from mammo.data.splits import read_parts
from mammo.report.evaluation_files import write_results
from mammo.serve.app import create_app
from mammo.serve.service import Service
from mammo.systems.assess import assess
from mammo.track.record import fill_store, train_recorded
from tests.disc_rois import disc_rois, workspace_of
from tests.docker.processes import Program, answers, free_port, running
from tests.settings import TINY_MODEL, params
from tests.tracked.asking import Pixels

Store = Callable[[Workspace], None]
Called = tuple[int, str, str]
Mammo = Callable[..., Called]
SETTINGS = {
    "systems": ["compact-baseline", "compact-model1"],
    "ingest": {"source": "phantom"},
    "split": {"protocol": "grouped_cv"},
    "patches": {"size_px": 48, "stride_px": 36, "tumor_draws": 4, "normal_draws": 4},
    "model": TINY_MODEL,
    "train": {"epochs": 2, "patches_per_epoch": 32, "device": "cpu", "precision": "float32"},
    "evaluate": {"n_bootstrap": 200},
}


def known_discs() -> Rois:
    """Noise pictures; every second one holds a bright disc and is a Tumor. All is known of them."""
    discs, order = disc_rois(16, 16), np.arange(32).reshape(2, 16).T.ravel()
    table = discs.table.iloc[order].assign(
        roi_id=[f"disc-{i:03d}" for i in range(32)],
        source="phantom",
        film_id=[f"mdb{i + 1:03d}" for i in range(32)],
        patient_id=[f"p{i:03d}" for i in range(32)],
        abnormality=["NORM", "CIRC"] * 16,
        severity=np.array([None, "B"] * 16),
        tissue="G",
        x_px=60,
        y_px=60,
        radius_px=np.array([None, 28] * 16),
    )
    return Rois(conform(table, ROI_SCHEMA, "discs"), discs.images[order])


def prepare_workspace(root: Path) -> tuple[Workspace, Config]:
    """A workspace whose stages up to `patches` have run."""
    rois, parts = known_discs(), ["train"] * 16 + ["val"] * 8 + ["test"] * 8
    space, config = workspace_of(root, params(**SETTINGS), rois, list(rois.table["patient_id"]), parts)
    whole = read_parts(space)
    for name in ("train", "val"):
        write_table(space.patches(name), drawn_patches(whole.part(name).table, config.patches))
    write_table(space.patches("test"), grid_patches(whole.part("test").table, config.patches))
    return space, config


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, store_of: Store) -> tuple[Workspace, Config]:
    """A workspace that went through all stages; tests that change its store must copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")  # these fits take a second
        space, config = prepare_workspace(tmp_path_factory.mktemp("finished") / "space")
        store_of(space)
        for system in config.systems:
            train_recorded(space, config, system)
        write_results(space, assess(space, config))
        write_json(space.reports / "champion.json", chosen(space, config))
        fill_store(space, config)
    return space, config


@pytest.fixture(scope="session")
def space(finished: tuple[Workspace, Config]) -> Workspace:
    return finished[0]


@pytest.fixture(scope="session")
def config(finished: tuple[Workspace, Config]) -> Config:
    """Settings of `space`."""
    return finished[1]


@pytest.fixture(scope="module")
def service(space: Workspace) -> Service:
    return Service(space)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    """A client of the service on the finished workspace, with all its processes."""
    with TestClient(create_app(service, ["testserver", "voting.example", "*.b.example", "[::1]"])) as client:
        yield client


@pytest.fixture(scope="module")
def images(space: Workspace) -> Pixels:
    return read_rois(space.rois).images


@pytest.fixture
def prepared(tmp_path: Path, store_of: Store) -> tuple[Workspace, Config]:
    """A workspace of its own whose stages up to `patches` have run, with an empty store."""
    space, config = prepare_workspace(tmp_path / "space")
    store_of(space)
    return space, config


@pytest.fixture
def files_only(tmp_path: Path, finished: tuple[Workspace, Config], store_of: Store) -> tuple[Workspace, Config]:
    """What a fresh clone has after `dvc pull`: all files, and a store that knows nothing of them."""
    space, config = finished
    shutil.copytree(
        space.root, tmp_path / "clone", ignore=shutil.ignore_patterns("mlruns", "*.run.json", "predictions")
    )
    clone = Workspace(tmp_path / "clone")
    store_of(clone)
    return clone, config


@pytest.fixture
def mammo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mammo:
    """Call the console script in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str, columns: int = 200) -> Called:
        monkeypatch.setattr(sys, "argv", ["mammo", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return call


@pytest.fixture
def picture(space: Workspace, tmp_path: Path) -> Path:
    """A ROI as a file."""
    path = tmp_path / "roi of the set.png"
    Image.fromarray(read_rois(space.rois).images[0]).save(path)
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store_of: Callable[[Workspace], None]) -> Iterator[str]:
    """Address of MLflow's own server with an empty store."""
    space, port = Workspace(tmp_path_factory.mktemp("server")), free_port()
    store_of(space)
    store = ["--backend-store-uri", f"sqlite:///{space.mlruns / 'mlflow.db'}"]
    files = ["--artifacts-destination", str(space.root / "artifacts")]
    command = ["mlflow", "server", "--port", str(port), "--workers", "1", *store, *files]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    url = f"http://127.0.0.1:{port}"
    healthy = partial(answers, f"{url}/health")
    with running(Program("mlflow", command, os.environ | variables, space.root, healthy)):
        yield url
