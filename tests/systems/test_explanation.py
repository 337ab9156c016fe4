"""Vote map and Grad-CAM, against maps made pixel by pixel and gradients taken by hand."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mammo.core.config import VoteConfig
from mammo.core.systems import FUSIONS
from mammo.data.patches import grid_corners
from mammo.evaluation.baselines import STATISTICS
from mammo.evaluation.calibration import NO_CALIBRATION
from mammo.evaluation.stacking import Scale, Stack
from mammo.models.backbones import BLOCKS
from mammo.models.build import Classifier, build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.explanation import (
    default_block,
    explain,
    mean_over_roi,
    network_grad_cams,
    patch_grad_cams,
)
from mammo.systems.score import RoiScorer
from tests.settings import section, tiny_model
from tests.tiny_fits import CPU


def classifier_of(system: str) -> Classifier:
    """Untrained, but with statistics of its own in every normalisation, in evaluation mode."""
    classifier = build_classifier(system, tiny_model(), seed=1)
    with torch.no_grad():
        classifier.train()(patches_of(16))
    return classifier.eval()


def patches_of(n: int, side: int = 64) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(3)) * 255


def scorer_of(system: str, size_px: int = 48, stride_px: int = 36) -> RoiScorer:
    return RoiScorer.on(Bundle(classifier_of(system), size_px, stride_px, section(VoteConfig)), CPU, "float32")


def images_of(n: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 120, 120), dtype=np.uint8)


def hand_made(gradient: Tensor, features: Tensor, side: int) -> npt.NDArray[np.float64]:
    """Eq. 1 and 2 of Selvaraju et al. without the ReLU, as a contribution of the whole patch."""
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (weights * features).sum(dim=1, keepdim=True) * features.shape[2] * features.shape[3]
    upsampled = torch.nn.functional.interpolate(cam, (side, side), mode="bilinear", align_corners=False)
    made: npt.NDArray[np.float64] = upsampled[:, 0].detach().double().numpy()
    return made


def evidence(logits: Tensor) -> Tensor:
    return (logits[:, 1] - logits[:, 0]).sum()


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 12), stride=st.integers(1, 12), side=st.integers(12, 16), seed=st.integers(0, 1000))
def test_a_pixel_shows_the_mean_of_the_patches_that_cover_it(size: int, stride: int, side: int, seed: int) -> None:
    corners = grid_corners(size, stride, side)
    values = np.random.default_rng(seed).normal(size=(len(corners), size, size))
    if seed % 2:  # one score for every pixel of its patch
        values = np.broadcast_to(values[:, :1, :1], values.shape)
    mean, count = mean_over_roi(values[:, :1, :1] if seed % 2 else values, corners, size, side)
    for row in range(side):
        for column in range(side):
            over = [
                value[row - top, column - left]
                for value, (top, left) in zip(values, corners, strict=True)
                if top <= row < top + size and left <= column < left + size
            ]
            assert count[row, column] == len(over)
            if over:
                assert mean[row, column] == pytest.approx(np.mean(over))
            else:
                assert np.isnan(mean[row, column])


def test_the_vote_map_rests_on_the_scores_that_vote() -> None:
    scorer = scorer_of("compact-model1")
    images = images_of(2)
    for explained, vote in zip(explain(scorer, images), scorer.votes(images), strict=True):
        assert explained.vote == vote
        top, left = explained.corners[0]
        assert explained.coverage[top, left] == 1
        assert explained.vote_map[top, left] == pytest.approx(vote.patch_scores[0])
        assert explained.vote_map.shape == explained.grad_cam.shape == (120, 120)
        assert (np.isnan(explained.vote_map) == (explained.coverage == 0)).all()
        assert (np.isnan(explained.grad_cam) == (explained.coverage == 0)).all()


def test_a_grid_without_corner_patches_is_explained_patch_by_patch() -> None:
    whole = scorer_of("compact-model1", 48, 12)
    inner = RoiScorer.on(Bundle(whole.bundle.network, 48, 12, section(VoteConfig), corner_patches=False), CPU)

    (explained,) = explain(inner, images_of(1))

    assert len(explained.corners) == len(explained.vote.patch_scores) < len(whole.bundle.corners)
    assert explained.coverage[0, 0] == 0


NAMED = [(f"compact-{fusion}", block, f"blocks.{block}", 64) for fusion in FUSIONS for block in BLOCKS]
# Blocks of a torchvision network are nodes of a traced graph.
NAMED += [("mobilenet_v2-model1", "block1", "features.1.conv.2", 32)]
NAMED += [("mobilenet_v2-model1", "block5", "features.18.2", 32)]


@pytest.mark.parametrize(("system", "block", "module", "side"), NAMED)
def test_grad_cam_of_a_block_holds_every_way_from_it_to_the_head(
    system: str, block: str, module: str, side: int
) -> None:
    classifier, patches, kept = classifier_of(system), patches_of(2, side), []

    def keep(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = classifier.backbone.get_submodule(module).register_forward_hook(keep)
    evidence(classifier(patches)).backward()
    handle.remove()
    assert kept[0].grad is not None
    expected = hand_made(kept[0].grad, kept[0], side)
    largest = np.abs(expected).max()
    assert largest > 0
    found = patch_grad_cams(classifier, patches, block)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_all_blocks_add_up_each_by_its_own_way(fusion: str) -> None:
    """Against gradients of the head and fusion with respect to the blocks as separate inputs."""
    classifier = classifier_of(f"compact-{fusion}")
    patches = patches_of(3)
    with torch.no_grad():
        features = classifier.blocks(patches)
    inputs = {name: value.clone().requires_grad_() for name, value in features.items()}
    gradients = torch.autograd.grad(evidence(classifier.classify(inputs)), list(inputs.values()), allow_unused=True)
    expected = sum(
        hand_made(gradient, inputs[name], side=64)
        for name, gradient in zip(inputs, gradients, strict=True)
        if gradient is not None
    )
    np.testing.assert_allclose(patch_grad_cams(classifier, patches, "all"), expected, rtol=1e-4, atol=1e-6)


def test_agreement_counts_the_patches_whose_map_has_the_sign_of_their_logit() -> None:
    scorer = scorer_of("compact-model1", size_px=72, stride_px=12)
    explained = explain(scorer, images_of(1))[0]
    pixels = [images_of(1)[0, top : top + 72, left : left + 72] for top, left in explained.corners]
    patches = torch.from_numpy(np.stack(pixels)).unsqueeze(1).float()
    means = network_grad_cams(scorer.bundle.network, patches, "all").mean(axis=(1, 2))
    with torch.no_grad():
        logits = scorer.bundle.network(patches)
    fits = [(mean > 0) == (tumor > normal) for mean, (normal, tumor) in zip(means, logits, strict=True)]
    assert explained.n_agreeing == sum(fits)
    scale = Scale(mean=0.0, sd=1.0)
    for evidence in (-100.0, 100.0):  # of the floor, which outvotes every patch
        stack = Stack(
            weights=(0.0,) * len(STATISTICS),
            intercept=evidence,
            network=scale,
            floor=scale,
            calibrator=NO_CALIBRATION,
        )
        with_floor = replace(scorer, bundle=replace(scorer.bundle, stack=stack))
        (decided,) = explain(with_floor, images_of(1))
        assert {score > 0.5 for score in decided.vote.patch_scores} == {evidence > 0}
        assert decided.n_agreeing == explained.n_agreeing


def test_the_default_is_what_the_head_sees() -> None:
    assert default_block("compact-baseline") == "block5"
    assert default_block("vgg19-model2") == "all"
    classifier = classifier_of("compact-baseline")
    patches = patches_of(2)
    np.testing.assert_allclose(
        patch_grad_cams(classifier, patches, "block5"), patch_grad_cams(classifier, patches, "all"), rtol=1e-5
    )


def test_explaining_leaves_the_network_as_it_was() -> None:
    scorer = scorer_of("compact-model2")
    images = images_of(1)
    before = scorer.patch_scores(images)
    explain(scorer, images, "block2")
    np.testing.assert_array_equal(scorer.patch_scores(images), before)
    assert all(parameter.grad is None for parameter in scorer.bundle.network.parameters())


@pytest.mark.parametrize("block", ["block3", "all"])
def test_a_frozen_network_is_explained_all_the_same_in_several_passes(block: str) -> None:
    classifier, patches = classifier_of("compact-model1"), patches_of(70, side=32)
    free = patch_grad_cams(classifier, patches, block)
    classifier.requires_grad_(False)
    np.testing.assert_allclose(patch_grad_cams(classifier, patches, block), free)
    np.testing.assert_allclose(patch_grad_cams(classifier, patches[68:], block), free[68:], atol=1e-5)
