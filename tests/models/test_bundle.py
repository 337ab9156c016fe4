"""A bundle comes back with the same scores, or is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mammo.core.config import ModelConfig, VoteConfig
from mammo.core.errors import DataError, WeightsError
from mammo.core.files import sha256_of
from mammo.data.rois import Rois
from mammo.evaluation.calibration import Calibrator
from mammo.evaluation.conformal import Conformal
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle, load_bundle, save_bundle
from mammo.systems.score import RoiScorer

SYSTEMS = ("compact-baseline", "compact-model1", "compact-model2")


def new_bundle(system: str = "compact-model2") -> Bundle:
    config = ModelConfig(
        compact_channels=[4, 4, 8, 8, 8], head_units=8, head_dropout=0.5, preprocessing="fixed_scale"
    )
    classifier = build_classifier(system, config, seed=0)
    classifier(torch.rand(8, 1, 40, 40) * 255)  # moves BatchNorm's statistics away from a new network's
    return Bundle(
        classifier.eval(),
        size_px=40,
        stride_px=20,
        vote=VoteConfig(rule="mean_score", tie="normal", share_threshold=0.4),
        calibrator=Calibrator(slope=0.1 + 0.2, intercept=-1 / 3),
        conformal=Conformal(0.1, 0.7, 2 / 3, class_conditional=True, n_calibration=65),
        results={"val_loss": 0.1 + 0.2, "epoch": 3},
        provenance={"commit": "abc", "data": {"data/rois": "md5"}, "source": None},
        synthetic=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(new_bundle(), tmp_path / "bundle")
    return tmp_path / "bundle"


def edit_description(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_bundle_comes_back_with_identical_scores(tmp_path: Path, disc_set: Rois, system: str) -> None:
    bundle = new_bundle(system)
    cpu = torch.device("cpu")
    before = RoiScorer.on(bundle, cpu, "float32").patch_scores(disc_set.images[8:12])
    save_bundle(bundle, tmp_path / "bundle")

    loaded = load_bundle(tmp_path / "bundle")

    assert np.array_equal(RoiScorer.on(loaded, cpu, "float32").patch_scores(disc_set.images[8:12]), before)
    assert loaded.system == system


def test_everything_that_decisions_rest_on_comes_back(folder: Path) -> None:
    bundle, loaded = new_bundle(), load_bundle(folder)

    assert loaded.classifier.architecture == bundle.classifier.architecture
    assert (loaded.size_px, loaded.stride_px, loaded.synthetic) == (40, 20, True)
    assert loaded.vote == bundle.vote
    assert loaded.calibrator == bundle.calibrator
    assert loaded.conformal == bundle.conformal
    assert loaded.results == bundle.results
    assert loaded.provenance == bundle.provenance
    assert not loaded.classifier.training


def test_patches_are_scored_at_the_precision_that_threshold_and_calibrator_were_fitted_at(
    tmp_path: Path,
) -> None:
    save_bundle(replace(new_bundle(), precision="bfloat16"), tmp_path)
    loaded = load_bundle(tmp_path)
    assert RoiScorer.on(loaded, torch.device("cpu")).precision == "bfloat16"
    assert RoiScorer.on(loaded, torch.device("cpu"), "float32").precision == "float32"
    edit_description(tmp_path, precision="float8")
    with pytest.raises(DataError, match="does not describe a bundle"):
        load_bundle(tmp_path)


def test_a_bundle_is_two_files_without_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors").keys() == new_bundle().classifier.state_dict().keys()


def test_the_description_names_the_hash_of_the_weights(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())

    assert description["weights_sha256"] == sha256_of(folder / "model.safetensors")


def test_tampered_weights_are_refused(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)

    with pytest.raises(WeightsError, match=r"must be the file that model\.json describes .*dvc checkout"):
        load_bundle(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(WeightsError, match="must be the file that"):
        load_bundle(folder)


def test_weights_that_do_not_fit_the_architecture_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"head.1.weight": torch.ones(3, 3)}, path)
    edit_description(folder, weights_sha256=sha256_of(path))

    with pytest.raises(WeightsError, match=r"(?s)do not fit model\.json .*head\.1\.weight.*train again"):
        load_bundle(folder)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"weights")
    edit_description(folder, weights_sha256=sha256_of(path))

    with pytest.raises(WeightsError, match=r"do not fit model\.json"):
        load_bundle(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.json: does not exist; run `dvc repro`"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"size_px": 200},
        {"stride_px": "20"},
        {"vote": {"rule": "loudest"}},
        {"calibrator": {"slope": 1.0}},
        {"conformal": {"alpha": 0.1}},
        {"architecture": {"system": "compact-model2"}},
        {"architecture": None},
    ],
)
def test_a_description_with_impossible_values_is_refused(folder: Path, change: dict[str, Any]) -> None:
    edit_description(folder, **change)

    with pytest.raises(DataError, match=r"(?s)model\.json: does not describe a bundle .*dvc checkout"):
        load_bundle(folder)


def test_the_description_holds_plain_numbers_that_decide(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())

    assert description["vote"]["share_threshold"] == 0.4
    assert description["calibrator"] == {"slope": 0.1 + 0.2, "intercept": -1 / 3}
    assert description["conformal"]["limit_tumor"] == 2 / 3


def test_a_bundle_of_an_older_format_is_refused_with_what_to_do(folder: Path) -> None:
    path = folder / "model.json"
    old = {"bundle_format", "calibrator", "conformal"}
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in old}))

    with pytest.raises(DataError, match=r"must be a bundle of format 2, got 1: .*dvc repro.*mammo promote"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "key", ["architecture", "size_px", "vote", "calibrator", "conformal", "weights_sha256", "synthetic"]
)
def test_a_description_that_lacks_a_key_is_refused(folder: Path, key: str) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))

    with pytest.raises(DataError, match=rf"model\.json: does not describe a bundle .*{key}.*dvc checkout"):
        load_bundle(folder)
