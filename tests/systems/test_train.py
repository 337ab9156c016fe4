"""A system from ROIs to a bundle, what its fit depends on, and from a bundle to scored ROIs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo.core.errors import ConfigError, DataError
from mammo.data.rois import Rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.domain import fit_domain
from mammo.evaluation.voting import with_validation_threshold
from mammo.models.bundle import load_bundle, save_bundle
from mammo.systems import devices
from mammo.systems.assess import predictions
from mammo.systems.fit import EpochRecord
from mammo.systems.train import (
    Trained,
    decide_on_validation,
    score_part,
    train_system,
    validation_results,
)
from tests.tiny_fits import tiny_config

PatchSets = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def trained(parts: dict[str, Rois], patch_sets: PatchSets) -> Trained:
    return train_system("compact-model2", tiny_config(), parts["train"], parts["val"], patch_sets)


# Training


def test_training_gives_a_bundle_with_the_settings_that_its_decisions_rest_on(trained: Trained) -> None:
    bundle = trained.bundle
    assert bundle.system == "compact-model2"
    assert (bundle.size_px, bundle.stride_px) == (40, 40)
    assert bundle.vote == tiny_config().vote
    assert bundle.synthetic  # as the ROIs are
    assert not bundle.classifier.training


def test_the_results_are_those_of_the_epoch_with_the_lowest_validation_loss(trained: Trained) -> None:
    history, results = trained.history, trained.bundle.results
    best = min(history.to_dict("records"), key=lambda row: float(row["val_loss"]))
    assert len(history) == results["n_epochs"] == 2
    assert results["epoch"] == best["epoch"]
    assert (results["val_loss"], results["val_auc"]) == (best["val_loss"], best["val_auc"])
    assert (results["n_rois_train"], results["n_rois_val"]) == (6, 6)


def test_threshold_calibrator_and_limits_are_fitted_to_the_served_scores_of_the_validation_part(
    trained: Trained, parts: dict[str, Rois]
) -> None:
    config = tiny_config(vote__threshold="validation", referral__coverage=0.6)
    seen = score_part(trained.bundle, parts["val"], config)
    bundle = decide_on_validation(trained.bundle, parts["val"], config)

    assert bundle.vote == with_validation_threshold(seen.labels, seen.patch_scores[0], config.vote)
    assert bundle.calibrator == fit_platt(seen.labels, seen.scores[0])
    assert bundle.conformal == fit_conformal(seen.labels, seen.scores[0], alpha=1 - 0.6)
    assert bundle.conformal.coverage == 0.6
    assert (bundle.results, bundle.classifier) == (trained.bundle.results, trained.bundle.classifier)


def test_training_decides_on_the_validation_part(trained: Trained, parts: dict[str, Rois]) -> None:
    again = decide_on_validation(trained.bundle, parts["val"], tiny_config())
    assert again.calibrator == trained.bundle.calibrator
    assert again.conformal == trained.bundle.conformal
    assert trained.bundle.conformal.n_calibration == 6


def test_the_domain_is_that_of_the_training_part_and_judged_on_validation(
    trained: Trained, parts: dict[str, Rois]
) -> None:
    alike = fit_domain(parts["train"].images).with_false_alarms(parts["val"].images)
    assert trained.bundle.domain == alike
    assert validation_results(trained.bundle)["domain_false_alarms"] == 0


def test_a_fixed_threshold_stays_as_set(trained: Trained, parts: dict[str, Rois]) -> None:
    config = tiny_config(vote__share_threshold=0.123)
    assert decide_on_validation(trained.bundle, parts["val"], config).vote.share_threshold == 0.123


def test_the_validation_results_hold_what_decides(trained: Trained) -> None:
    results = validation_results(trained.bundle)
    assert results["val_loss"] == trained.bundle.results["val_loss"]
    assert results["threshold"] == 0.5
    assert results["calibrator_slope"] == trained.bundle.calibrator.slope
    assert all(isinstance(float(value), float) for value in results.values())


def test_a_validation_part_of_one_class_is_refused(trained: Trained, parts: dict[str, Rois]) -> None:
    normal = parts["val"].only(parts["val"].labels == 0)
    with pytest.raises(DataError, match="both classes are needed"):
        decide_on_validation(trained.bundle, normal, tiny_config())


@pytest.mark.parametrize("system", ["compact-baseline", "compact-model1"])
def test_every_fusion_trains(system: str, parts: dict[str, Rois], patch_sets: PatchSets) -> None:
    config = tiny_config(train__epochs=1)
    trained = train_system(system, config, parts["train"], parts["val"], patch_sets)
    assert trained.bundle.system == system
    assert len(trained.history) == 1


def test_the_same_settings_and_seed_give_the_same_weights_and_another_seed_others(
    trained: Trained, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    def weights(**options: Any) -> Any:
        again = train_system(
            "compact-model2", tiny_config(), parts["train"], parts["val"], patch_sets, **options
        )
        return again.bundle.classifier.state_dict()

    first, again, other = trained.bundle.classifier.state_dict(), weights(), weights(seed=1)
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert not bool((first["head.1.weight"] == other["head.1.weight"]).all())


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    tmp_path: Path, trained: Trained, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    def fit(on_epoch: Callable[[EpochRecord], None]) -> Trained:
        return train_system(
            "compact-model2",
            tiny_config(),
            parts["train"],
            parts["val"],
            patch_sets,
            checkpoint=tmp_path / "unfinished.pt",
            on_epoch=on_epoch,
        )

    def interrupt(_: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(interrupt)
    epochs: list[int] = []
    resumed = fit(lambda record: epochs.append(record.epoch))
    assert epochs == [1]
    expected = trained.bundle.classifier.state_dict()
    weights = resumed.bundle.classifier.state_dict()
    assert all(bool((weights[name] == expected[name]).all()) for name in expected)


def test_a_device_that_is_not_there_is_refused_before_training(
    parts: dict[str, Rois], patch_sets: PatchSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.device is cuda"):
        train_system(
            "compact-model2", tiny_config(train__device="cuda"), parts["train"], parts["val"], patch_sets
        )


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_bundle_keeps_what_auto_meant_where_it_was_fitted(
    parts: dict[str, Rois],
    patch_sets: PatchSets,
    monkeypatch: pytest.MonkeyPatch,
    hardware: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: hardware)
    config = tiny_config(train__precision="auto", train__epochs=1)
    trained = train_system("compact-baseline", config, parts["train"], parts["val"], patch_sets)
    assert trained.bundle.precision == expected


# Scoring


def test_scored_rois_keep_truth_groups_and_order(trained: Trained, parts: dict[str, Rois]) -> None:
    part = parts["test"]
    scored = score_part(trained.bundle, part, tiny_config())

    (patch_scores,) = scored.patch_scores
    assert patch_scores.shape == (6, 9)
    assert scored.labels.tolist() == part.labels.tolist()
    assert scored.groups.tolist() == part.groups.tolist()
    np.testing.assert_allclose(scored.scores[0], [sum(row) / 9 for row in patch_scores])
    assert scored.shares[0].tolist() == [sum(s > 0.5 for s in row) / 9 for row in patch_scores]
    assert scored.decisions[0].tolist() == [int(score > 0.5) for score in scored.scores[0]]


def test_a_bundle_from_disk_scores_as_the_trained_one(
    tmp_path: Path, trained: Trained, parts: dict[str, Rois]
) -> None:
    save_bundle(trained.bundle, tmp_path)
    loaded = score_part(load_bundle(tmp_path), parts["test"], tiny_config())
    expected = score_part(trained.bundle, parts["test"], tiny_config())
    assert np.array_equal(loaded.patch_scores, expected.patch_scores)


def test_the_vote_of_the_bundle_decides_whatever_the_settings_say_now(
    trained: Trained, parts: dict[str, Rois]
) -> None:
    always_tumor = replace(trained.bundle, vote=tiny_config(vote__share_threshold=0.0).vote)
    scored = score_part(always_tumor, parts["test"], tiny_config(vote__share_threshold=1.0))

    assert scored.decisions[0].tolist() == [1] * 6


def test_predictions_have_a_row_for_each_roi_in_words(trained: Trained, parts: dict[str, Rois]) -> None:
    scored = score_part(trained.bundle, parts["test"], tiny_config())

    table = predictions("compact-model2", scored, "test")

    words = {0: "Normal", 1: "Tumor"}
    assert table["roi_id"].tolist() == parts["test"].table["roi_id"].tolist()
    assert table["label"].tolist() == [words[value] for value in parts["test"].labels]
    assert table["decision"].tolist() == [words[value] for value in scored.decisions[0].tolist()]
    assert set(table["part"]) == {"test"}
    assert set(table["system"]) == {"compact-model2"}
    np.testing.assert_allclose(table["score"], scored.scores[0], atol=5e-7)
    calibrated = trained.bundle.calibrator.apply(scored.scores[0])
    np.testing.assert_allclose(table["probability"].astype(float), calibrated, atol=5e-7)
    assert table["referral"].tolist() == ["or" in held for held in table["prediction_set"]]
    assert all(d in held for d, held in zip(table["decision"], table["prediction_set"], strict=True))


def test_predictions_without_a_calibrator_leave_probability_and_set_empty(
    trained: Trained, parts: dict[str, Rois]
) -> None:
    scored = replace(score_part(trained.bundle, parts["test"], tiny_config()), probabilities=None, sets=None)

    table = predictions("compact-model2", scored, "test")

    assert table[["probability", "prediction_set", "referral"]].isna().all(axis=None)
