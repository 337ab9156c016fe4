"""A system from ROIs to a bundle and to scored ROIs, and what its fit depends on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from mammo.core.config import Config
from mammo.core.provenance import syntax_of
from mammo.data.rois import Rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.domain import fit_domain
from mammo.evaluation.stacking import fit_stack
from mammo.evaluation.voting import with_validation_threshold
from mammo.models.bundle import load_bundle, save_bundle
from mammo.systems import devices
from mammo.systems.assess import predictions
from mammo.systems.decide import TrainedSystem, decide_on_validation, score_part, validation_results
from mammo.systems.score import RoiScorer
from mammo.systems.train import FIT_CODE, computed_with, run_fingerprint
from tests.tiny_fits import CPU, tiny_config, train_tiny

PatchSets = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def trained(parts: dict[str, Rois], patch_sets: PatchSets) -> TrainedSystem:
    return train_tiny(parts, patch_sets)


def test_training_gives_a_bundle_with_the_settings_that_its_decisions_rest_on(trained: TrainedSystem) -> None:
    bundle = trained.bundle
    assert bundle.system == "compact-model2"
    assert (bundle.size_px, bundle.stride_px) == (40, 40)
    assert bundle.vote == tiny_config().vote
    assert bundle.synthetic  # as the ROIs are
    assert not bundle.network.training
    assert bundle.conformal.n_calibration == 6


def test_the_results_are_those_of_the_epoch_with_the_lowest_validation_loss(trained: TrainedSystem) -> None:
    history, results = trained.history, validation_results(trained.bundle)
    best = min(history.to_dict("records"), key=lambda row: float(row["val_loss"]))
    assert len(history) == results["n_epochs"] == 2
    assert results["epoch"] == best["epoch"]
    assert (results["val_loss"], results["val_auc"]) == (best["val_loss"], best["val_auc"])
    assert (results["n_rois_train"], results["n_rois_val"]) == (6, 6)
    assert results["calibrator_slope"] == trained.bundle.calibrator.slope


def test_threshold_calibrator_and_limits_are_fitted_to_the_served_scores_of_the_validation_part(
    trained: TrainedSystem, parts: dict[str, Rois]
) -> None:
    config = tiny_config(vote__threshold="validation", referral__coverage=0.6)
    seen = score_part(trained.bundle, parts["val"], config)
    bundle = decide_on_validation(trained.bundle, parts["train"], parts["val"], config)
    assert bundle.vote == with_validation_threshold(seen.labels, seen.patch_scores[0], config.vote)
    assert bundle.calibrator == fit_platt(seen.labels, seen.scores[0])
    assert bundle.conformal == fit_conformal(seen.labels, seen.scores[0], coverage=0.6)
    assert bundle.conformal.coverage == 0.6
    assert (bundle.results, bundle.network) == (trained.bundle.results, trained.bundle.network)
    fixed = tiny_config(vote__share_threshold=0.123)
    assert decide_on_validation(trained.bundle, parts["train"], parts["val"], fixed).vote.share_threshold == 0.123


def test_the_domain_is_that_of_the_training_part_and_judged_on_validation(
    trained: TrainedSystem, parts: dict[str, Rois]
) -> None:
    alike = fit_domain(parts["train"].images).with_false_alarms(parts["val"].images)
    assert trained.bundle.domain == alike
    assert validation_results(trained.bundle)["domain_false_alarms"] == 0


@pytest.mark.parametrize(
    ("system", "hardware", "expected"),
    [("compact-baseline", True, "bfloat16"), ("compact-model1", False, "float32")],
)
def test_a_bundle_of_every_fusion_keeps_what_auto_meant_where_it_was_fitted(
    parts: dict[str, Rois],
    patch_sets: PatchSets,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    hardware: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: hardware)
    trained = train_tiny(parts, patch_sets, system, train__precision="auto", train__epochs=1)
    assert (trained.bundle.system, trained.bundle.precision) == (system, expected)
    assert len(trained.history) == 1


def test_scored_rois_keep_truth_groups_and_order(trained: TrainedSystem, parts: dict[str, Rois]) -> None:
    part = parts["test"]
    scored = score_part(trained.bundle, part, tiny_config())
    (patch_scores,) = scored.patch_scores
    assert patch_scores.shape == (6, 9)
    assert scored.labels.tolist() == part.labels.tolist()
    assert scored.groups.tolist() == part.groups.tolist()
    np.testing.assert_allclose(scored.scores[0], patch_scores.mean(axis=1))
    assert scored.shares[0].tolist() == [sum(s > 0.5 for s in row) / 9 for row in patch_scores]
    assert scored.decisions[0].tolist() == (scored.scores[0] > 0.5).tolist()


def test_the_vote_of_the_bundle_decides_whatever_the_settings_say(
    trained: TrainedSystem, parts: dict[str, Rois]
) -> None:
    always_tumor = replace(trained.bundle, vote=tiny_config(vote__share_threshold=0.0).vote)
    scored = score_part(always_tumor, parts["test"], tiny_config(vote__share_threshold=1.0))
    assert scored.decisions[0].tolist() == [1] * 6


def test_predictions_have_a_row_for_each_roi_in_words_and_nothing_of_what_was_not_calibrated(
    trained: TrainedSystem, parts: dict[str, Rois]
) -> None:
    scored = score_part(trained.bundle, parts["test"], tiny_config())
    table = predictions("compact-model2", scored, "test")
    words = np.array(["Normal", "Tumor"])
    assert table["roi_id"].tolist() == parts["test"].table["roi_id"].tolist()
    assert table["label"].tolist() == words[parts["test"].labels].tolist()
    assert table["decision"].tolist() == words[scored.decisions[0]].tolist()
    assert set(table["part"]) == {"test"}
    assert set(table["system"]) == {"compact-model2"}
    np.testing.assert_allclose(table["score"], scored.scores[0], atol=5e-7)
    calibrated = trained.bundle.calibrator.apply(scored.scores[0])
    np.testing.assert_allclose(table["probability"].astype(float), calibrated, atol=5e-7)
    assert table["referral"].tolist() == ["or" in held for held in table["prediction_set"]]
    assert all(d in held for d, held in zip(table["decision"], table["prediction_set"], strict=True))
    bare = predictions("compact-model2", replace(scored, probabilities=None, sets=None), "test")
    assert bare[["probability", "prediction_set", "referral"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"train__epochs": 3}, True),
        ({"train__head_lr": 0.5}, True),
        ({"train__precision": "bfloat16"}, True),
        ({"train__threads": 2}, True),
        ({"model__head_units": 9}, True),
        ({"model__preprocessing": "fixed_scale"}, True),
        ({"patches__stride_px": 20}, True),
        ({"vote__rule": "majority", "evaluate__seed": 7}, False),
    ],
)
def test_settings_that_change_a_fit_change_its_fingerprint_and_those_that_judge_it_do_not(
    change: dict[str, Any], changes: bool, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    def of(config: Config) -> str:
        return run_fingerprint("compact-model2", config, 0, parts["train"], parts["val"], patch_sets)

    assert (of(tiny_config(**change)) != of(tiny_config())) == changes


def test_system_seed_pixels_labels_patches_and_weights_are_in_the_fingerprint(
    tmp_path: Path, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    train, val, patches = parts["train"], parts["val"], patch_sets["val"]
    brighter = train.images.copy()
    brighter[0, 0, 0] ^= 1
    relabelled = train.table.assign(label=train.table["label"].to_numpy()[::-1])
    moved = {**patch_sets, "val": patches.assign(top_px=patches["top_px"].to_numpy()[::-1])}
    path = tmp_path / "backbone.pt"
    config = tiny_config(model__weights=str(path))
    path.write_bytes(b"one")
    fingerprints = {
        run_fingerprint("compact-model2", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model1", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 1, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, images=brighter), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, table=relabelled), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, train, val, moved),
    }
    path.write_bytes(b"two")
    fingerprints.add(run_fingerprint("compact-model2", config, 0, train, val, patch_sets))
    assert len(fingerprints) == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mammo.systems.train.hardware", lambda device: "another processor"),
        ("mammo.systems.train.computes_bfloat16", lambda device: "neither true nor false"),
        ("mammo.systems.train.code_mark", lambda names: "other code"),
        ("mammo.systems.train.choose_device", lambda name: torch.device("meta")),
        ("torch.__version__", "99.0"),
    ],
)
def test_another_processor_library_or_code_is_another_fit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = computed_with(tiny_config())
    monkeypatch.setattr(name, value)
    assert computed_with(tiny_config()) != before


VALUES_ALONE = {
    "core",
    "studies/crew.py",
    "data/rois.py",
    "data/splits.py",
    "evaluation",
    "models/bundle.py",
    "studies/__init__.py",
}
"""What a fit imports and does not depend on: files and settings, whose values are hashed, and how ROIs are judged."""


def test_every_module_that_a_fit_imports_is_in_its_mark_or_known_not_to_matter() -> None:
    script = "import sys, mammo.studies.fits; print(*(m.__file__ for n, m in sys.modules.items() if n[:6] == 'mammo.'))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    package = Path(devices.__file__).parents[1]
    imported = {str(Path(path).relative_to(package)) for path in shown.stdout.split()}
    known = (*FIT_CODE, *VALUES_ALONE)
    assert "systems/fit.py" in imported
    assert not [name for name in imported if not name.startswith(known) and not name.endswith("__init__.py")]


def test_comments_docstrings_and_layout_do_not_change_the_code_but_a_number_does() -> None:
    plain = "def f(x):\n    return x + 1\n"
    dressed = '"""A module."""\n\ndef f(x):\n    """Add one."""\n    # so\n    return (x\n    + 1)\n'
    assert syntax_of(dressed) == syntax_of(plain)
    assert syntax_of(plain.replace("1", "2")) != syntax_of(plain)


def test_a_system_with_the_floor_is_its_network_with_the_floor_stacked_on_its_validation_scores(
    trained: TrainedSystem, parts: dict[str, Rois], patch_sets: PatchSets, tmp_path: Path
) -> None:
    bundle = train_tiny(parts, patch_sets, "compact-model2-floor").bundle
    network = trained.bundle
    for name, value in network.network.state_dict().items():
        assert torch.equal(bundle.network.state_dict()[name], value)
    train, val = parts["train"], parts["val"]
    seen = RoiScorer.on(network, CPU).patch_scores(val.images)
    assert bundle.stack == fit_stack(train.images, train.labels, val.images, val.labels, seen)
    assert bundle.stack is not None
    stacked = bundle.stack.apply(val.images, seen)
    assert bundle.results["val_auc"] == roc_auc_score(val.labels, stacked.mean(axis=1))
    each_patch = np.repeat(val.labels, stacked.shape[1])
    assert bundle.results["val_loss"] == pytest.approx(log_loss(each_patch, stacked.ravel()))
    assert bundle.calibrator == fit_platt(val.labels, stacked.mean(axis=1))
    save_bundle(bundle, tmp_path)
    served = RoiScorer.on(load_bundle(tmp_path), CPU)
    np.testing.assert_allclose(served.patch_scores(val.images), stacked, rtol=1e-6)
