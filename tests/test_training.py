"""A fit is repeatable to the bit, goes on after a kill as if nothing had happened, and learns."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from mammo.config import AugmentConfig, ModelConfig, PatchesConfig, RecipeConfig
from mammo.data.sources import RoiSet
from mammo.errors import ConfigError
from mammo.models.build import Classifier, build_classifier
from mammo.patches import drawn_patches, grid_corners
from mammo.training import EpochRecord, FitSettings, PatchData, epoch_order, fit, patch_data
from tests.disc_rois import disc_rois

CPU = torch.device("cpu")
SETTINGS = FitSettings(size_px=40, stride_px=40, seed=3, precision="float32")
STILL = AugmentConfig(rotation_deg=0.0, zoom=0.0, flip_horizontal=False)

SGD = {"optimizer": "sgd", "head_lr": 0.01, "backbone_lr": 0.01, "schedule": "constant"}
FROZEN = {**SGD, "backbone_lr": 0.0}


def recipe(**changes: Any) -> RecipeConfig:
    values: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 16,
        "patches_per_epoch": 48,
        "optimizer": "adamw",
        "head_lr": 0.003,
        "backbone_lr": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "schedule": "one_cycle",
        "label_smoothing": 0.05,
        "class_balance": True,
        "patience": None,
        "validate_on": "grid",
        "augment": AugmentConfig(flip_vertical=True, fill="roi"),
    }
    return RecipeConfig.model_validate(values | changes)


def new_classifier(dropout: float = 0.0, seed: int = 0) -> Classifier:
    config = ModelConfig(compact_channels=[4, 4, 8, 8, 8], head_units=8, head_dropout=dropout)
    return build_classifier("compact-model2", config, seed)


def data_of(rois: RoiSet, draws: int = 6, whole_roi: bool = False) -> PatchData:
    patches = PatchesConfig(size_px=40, tumor_draws=draws, normal_draws=draws, whole_roi=whole_roi)
    return patch_data(rois.images, rois.table, drawn_patches(rois.table, patches), CPU)


@pytest.fixture(scope="module")
def train() -> PatchData:
    """66 patches."""
    return data_of(disc_rois(6, 5))


@pytest.fixture(scope="module")
def val() -> PatchData:
    return data_of(disc_rois(4, 4, seed=1))


def without_speed(history: list[EpochRecord]) -> list[dict[str, Any]]:
    return [{**asdict(record), "patches_per_second": None} for record in history]


def weights_of(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal to the bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def script_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let the epochs' validation losses be these."""
    remaining = iter(losses)
    monkeypatch.setattr("mammo.training._validate", lambda *_: (next(remaining), 0.5, 0.5))


def pixels_of(data: PatchData) -> Tensor:
    """The patches cut by plain slices."""
    p = data.patches
    corners = zip(p.roi.tolist(), p.top.tolist(), p.left.tolist(), strict=True)
    return torch.stack([data.images[roi, None, y : y + 40, x : x + 40] for roi, y, x in corners]).float()


# Data


def test_each_patch_points_at_its_own_roi_whatever_the_order_of_the_rows() -> None:
    rois = disc_rois(3, 2)
    table = drawn_patches(rois.table, PatchesConfig(tumor_draws=3, normal_draws=2, size_px=40))
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    order = [3, 0, 4, 1, 2]

    data = patch_data(rois.images[order], rois.table.iloc[order].reset_index(drop=True), shuffled, CPU)

    ids = rois.table["roi_id"].iloc[order].to_numpy(dtype=object)
    assert ids[data.patches.roi.numpy()].tolist() == shuffled["roi_id"].tolist()
    assert data.labels.tolist() == shuffled["label"].tolist()
    assert data.labels.tolist() == data.roi_labels[data.patches.roi].tolist()
    corners = pd.DataFrame({name: getattr(data.patches, name).numpy() for name in ("top", "left", "size")})
    assert np.array_equal(corners.to_numpy(), shuffled[["top_px", "left_px", "size_px"]].to_numpy())


# Which patches an epoch sees

LABELS = torch.tensor([1] * 70 + [0] * 30)


def order_of(**changes: Any) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = epoch_order(
        LABELS, recipe(**changes), torch.Generator().manual_seed(0)
    ).numpy()
    return order


def test_an_epoch_of_the_whole_patch_set_sees_each_patch_once() -> None:
    order = order_of(patches_per_epoch=None, class_balance=False)

    assert sorted(order) == list(range(100))
    assert order.tolist() != list(range(100))


def test_a_shorter_epoch_repeats_no_patch() -> None:
    assert len(set(order_of(patches_per_epoch=40, class_balance=False))) == 40


def test_a_longer_epoch_shows_every_patch_before_any_comes_again() -> None:
    order = order_of(patches_per_epoch=250, class_balance=False)

    assert sorted(np.bincount(order)) == [2] * 50 + [3] * 50
    assert len(set(order[:100])) == 100


@pytest.mark.parametrize(("n_patches", "n_tumor"), [(40, 20), (41, 20), (100, 50), (400, 200)])
def test_class_balance_draws_half_from_each_class(n_patches: int, n_tumor: int) -> None:
    order = order_of(patches_per_epoch=n_patches, class_balance=True)

    assert len(order) == n_patches
    assert (order < 70).sum() == n_tumor
    for patches in (order[order < 70], order[order >= 70] - 70):
        times = np.bincount(patches, minlength=30)
        assert times.max() - times.min() <= 1


def test_class_balance_mixes_the_classes() -> None:
    tumor = order_of(patches_per_epoch=60, class_balance=True) < 70

    assert 5 <= tumor[:30].sum() <= 25


# Repeatable


@pytest.mark.parametrize("changes", [{}, SGD])
def test_two_fits_of_one_seed_are_bit_identical(
    train: PatchData, val: PatchData, changes: dict[str, Any]
) -> None:
    first, second = new_classifier(dropout=0.3), new_classifier(dropout=0.3)

    history = fit(first, train, val, recipe(**changes), SETTINGS)
    torch.rand(7)  # what others draw from the global generator changes nothing
    again = fit(second, train, val, recipe(**changes), SETTINGS)

    assert without_speed(again) == without_speed(history)
    assert differing(weights_of(first), weights_of(second)) == []


def test_another_seed_gives_another_fit(train: PatchData, val: PatchData) -> None:
    first, second = new_classifier(), new_classifier()

    history = fit(first, train, val, recipe(epochs=1), SETTINGS)
    other = fit(second, train, val, recipe(epochs=1), replace(SETTINGS, seed=4))

    assert history[0].train_loss != other[0].train_loss


class StoppedError(Exception):
    """The process dies."""


def fit_until(epoch: int, checkpoint: Path, train: PatchData, val: PatchData, chosen: RecipeConfig) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(new_classifier(0.3), train, val, chosen, SETTINGS, checkpoint, "abc", on_epoch=stop)


@pytest.mark.parametrize("changes", [{}, SGD, {**SGD, "momentum": 0.0}, FROZEN])
@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_stopped_and_resumed_fit_equals_an_undisturbed_one(
    tmp_path: Path, train: PatchData, val: PatchData, changes: dict[str, Any], stop_after: int
) -> None:
    chosen = recipe(**changes)
    undisturbed = new_classifier(dropout=0.3)
    expected = fit(undisturbed, train, val, chosen, SETTINGS)
    fit_until(stop_after, tmp_path / "fit.safetensors", train, val, chosen)
    resumed = new_classifier(dropout=0.3, seed=99)
    new: list[int] = []

    history = fit(
        resumed,
        train,
        val,
        chosen,
        SETTINGS,
        tmp_path / "fit.safetensors",
        "abc",
        on_epoch=lambda record: new.append(record.epoch),
    )

    assert new == list(range(stop_after + 1, 4))
    assert without_speed(history) == without_speed(expected)
    assert differing(weights_of(resumed), weights_of(undisturbed)) == []


def test_a_finished_fit_is_not_run_again(tmp_path: Path, train: PatchData, val: PatchData) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    first, second = new_classifier(), new_classifier(seed=99)
    history = fit(first, train, val, recipe(), SETTINGS, checkpoint, "abc")
    new: list[EpochRecord] = []

    again = fit(second, train, val, recipe(), SETTINGS, checkpoint, "abc", on_epoch=new.append)

    assert new == []
    assert again == history
    assert differing(weights_of(first), weights_of(second)) == []


def test_a_checkpoint_of_another_fingerprint_is_started_anew(
    tmp_path: Path, train: PatchData, val: PatchData
) -> None:
    fit_until(1, tmp_path / "fit.safetensors", train, val, recipe())
    classifier, undisturbed = new_classifier(), new_classifier()
    expected = fit(undisturbed, train, val, recipe(), SETTINGS)

    history = fit(classifier, train, val, recipe(), SETTINGS, tmp_path / "fit.safetensors", "other")

    assert without_speed(history) == without_speed(expected)
    assert differing(weights_of(classifier), weights_of(undisturbed)) == []


# Which epoch is kept


def test_a_fit_stops_after_patience_epochs_without_a_better_loss(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 0.5, 0.6, 0.5, 0.1)

    history = fit(new_classifier(), train, val, recipe(epochs=9, patience=2), SETTINGS)

    assert [record.val_loss for record in history] == [0.9, 0.5, 0.6, 0.5]


def test_a_better_loss_starts_patience_anew(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 1.0, 0.8, 1.0, 0.7, 1.0, 1.0)

    history = fit(new_classifier(), train, val, recipe(epochs=9, patience=2), SETTINGS)

    assert len(history) == 7


def test_without_patience_every_epoch_is_run(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.1, 0.2, 0.3, 0.4, 0.5)

    assert len(fit(new_classifier(), train, val, recipe(epochs=5), SETTINGS)) == 5


def test_a_fit_that_stopped_early_is_not_gone_on_with(
    tmp_path: Path, train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(epochs=9, patience=1)
    script_losses(monkeypatch, 0.5, 0.6)
    fit(new_classifier(), train, val, chosen, SETTINGS, tmp_path / "fit.safetensors")

    history = fit(new_classifier(), train, val, chosen, SETTINGS, tmp_path / "fit.safetensors")

    assert len(history) == 2


def test_the_weights_of_the_best_epoch_are_kept(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 0.5, 0.5, 0.8)
    classifier = new_classifier()
    after_epoch: list[dict[str, Tensor]] = []

    fit(
        classifier,
        train,
        val,
        recipe(),
        SETTINGS,
        on_epoch=lambda _: after_epoch.append(weights_of(classifier)),
    )

    kept = weights_of(classifier)
    assert differing(kept, after_epoch[1]) == []
    assert all(differing(kept, after_epoch[other]) for other in (0, 2, 3))
    assert not classifier.training


def test_a_fit_that_diverges_says_which_settings_to_lower(train: PatchData, val: PatchData) -> None:
    classifier = new_classifier()
    with torch.no_grad():
        classifier.get_parameter("head.7.weight").fill_(float("nan"))

    with pytest.raises(ConfigError, match=r"training diverged: .*lower train\.head_lr"):
        fit(classifier, train, val, recipe(), SETTINGS)


# What an epoch reports


def cross_entropy_by_hand(logits: npt.NDArray[np.float64], labels: Any, smoothing: float = 0.0) -> float:
    log_p = logits - np.logaddexp(logits[:, :1], logits[:, 1:])
    wanted = np.eye(2)[labels] * (1 - smoothing) + smoothing / 2
    return float(-(wanted * log_p).sum(axis=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_training_loss_is_the_mean_cross_entropy_of_the_patches(
    train: PatchData, val: PatchData, smoothing: float
) -> None:
    # One batch of all patches: the loss is taken before the only step.
    once = recipe(
        epochs=1,
        batch_size=66,
        patches_per_epoch=None,
        class_balance=False,
        label_smoothing=smoothing,
        augment=STILL,
    )
    with torch.no_grad():
        logits = new_classifier().train()(pixels_of(train)).double().numpy()

    (record,) = fit(new_classifier(), train, val, once, SETTINGS)

    expected = cross_entropy_by_hand(logits, train.labels.numpy(), smoothing)
    assert record.train_loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("validate_on", ["grid", "draws"])
def test_validation_is_computed_with_the_weights_after_the_epoch(
    train: PatchData, val: PatchData, validate_on: str
) -> None:
    classifier = new_classifier()
    (record,) = fit(classifier, train, val, recipe(epochs=1, validate_on=validate_on), SETTINGS)

    corners = grid_corners(40, 40).tolist()
    grid = torch.stack([image[None, y : y + 40, x : x + 40] for image in val.images for y, x in corners])
    with torch.no_grad():
        grid_scores = classifier(grid.float()).double().softmax(dim=1)[:, 1].numpy()
        draw_scores = classifier(pixels_of(val)).double().softmax(dim=1)[:, 1].numpy()
    roi_labels = val.roi_labels.numpy()
    grid_labels = roi_labels.repeat(9)
    scores, labels = (
        (grid_scores, grid_labels) if validate_on == "grid" else (draw_scores, val.labels.numpy())
    )
    assert record.val_loss == pytest.approx(log_loss(labels, scores), rel=1e-4)
    assert record.val_auc == pytest.approx(roc_auc_score(roi_labels, grid_scores.reshape(-1, 9).mean(axis=1)))
    assert record.val_patch_accuracy == pytest.approx(((grid_scores > 0.5) == grid_labels).mean())


def test_one_cycle_warms_up_over_fifteen_percent_and_falls_like_a_cosine_to_zero(
    train: PatchData, val: PatchData
) -> None:
    # One step an epoch, so each record shows the rate of one step.
    history = fit(new_classifier(), train, val, recipe(epochs=20, batch_size=48, head_lr=0.6), SETTINGS)

    rates = [record.lr for record in history]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert rates[3:] == pytest.approx([0.3 + 0.3 * np.cos(np.pi * k / 17) for k in range(17)])
    assert rates[-1] < 0.01


def test_a_constant_schedule_keeps_the_rate(train: PatchData, val: PatchData) -> None:
    history = fit(new_classifier(), train, val, recipe(**SGD), SETTINGS)

    assert {record.lr for record in history} == {0.01}


def test_steps_are_reported_and_a_last_batch_of_one_patch_is_left_out(
    train: PatchData, val: PatchData
) -> None:
    steps: list[tuple[int, int, int]] = []

    fit(
        new_classifier(),
        train,
        val,
        recipe(epochs=2, patches_per_epoch=33),
        SETTINGS,
        on_step=lambda *step: steps.append(step),
    )

    assert steps == [(0, 16, 32), (0, 32, 32), (1, 16, 32), (1, 32, 32)]


# What trains


def test_a_backbone_of_rate_zero_keeps_its_parameters_and_statistics(
    train: PatchData, val: PatchData
) -> None:
    classifier = new_classifier()
    before = weights_of(classifier)

    fit(classifier, train, val, recipe(**FROZEN), SETTINGS)

    moved = differing(before, weights_of(classifier))
    assert not [name for name in moved if name.startswith("backbone.")]
    assert "head.1.weight" in moved
    assert "fusion.branches.block1.0.running_mean" in moved


def test_backbone_and_head_move_at_their_own_rates(train: PatchData, val: PatchData) -> None:
    # One plain SGD step: the change of each part is proportional to its rate.
    def change(head_lr: float, backbone_lr: float) -> tuple[float, float]:
        classifier = new_classifier()
        before = weights_of(classifier)
        once = recipe(
            **{**SGD, "head_lr": head_lr, "backbone_lr": backbone_lr},
            momentum=0.0,
            weight_decay=0.0,
            epochs=1,
            batch_size=48,
        )
        fit(classifier, train, val, once, SETTINGS)
        after = weights_of(classifier)
        head, backbone = "head.1.weight", "backbone.blocks.block1.0.0.weight"
        return (
            float((after[head] - before[head]).norm()),
            float((after[backbone] - before[backbone]).norm()),
        )

    head, backbone = change(0.1, 0.1)
    same_head, slow_backbone = change(0.1, 0.01)

    assert same_head == pytest.approx(head, rel=1e-3)
    assert slow_backbone == pytest.approx(backbone / 10, rel=1e-2)


def test_a_tiny_network_learns_to_tell_bright_discs_from_noise() -> None:
    train, val = data_of(disc_rois(16, 12), draws=12, whole_roi=True), data_of(disc_rois(8, 8, seed=1))
    chosen = recipe(epochs=6, patches_per_epoch=256, batch_size=32, head_lr=0.01, backbone_lr=0.01)

    history = fit(new_classifier(), train, val, chosen, SETTINGS)

    assert max(record.val_auc for record in history) > 0.9
    assert min(record.val_loss for record in history) < 0.6
