"""A bundle comes back with the same scores, or is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mammo.core.config import VoteConfig
from mammo.core.errors import DataError, WeightsError
from mammo.core.files import sha256_of
from mammo.core.systems import FUSIONS
from mammo.data.rois import Rois
from mammo.evaluation.calibration import Calibrator
from mammo.evaluation.conformal import Conformal
from mammo.evaluation.domain import ANY_DOMAIN
from mammo.evaluation.intervals import wilson
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle, load_bundle, save_bundle
from mammo.systems.score import RoiScorer
from tests.settings import section, tiny_model
from tests.tiny_fits import CPU


def new_bundle(system: str = "compact-model2") -> Bundle:
    config = tiny_model(head_dropout=0.5, preprocessing="fixed_scale")
    classifier = build_classifier(system, config, seed=0)
    classifier(torch.rand(8, 1, 40, 40) * 255)  # moves BatchNorm's statistics away from a new network's
    return Bundle(
        classifier.eval(),
        size_px=40,
        stride_px=20,
        vote=section(VoteConfig, rule="mean_score", tie="normal", share_threshold=0.4),
        calibrator=Calibrator(slope=0.1 + 0.2, intercept=-1 / 3),
        conformal=Conformal(0.1, 0.7, 2 / 3, class_conditional=True, n_calibration=65),
        domain=replace(ANY_DOMAIN, limit=0.1 + 0.2, n_fitted=197, false_alarms=wilson(1, 65, 0.95)),
        results={"val_loss": 0.1 + 0.2, "epoch": 3},
        provenance={"commit": "abc", "data": {"data/rois": "md5"}, "source": None},
        synthetic=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(new_bundle(), tmp_path / "bundle")
    return tmp_path / "bundle"


def described(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return values


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_bundle_comes_back_with_identical_scores(tmp_path: Path, disc_set: Rois, fusion: str) -> None:
    bundle = new_bundle(f"compact-{fusion}")
    before = RoiScorer.on(bundle, CPU, "float32").patch_scores(disc_set.images[8:12])
    save_bundle(replace(bundle, precision="bfloat16"), tmp_path)
    loaded = load_bundle(tmp_path)
    assert np.array_equal(RoiScorer.on(loaded, CPU, "float32").patch_scores(disc_set.images[8:12]), before)
    assert loaded.system == f"compact-{fusion}"
    # Threshold and calibrator were fitted at the bundle's precision.
    assert RoiScorer.on(loaded, CPU).precision == "bfloat16"


def test_everything_that_decisions_rest_on_comes_back_in_plain_numbers_without_pickle(folder: Path) -> None:
    bundle, loaded, description = new_bundle(), load_bundle(folder), described(folder)
    assert loaded.network.architecture == bundle.network.architecture
    assert replace(loaded, network=bundle.network) == bundle
    assert not loaded.network.training
    assert description["vote"]["share_threshold"] == 0.4
    assert description["calibrator"] == {"slope": 0.1 + 0.2, "intercept": -1 / 3}
    assert description["conformal"]["limit_tumor"] == 2 / 3
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors").keys() == bundle.network.state_dict().keys()


def test_other_weights_than_the_described_ones_are_refused(folder: Path) -> None:
    for spoil in (Path.touch, lambda path: path.write_bytes(b"other weights")):
        (folder / "model.safetensors").unlink()
        spoil(folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"must be the file that model\.json describes .*dvc checkout"):
            load_bundle(folder)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: save_file(load_file(path) | {"head.1.weight": torch.ones(3, 3)}, path), r"head\.1\.w"),
        (lambda path: path.write_bytes(b"weights"), ""),
    ],
)
def test_weights_that_do_not_fit_the_architecture_are_refused(
    folder: Path, spoil: Callable[[Path], object], why: str
) -> None:
    path = folder / "model.safetensors"
    spoil(path)
    values = described(folder) | {"weights_sha256": sha256_of(path)}
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=rf"(?s)do not fit model\.json .*{why}.*train again"):
        load_bundle(folder)


ABSENT = object()
IMPOSSIBLE = r"(?s)model\.json: does not describe a bundle .*dvc checkout"
NEEDED = [
    "architecture",
    "size_px",
    "vote",
    "calibrator",
    "conformal",
    "domain",
    "weights_sha256",
    "synthetic",
]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"size_px": 200}, IMPOSSIBLE),
        ({"stride_px": "20"}, IMPOSSIBLE),
        ({"vote": {"rule": "loudest"}}, IMPOSSIBLE),
        ({"calibrator": {"slope": 1.0}}, IMPOSSIBLE),
        ({"conformal": {"alpha": 0.1}}, IMPOSSIBLE),
        ({"domain": {"limit": 3.0}}, IMPOSSIBLE),
        ({"architecture": {"system": "compact-model2"}}, IMPOSSIBLE),
        ({"architecture": None}, IMPOSSIBLE),
        ({"precision": "float8"}, IMPOSSIBLE),
        *(({key: ABSENT}, rf"(?s)does not describe a bundle .*{key}.*dvc checkout") for key in NEEDED),
        ({"bundle_format": ABSENT}, r"a bundle of format 4, got 1: .*dvc repro.*mammo promote"),
    ],
)
def test_a_description_that_lacks_a_key_or_has_an_impossible_value_is_refused(
    folder: Path, change: dict[str, Any], rule: str
) -> None:
    values = {name: value for name, value in (described(folder) | change).items() if value is not ABSENT}
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=rule):
        load_bundle(folder)
    with pytest.raises(DataError, match=r"model\.json: does not exist; run `dvc repro`"):
        load_bundle(folder / "empty")
