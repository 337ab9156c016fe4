"""A system from tables to a bundle, and from a bundle to scored ROIs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import Config
from mammo.core.errors import ConfigError, DataError
from mammo.core.files import Workspace, write_table
from mammo.core.records import SPLIT_SCHEMA, conform
from mammo.data.patches import drawn_patches
from mammo.data.rois import RoiSet, write_rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.voting import with_validation_threshold
from mammo.models.bundle import load_bundle, save_bundle
from mammo.systems import devices
from mammo.systems.assess import predictions
from mammo.systems.fit import EpochRecord
from mammo.systems.train import (
    Part,
    Trained,
    decide_on_validation,
    read_part,
    run_fingerprint,
    score_part,
    select_part,
    train_system,
    validation_results,
)

PARTS = ("train", "val", "test")

PatchSets = dict[str, pd.DataFrame]


def tiny_config(**changes: Any) -> Config:
    """Settings under which a system trains in a second; keys of `changes` are `section__key`."""
    values: dict[str, Any] = {
        "patches": {"size_px": 40, "stride_px": 40, "tumor_draws": 4, "normal_draws": 4},
        "model": {"compact_channels": [4, 4, 8, 8, 8], "head_units": 8},
        "train": {"recipe": "tiny", "device": "cpu", "precision": "float32"},
        "recipes": {
            "tiny": {
                "epochs": 2,
                "batch_size": 16,
                "patches_per_epoch": 32,
                "optimizer": "adamw",
                "head_lr": 0.003,
                "backbone_lr": 0.003,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "schedule": "constant",
                "label_smoothing": 0.0,
                "class_balance": True,
                "patience": None,
                "augment": {},
            }
        },
        "vote": {"rule": "mean_score", "tie": "normal", "threshold": "fixed"},
    }
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        values.setdefault(section, {})[key] = value
    return Config.parse(values)


@pytest.fixture(scope="module")
def split(disc_set: RoiSet) -> pd.DataFrame:
    """The ROIs dealt to the parts in turn, with every pair of neighbours a group."""
    rows = range(len(disc_set.table))
    table = pd.DataFrame(
        {
            "roi_id": disc_set.table["roi_id"],
            "group_id": [f"group{row // 2}" for row in rows],
            "split": [PARTS[row % 3] for row in rows],
        }
    )
    return conform(table, SPLIT_SCHEMA, "split")


@pytest.fixture(scope="module")
def parts(disc_set: RoiSet, split: pd.DataFrame) -> dict[str, Part]:
    return {name: select_part(disc_set.table, disc_set.images, split, name) for name in PARTS}


@pytest.fixture(scope="module")
def patch_sets(parts: dict[str, Part]) -> PatchSets:
    config = tiny_config().patches
    return {name: drawn_patches(parts[name].table, config) for name in ("train", "val")}


@pytest.fixture(scope="module")
def trained(parts: dict[str, Part], patch_sets: PatchSets) -> Trained:
    return train_system("compact-model2", tiny_config(), parts["train"], parts["val"], patch_sets)


# Parts


def test_a_part_holds_its_rois_their_pixels_and_their_groups(
    disc_set: RoiSet, parts: dict[str, Part]
) -> None:
    for offset, name in enumerate(PARTS):
        part = parts[name]
        assert part.name == name
        assert part.table["roi_id"].tolist() == disc_set.table["roi_id"].tolist()[offset::3]
        assert np.array_equal(part.images, disc_set.images[offset::3])
        assert part.labels.tolist() == disc_set.table["label"].tolist()[offset::3]
        assert part.groups.tolist() == [f"group{row // 2}" for row in range(18)][offset::3]


def test_the_order_of_the_split_does_not_matter(disc_set: RoiSet, split: pd.DataFrame) -> None:
    shuffled = split.sample(frac=1, random_state=0)

    part = select_part(disc_set.table, disc_set.images, shuffled, "val")

    assert part.table["roi_id"].tolist() == disc_set.table["roi_id"].tolist()[1::3]
    assert np.array_equal(part.images, disc_set.images[1::3])


def test_a_split_that_does_not_know_every_roi_is_refused(disc_set: RoiSet, split: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="split"):
        select_part(disc_set.table, disc_set.images, split.iloc[1:], "train")


def test_a_split_that_names_a_roi_twice_is_refused(disc_set: RoiSet, split: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="split"):
        select_part(disc_set.table, disc_set.images, pd.concat([split, split.iloc[:1]]), "train")


def test_a_part_is_read_from_the_workspace(
    tmp_path: Path, disc_set: RoiSet, split: pd.DataFrame, parts: dict[str, Part]
) -> None:
    space = Workspace(tmp_path)
    write_rois(disc_set, space.rois)
    write_table(space.split, split)

    part = read_part(space, "test")

    assert part.table["roi_id"].tolist() == parts["test"].table["roi_id"].tolist()
    assert np.array_equal(part.images, parts["test"].images)


def test_reading_a_part_before_the_split_says_what_to_run(tmp_path: Path, disc_set: RoiSet) -> None:
    write_rois(disc_set, Workspace(tmp_path).rois)

    with pytest.raises(DataError, match=r"split\.parquet: does not exist; run `dvc repro`"):
        read_part(Workspace(tmp_path), "test")


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
    trained: Trained, parts: dict[str, Part]
) -> None:
    config = tiny_config(vote__threshold="validation", referral__coverage=0.6)
    seen = score_part(trained.bundle, parts["val"], config)

    bundle = decide_on_validation(trained.bundle, parts["val"], config)

    assert bundle.vote == with_validation_threshold(seen.labels, seen.patch_scores[0], config.vote)
    assert bundle.calibrator == fit_platt(seen.labels, seen.scores[0])
    assert bundle.conformal == fit_conformal(seen.labels, seen.scores[0], alpha=1 - 0.6)
    assert bundle.conformal.coverage == 0.6
    assert (bundle.results, bundle.classifier) == (trained.bundle.results, trained.bundle.classifier)


def test_training_decides_on_the_validation_part(trained: Trained, parts: dict[str, Part]) -> None:
    again = decide_on_validation(trained.bundle, parts["val"], tiny_config())

    assert again.calibrator == trained.bundle.calibrator
    assert again.conformal == trained.bundle.conformal
    assert trained.bundle.conformal.n_calibration == 6


def test_a_fixed_threshold_stays_as_set(trained: Trained, parts: dict[str, Part]) -> None:
    config = tiny_config(vote__share_threshold=0.123)

    assert decide_on_validation(trained.bundle, parts["val"], config).vote.share_threshold == 0.123


def test_the_validation_results_hold_what_decides(trained: Trained) -> None:
    results = validation_results(trained.bundle)

    assert results["val_loss"] == trained.bundle.results["val_loss"]
    assert results["threshold"] == 0.5
    assert results["calibrator_slope"] == trained.bundle.calibrator.slope
    assert all(isinstance(float(value), float) for value in results.values())


def test_a_validation_part_of_one_class_is_refused(trained: Trained, parts: dict[str, Part]) -> None:
    normal = parts["val"].labels == 0
    alone = Part("val", parts["val"].table[normal].reset_index(drop=True), parts["val"].images[normal])

    with pytest.raises(DataError, match="both classes are needed"):
        decide_on_validation(trained.bundle, alone, tiny_config())


@pytest.mark.parametrize("system", ["compact-baseline", "compact-model1"])
def test_every_fusion_trains(system: str, parts: dict[str, Part], patch_sets: PatchSets) -> None:
    config = tiny_config(train__epochs=1)

    trained = train_system(system, config, parts["train"], parts["val"], patch_sets)

    assert trained.bundle.system == system
    assert len(trained.history) == 1


def test_the_same_settings_and_seed_give_the_same_weights_and_another_seed_others(
    trained: Trained, parts: dict[str, Part], patch_sets: PatchSets
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
    tmp_path: Path, trained: Trained, parts: dict[str, Part], patch_sets: PatchSets
) -> None:
    def train(on_epoch: Callable[[EpochRecord], None]) -> Trained:
        return train_system(
            "compact-model2",
            tiny_config(),
            parts["train"],
            parts["val"],
            patch_sets,
            checkpoint=tmp_path / "unfinished.safetensors",
            on_epoch=on_epoch,
        )

    def interrupt(_: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(interrupt)
    epochs: list[int] = []
    resumed = train(lambda record: epochs.append(record.epoch))

    assert epochs == [1]
    expected = trained.bundle.classifier.state_dict()
    weights = resumed.bundle.classifier.state_dict()
    assert all(bool((weights[name] == expected[name]).all()) for name in expected)


def test_a_device_that_is_not_there_is_refused_before_training(
    parts: dict[str, Part], patch_sets: PatchSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(ConfigError, match=r"train\.device is cuda"):
        train_system(
            "compact-model2", tiny_config(train__device="cuda"), parts["train"], parts["val"], patch_sets
        )


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_bundle_keeps_what_auto_meant_where_it_was_fitted(
    parts: dict[str, Part],
    patch_sets: PatchSets,
    monkeypatch: pytest.MonkeyPatch,
    hardware: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: hardware)
    config = tiny_config(train__precision="auto", train__epochs=1)
    trained = train_system("compact-baseline", config, parts["train"], parts["val"], patch_sets)
    assert trained.bundle.precision == expected


# Fingerprints


@pytest.mark.parametrize(
    "change",
    [
        {"train__epochs": 3},
        {"train__head_lr": 0.5},
        {"train__precision": "bfloat16"},
        {"model__head_units": 9},
        {"model__preprocessing": "fixed_scale"},
        {"patches__stride_px": 20},
    ],
)
def test_what_changes_a_fit_changes_its_fingerprint(
    change: dict[str, Any], parts: dict[str, Part], patch_sets: PatchSets
) -> None:
    def of(config: Config) -> str:
        return run_fingerprint("compact-model2", config, 0, parts["train"], parts["val"], patch_sets)

    assert of(tiny_config(**change)) != of(tiny_config())


def test_system_seed_pixels_labels_and_patches_are_in_the_fingerprint(
    parts: dict[str, Part], patch_sets: PatchSets
) -> None:
    train, val, config = parts["train"], parts["val"], tiny_config()
    brighter = train.images.copy()
    brighter[0, 0, 0] ^= 1
    relabelled = train.table.assign(label=train.table["label"].to_numpy()[::-1])
    moved = patch_sets["val"].assign(top_px=patch_sets["val"]["top_px"].to_numpy()[::-1])

    fingerprints = {
        run_fingerprint("compact-model2", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model1", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 1, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, images=brighter), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, table=relabelled), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, train, val, {**patch_sets, "val": moved}),
    }

    assert len(fingerprints) == 6


def test_what_only_judges_a_fit_is_not_in_its_fingerprint(
    parts: dict[str, Part], patch_sets: PatchSets
) -> None:
    def of(config: Config) -> str:
        return run_fingerprint("compact-model2", config, 0, parts["train"], parts["val"], patch_sets)

    assert of(tiny_config(vote__rule="majority", evaluate__seed=7)) == of(tiny_config())


# Scoring


def test_scored_rois_keep_truth_groups_and_order(trained: Trained, parts: dict[str, Part]) -> None:
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
    tmp_path: Path, trained: Trained, parts: dict[str, Part]
) -> None:
    save_bundle(trained.bundle, tmp_path)

    loaded = score_part(load_bundle(tmp_path), parts["test"], tiny_config())

    expected = score_part(trained.bundle, parts["test"], tiny_config())
    assert np.array_equal(loaded.patch_scores, expected.patch_scores)


def test_the_vote_of_the_bundle_decides_whatever_the_settings_say_now(
    trained: Trained, parts: dict[str, Part]
) -> None:
    always_tumor = replace(trained.bundle, vote=tiny_config(vote__share_threshold=0.0).vote)

    scored = score_part(always_tumor, parts["test"], tiny_config(vote__share_threshold=1.0))

    assert scored.decisions[0].tolist() == [1] * 6


def test_predictions_have_a_row_for_each_roi_in_words(trained: Trained, parts: dict[str, Part]) -> None:
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
    trained: Trained, parts: dict[str, Part]
) -> None:
    scored = replace(score_part(trained.bundle, parts["test"], tiny_config()), probabilities=None, sets=None)

    table = predictions("compact-model2", scored, "test")

    assert table[["probability", "prediction_set", "referral"]].isna().all(axis=None)
