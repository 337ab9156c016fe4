"""What an epoch sees, what it reports, and what of the network moves."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from mammo.core.config import AugmentConfig, PatchesConfig
from mammo.core.errors import ConfigError
from mammo.data.patches import drawn_patches, grid_corners
from mammo.data.rois import Rois
from mammo.systems.fit import epoch_order, fit
from mammo.systems.inputs import PatchData, patch_data
from tests.disc_rois import disc_rois
from tests.settings import section
from tests.tiny_fits import (
    CPU,
    FROZEN,
    SETTINGS,
    SGD,
    TRAIN,
    VAL,
    data_of,
    differing,
    new_classifier,
    recipe,
    weights_of,
)

STILL = section(AugmentConfig, rotation_deg=0.0, zoom=0.0, flip_horizontal=False)


def pixels_of(data: PatchData) -> Tensor:
    """The patches cut by plain slices."""
    p = data.patches
    corners = zip(p.roi.tolist(), p.top.tolist(), p.left.tolist(), strict=True)
    return torch.stack([data.images[roi, None, y : y + 40, x : x + 40] for roi, y, x in corners]).float()


def test_each_patch_points_at_its_own_roi_whatever_the_order_of_the_rows() -> None:
    rois = disc_rois(3, 2)
    table = drawn_patches(rois.table, section(PatchesConfig, tumor_draws=3, normal_draws=2, size_px=40))
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    order = [3, 0, 4, 1, 2]
    data = patch_data(Rois(rois.table.iloc[order].reset_index(drop=True), rois.images[order]), shuffled, CPU)
    ids = rois.table["roi_id"].iloc[order].to_numpy(dtype=object)
    assert ids[data.patches.roi.numpy()].tolist() == shuffled["roi_id"].tolist()
    assert data.labels.tolist() == shuffled["label"].tolist()
    assert data.labels.tolist() == data.roi_labels[data.patches.roi].tolist()
    corners = pd.DataFrame({name: getattr(data.patches, name).numpy() for name in ("top", "left", "size")})
    assert np.array_equal(corners.to_numpy(), shuffled[["top_px", "left_px", "size_px"]].to_numpy())


LABELS = torch.tensor([1] * 70 + [0] * 30)


def order_of(**changes: Any) -> npt.NDArray[np.int64]:
    generator = torch.Generator().manual_seed(0)
    order: npt.NDArray[np.int64] = epoch_order(LABELS, recipe(**changes), generator).numpy()
    return order


@pytest.mark.parametrize("n_patches", [None, 40, 250])
def test_an_epoch_shows_every_patch_before_any_comes_again(n_patches: int | None) -> None:
    order = order_of(patches_per_epoch=n_patches, class_balance=False)
    assert len(order) == (n_patches or 100)
    assert len(set(order[:100])) == min(len(order), 100)
    times = np.bincount(order, minlength=100)
    assert times.max() - times.min() <= 1
    assert order[:100].tolist() != sorted(order[:100])


@pytest.mark.parametrize(("n_patches", "n_tumor"), [(40, 20), (41, 20), (100, 50), (400, 200)])
def test_class_balance_draws_half_from_each_class_and_mixes_them(n_patches: int, n_tumor: int) -> None:
    order = order_of(patches_per_epoch=n_patches, class_balance=True)
    assert len(order) == n_patches
    assert (order < 70).sum() == n_tumor
    assert n_tumor / 6 <= (order[:n_tumor] < 70).sum() <= n_tumor * 5 / 6
    for patches in (order[order < 70], order[order >= 70] - 70):
        times = np.bincount(patches, minlength=30)
        assert times.max() - times.min() <= 1


def test_a_fit_that_diverges_says_which_settings_to_lower() -> None:
    classifier = new_classifier()
    with torch.no_grad():
        classifier.get_parameter("head.7.weight").fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"training diverged: .*lower train\.head_lr"):
        fit(classifier, TRAIN, VAL, recipe(), SETTINGS)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_training_loss_is_the_mean_cross_entropy_of_the_patches(smoothing: float) -> None:
    # One batch of all patches: the loss is taken before the only step.
    sizes = {"epochs": 1, "batch_size": 66, "patches_per_epoch": None, "class_balance": False}
    with torch.no_grad():
        logits = new_classifier().train()(pixels_of(TRAIN)).double().numpy()
    once = recipe(**sizes, label_smoothing=smoothing, augment=STILL)
    (record,) = fit(new_classifier(), TRAIN, VAL, once, SETTINGS)
    log_p = logits - np.logaddexp(logits[:, :1], logits[:, 1:])
    wanted = np.eye(2)[TRAIN.labels.numpy()] * (1 - smoothing) + smoothing / 2
    assert record.train_loss == pytest.approx(-(wanted * log_p).sum(axis=1).mean(), rel=1e-3)


@pytest.mark.parametrize("validate_on", ["grid", "draws"])
def test_validation_is_computed_with_the_weights_after_the_epoch(validate_on: str) -> None:
    classifier = new_classifier()
    (record,) = fit(classifier, TRAIN, VAL, recipe(epochs=1, validate_on=validate_on), SETTINGS)
    corners = grid_corners(40, 40).tolist()
    grid = torch.stack([image[None, y : y + 40, x : x + 40] for image in VAL.images for y, x in corners])
    with torch.no_grad():
        scores, draw_scores = (
            classifier(patches).double().softmax(dim=1)[:, 1].numpy() for patches in (grid.float(), pixels_of(VAL))
        )
    roi_labels = VAL.roi_labels.numpy()
    labels = roi_labels.repeat(9)
    loss = log_loss(labels, scores) if validate_on == "grid" else log_loss(VAL.labels.numpy(), draw_scores)
    assert record.val_loss == pytest.approx(loss, rel=1e-4)
    assert record.val_auc == pytest.approx(roc_auc_score(roi_labels, scores.reshape(-1, 9).mean(axis=1)))
    assert record.val_patch_accuracy == pytest.approx(((scores > 0.5) == labels).mean())


def test_one_cycle_warms_up_over_fifteen_percent_and_falls_like_a_cosine_and_a_constant_stays() -> None:
    # One step an epoch, so each record shows the rate of one step.
    history = fit(new_classifier(), TRAIN, VAL, recipe(epochs=20, batch_size=48, head_lr=0.6), SETTINGS)
    rates = [record.lr for record in history]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert rates[3:] == pytest.approx([0.3 + 0.3 * np.cos(np.pi * k / 17) for k in range(17)])
    assert rates[-1] < 0.01
    constant = fit(new_classifier(), TRAIN, VAL, recipe(**SGD), SETTINGS)
    assert {record.lr for record in constant} == {0.01}


def test_steps_are_reported_and_a_last_batch_of_one_patch_is_left_out() -> None:
    steps: list[tuple[int, int, int]] = []
    chosen = recipe(epochs=2, patches_per_epoch=33)
    fit(new_classifier(), TRAIN, VAL, chosen, SETTINGS, on_step=lambda *step: steps.append(step))
    assert steps == [(0, 16, 32), (0, 32, 32), (1, 16, 32), (1, 32, 32)]


def test_a_backbone_of_rate_zero_keeps_its_parameters_and_statistics() -> None:
    classifier = new_classifier()
    before = weights_of(classifier)
    fit(classifier, TRAIN, VAL, recipe(**FROZEN), SETTINGS)
    moved = differing(before, weights_of(classifier))
    assert not [name for name in moved if name.startswith("backbone.")]
    assert "head.1.weight" in moved
    assert "fusion.branches.block1.0.running_mean" in moved


def test_backbone_and_head_move_at_their_own_rates() -> None:
    # One plain SGD step: the change of each part is proportional to its rate.
    def change(backbone_lr: float) -> list[float]:
        classifier = new_classifier()
        before = weights_of(classifier)
        rates = {**SGD, "head_lr": 0.1, "backbone_lr": backbone_lr, "momentum": 0.0, "weight_decay": 0.0}
        fit(classifier, TRAIN, VAL, recipe(**rates, epochs=1, batch_size=48), SETTINGS)
        after = weights_of(classifier)
        names = ("head.1.weight", "backbone.blocks.block1.0.weight")
        return [float((after[name] - before[name]).norm()) for name in names]

    head, backbone = change(0.1)
    same_head, slow_backbone = change(0.01)
    assert same_head == pytest.approx(head, rel=1e-3)
    assert slow_backbone == pytest.approx(backbone / 10, rel=1e-2)


def test_a_tiny_network_learns_to_tell_bright_discs_from_noise() -> None:
    train, val = data_of(disc_rois(16, 12), draws=12, whole_roi=True), data_of(disc_rois(8, 8, seed=1))
    chosen = recipe(epochs=6, patches_per_epoch=256, batch_size=32, head_lr=0.01, backbone_lr=0.01)
    history = fit(new_classifier(), train, val, chosen, SETTINGS)
    assert max(record.val_auc for record in history) > 0.9
    assert min(record.val_loss for record in history) < 0.6
