"""An ensemble is its members, each trained as if alone, whose patch scores are averaged before they vote."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mammo.core.errors import ConfigError
from mammo.core.systems import fits_of, members_of, split_system
from mammo.data.rois import Rois
from mammo.evaluation.metrics import auc
from mammo.models.build import Ensemble, mean_logits
from mammo.models.bundle import Bundle, load_bundle, save_bundle
from mammo.systems.decide import TrainedSystem, score_part, train_system
from mammo.systems.explanation import explain, patch_grad_cams
from mammo.systems.fit import EpochRecord
from mammo.systems.score import RoiScorer
from tests.tiny_fits import CPU, differing, tiny_config, train_tiny, weights_of

SYSTEM = "compact-model1+compact-model2+compact-model2-floor"


@pytest.fixture(scope="module")
def trained(parts: dict[str, Rois], patch_sets: dict[str, pd.DataFrame]) -> TrainedSystem:
    return train_tiny(parts, patch_sets, SYSTEM)


@pytest.fixture(scope="module")
def alone(parts: dict[str, Rois], patch_sets: dict[str, pd.DataFrame]) -> list[TrainedSystem]:
    named = (("compact-model1", 0), ("compact-model2", 0), ("compact-model2", 1000))
    return [train_tiny(parts, patch_sets, name, train__seed=seed) for name, seed in named]


def members(bundle: Bundle) -> Ensemble:
    assert isinstance(bundle.network, Ensemble)
    return bundle.network


def test_a_network_that_comes_again_has_a_seed_that_no_run_beside_it_has() -> None:
    assert members_of(SYSTEM) == ["compact-model1", "compact-model2", "compact-model2"]
    assert fits_of(SYSTEM, 7) == [("compact-model1", 7), ("compact-model2", 7), ("compact-model2", 1007)]
    assert fits_of("vgg16-model1-floor", 3) == [("vgg16-model1", 3)]
    with pytest.raises(ConfigError, match="several joined by"):
        split_system("compact-model1+compact-model2")


def test_members_have_the_weights_that_they_have_alone(trained: TrainedSystem, alone: list[TrainedSystem]) -> None:
    assert trained.bundle.system == SYSTEM
    for member, single in zip(members(trained.bundle).classifiers, alone, strict=True):
        assert differing(weights_of(member), weights_of(single.bundle.network)) == []
    of_one_seed, of_another = (weights_of(single.bundle.network) for single in alone[1:])
    assert "head.1.weight" in differing(of_one_seed, of_another)
    expected = [*alone[0].history["val_loss"], *alone[1].history["val_loss"], *alone[2].history["val_loss"]]
    assert trained.history["val_loss"].tolist() == expected
    assert trained.history["epoch"].tolist() == list(range(6))
    assert trained.history["member"].tolist() == [0, 0, 1, 1, 2, 2]
    assert "member" not in alone[0].history


@pytest.mark.parametrize("road", ["exact", "dense"])
def test_patch_scores_are_the_means_of_the_members_and_come_back_from_disk(
    tmp_path: Path, parts: dict[str, Rois], patch_sets: dict[str, pd.DataFrame], road: str
) -> None:
    ensemble, *single = (
        train_tiny(parts, patch_sets, name, model__road=road).bundle
        for name in ("compact-baseline+compact-model2", "compact-baseline", "compact-model2")
    )
    images = parts["test"].images
    each = [RoiScorer.on(one, CPU).patch_scores(images) for one in single]
    seen = RoiScorer.on(ensemble, CPU).patch_scores(images)
    np.testing.assert_allclose(seen, np.mean(each, axis=0), atol=1e-6)
    save_bundle(ensemble, tmp_path)
    np.testing.assert_array_equal(RoiScorer.on(load_bundle(tmp_path), CPU).patch_scores(images), seen)


def test_a_member_that_is_certain_leaves_finite_scores() -> None:
    certain = [torch.tensor([[-400.0, 400.0]]), torch.tensor([[0.0, 0.0]])]
    logits = mean_logits(certain)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.softmax(dim=1), torch.tensor([[0.25, 0.75]]))


def test_validation_judges_the_whole_and_no_single_member(trained: TrainedSystem, parts: dict[str, Rois]) -> None:
    val, results = parts["val"], trained.bundle.results
    seen = score_part(trained.bundle, val, tiny_config()).scores[0]
    assert results["val_auc"] == auc(val.labels, seen)
    assert (results["n_epochs"], "epoch" in results) == (6, False)
    assert trained.bundle.stack is not None


def test_a_killed_ensemble_goes_on_with_the_member_that_was_training(
    tmp_path: Path, trained: TrainedSystem, parts: dict[str, Rois], patch_sets: dict[str, pd.DataFrame]
) -> None:
    def interrupt(record: EpochRecord) -> None:
        if record.epoch == 2:  # the first of the second member
            raise KeyboardInterrupt

    seen: list[int] = []
    fit = (SYSTEM, tiny_config(), parts["train"], parts["val"], patch_sets, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_system(*fit, on_epoch=interrupt)
    resumed = train_system(*fit, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [3, 4, 5]
    assert differing(weights_of(resumed.bundle.network), weights_of(trained.bundle.network)) == []


def test_the_grad_cam_of_an_ensemble_is_the_mean_of_its_members(trained: TrainedSystem, parts: dict[str, Rois]) -> None:
    bundle = trained.bundle
    (shown,) = explain(RoiScorer.on(bundle, CPU), parts["test"].images[:1])
    assert shown.block == "all"
    top, left = bundle.corners[0]
    size = bundle.size_px
    patch = torch.from_numpy(parts["test"].images[:1, top : top + size, left : left + size])[:, None].float()
    each = [patch_grad_cams(member, patch, "all")[0] for member in members(bundle).classifiers]
    # No other patch of this grid covers the corner's first pixels.
    np.testing.assert_allclose(shown.grad_cam[:20, :20], np.mean(each, axis=0)[:20, :20], atol=1e-6)
