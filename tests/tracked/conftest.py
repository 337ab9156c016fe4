"""A small workspace that went through training, evaluation and registration, made once."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mammo.core.config import Config
from mammo.core.files import Workspace, write_json, write_table
from mammo.core.records import ROI_SCHEMA, SPLIT_SCHEMA, conform
from mammo.data.patches import drawn_patches, grid_patches
from mammo.data.rois import Rois, write_rois
from mammo.data.splits import read_parts
from mammo.report.results import write_results
from mammo.systems.assess import assess
from mammo.track.record import fill_store, train_recorded
from mammo.track.registry import chosen
from tests.settings import params

SETTINGS = {
    "systems": ["compact-baseline", "compact-model1"],
    "ingest": {"source": "phantom"},
    "split": {"protocol": "grouped_cv"},
    "patches": {"size_px": 48, "stride_px": 36, "tumor_draws": 4, "normal_draws": 4},
    "model": {"head_units": 8, "compact_channels": [4, 4, 8, 8, 8]},
    "train": {"epochs": 2, "patches_per_epoch": 32, "device": "cpu", "precision": "float32"},
    "evaluate": {"n_bootstrap": 200},
}


def disc_rois(n: int, seed: int = 0) -> Rois:
    """Noise pictures; every second one holds a bright disc and is a Tumor."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:120, :120]
    disc = (rows - 60) ** 2 + (columns - 60) ** 2 < 25**2
    labels = np.arange(n) % 2
    noise = rng.normal(100, 20, size=(n, 120, 120))
    images = np.clip(noise + 60 * disc * labels[:, None, None], 0, 255).astype(np.uint8)
    table = pd.DataFrame(
        {
            "roi_id": [f"disc-{i:03d}" for i in range(n)],
            "source": "phantom",
            "film_id": [f"mdb{i + 1:03d}" for i in range(n)],
            "patient_id": [f"p{i:03d}" for i in range(n)],
            "label": labels,
            "abnormality": np.where(labels == 1, "CIRC", "NORM"),
            "severity": [("B" if label else None) for label in labels],
            "tissue": "G",
            "x_px": 60,
            "y_px": 60,
            "radius_px": [(25 if label else None) for label in labels],
            "published_split": None,
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "synthetic": True,
        }
    )
    return Rois(conform(table, ROI_SCHEMA, "discs"), images)


def prepare_workspace(root: Path) -> tuple[Workspace, Config]:
    """A workspace whose stages up to `patches` have run."""
    values = params(**SETTINGS)
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    space, config = Workspace(root), Config.parse(values)
    rois = disc_rois(32)
    write_rois(rois, space.rois)
    parts = ["train"] * 16 + ["val"] * 8 + ["test"] * 8
    split = pd.DataFrame(
        {**rois.table[["roi_id", "patient_id"]], "group_id": rois.table["patient_id"], "split": parts}
    )
    write_table(space.split, conform(split, SPLIT_SCHEMA, "split"))
    whole = read_parts(space)
    for name in ("train", "val"):
        write_table(space.patches(name), drawn_patches(whole.part(name).table, config.patches))
    write_table(space.patches("test"), grid_patches(whole.part("test").table, config.patches))
    return space, config


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def use_store(space: Workspace, template: Path) -> None:
    """Give a workspace an empty store."""
    space.mlruns.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, space.mlruns / "mlflow.db")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> tuple[Workspace, Config]:
    """A workspace that went through all stages; tests that change its store must copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")  # these fits take a second
        space, config = prepare_workspace(tmp_path_factory.mktemp("finished") / "space")
        use_store(space, store_template)
        for system in config.systems:
            train_recorded(space, config, system)
        write_results(space, assess(space, config))
        write_json(space.reports / "champion.json", chosen(space, config))
        fill_store(space, config)
    return space, config


@pytest.fixture
def prepared(tmp_path: Path, store_template: Path) -> tuple[Workspace, Config]:
    """A workspace of its own whose stages up to `patches` have run, with an empty store."""
    space, config = prepare_workspace(tmp_path / "space")
    use_store(space, store_template)
    return space, config


@pytest.fixture
def files_only(
    tmp_path: Path, finished: tuple[Workspace, Config], store_template: Path
) -> tuple[Workspace, Config]:
    """What a fresh clone has after `dvc pull`: all files, and a store that knows nothing of them."""
    space, config = finished
    shutil.copytree(space.root, tmp_path / "clone", ignore=shutil.ignore_patterns("mlruns", "*.run.json"))
    clone = Workspace(tmp_path / "clone")
    use_store(clone, store_template)
    return clone, config
