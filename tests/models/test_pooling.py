"""Pooled blocks against the fusions' own way over the maps, and windows of maps against means over pixels."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mammo.models.backbones import BLOCKS
from mammo.models.build import Architecture, Classifier
from mammo.models.fusion import MODEL2_POOLS
from mammo.models.pooling import flatten, pool_patches, pool_windows, unflatten
from tests.settings import tiny_model

SYSTEMS = ("compact-baseline", "compact-model1", "compact-model2", "vgg16-model2", "resnet50-model2")


def classifier_of(system: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(Architecture.of(system, tiny_model(preprocessing="samplewise_center")))


def grey(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("system", SYSTEMS)
def test_pooled_blocks_give_the_logits_of_the_maps_in_evaluation_and_in_training(system: str) -> None:
    classifier = classifier_of(system).eval()
    with torch.no_grad():
        features = classifier.blocks(grey(5, 1, 72, 72))
        parts = pool_patches(features)
        for mode in (False, True):
            logits = classifier.train(mode).classify_pooled(parts)
            torch.testing.assert_close(logits, classifier.classify(features), atol=1e-4, rtol=1e-4)


def test_training_moves_the_statistics_of_model2_as_over_the_maps() -> None:
    by_maps, by_parts = classifier_of("compact-model2"), classifier_of("compact-model2")
    with torch.no_grad():
        features = by_maps.eval().blocks(grey(40, 1, 72, 72))
        for _ in range(3):
            by_maps.train().classify(features)
            by_parts.train().classify_pooled(pool_patches(features))
    for (name, expected), found in zip(by_maps.fusion.named_buffers(), by_parts.fusion.buffers(), strict=True):
        if "running" in name:  # PyTorch's variance is the unbiased one: of block 5 over 160 pixels
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-2)


def test_kept_parts_are_the_parts_to_half_precision() -> None:
    parts = [torch.rand(3, 6, width) * 900 for width in (4, 7)]
    again = unflatten(flatten(parts), (4, 7), (4, 4))
    for part, back in zip(parts, again, strict=True):
        torch.testing.assert_close(back, part, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("size_px", [72, 96])
def test_windows_are_means_over_the_pixels_that_they_cover(size_px: int) -> None:
    # Whole numbers of map pixels in blocks 1 and 2; in the deeper ones windows cut pixels.
    tops, lefts = torch.tensor([[0, 12], [24, 4]]), torch.tensor([[8, 24], [0, 16]])
    features = {name: grey(2, 3, 128 // 2**k, 128 // 2**k) for k, name in enumerate(BLOCKS, start=1)}
    parts = pool_windows(features, tops, lefts, size_px)
    for level, (name, pool, part) in enumerate(zip(BLOCKS, MODEL2_POOLS, parts, strict=True), start=1):
        pixels = np.kron(features[name].numpy().astype(float), np.ones((2**level, 2**level)))
        n_along, cell_px = size_px // 2**level // pool, pool * 2**level
        for roi, (row, column) in itertools.product(range(2), itertools.product(range(2), range(2))):
            top, left = int(tops[roi, row]), int(lefts[roi, column])
            window = pixels[roi, :, top : top + size_px, left : left + size_px]
            cells = [
                window[:, y : y + cell_px, x : x + cell_px].mean(axis=(1, 2))
                for y, x in itertools.product(range(0, n_along * cell_px, cell_px), repeat=2)
            ]
            expected = np.stack([window.mean(axis=(1, 2)), (window**2).mean(axis=(1, 2)), *cells])
            np.testing.assert_allclose(part[roi, 2 * row + column], expected, rtol=1e-4)


def test_means_of_some_blocks_are_the_first_row_of_their_parts() -> None:
    features = {name: grey(2, 3, 128 // 2**k, 128 // 2**k) for k, name in enumerate(BLOCKS, start=1)}
    corners = torch.tensor([[0, 12], [24, 4]])
    whole = pool_windows(features, corners, corners, 72)
    last_two = {name: features[name] for name in BLOCKS[-2:]}
    for means, part in zip(pool_windows(last_two, corners, corners, 72, means_only=True), whole[-2:], strict=True):
        torch.testing.assert_close(means, part[:, :, :1])


def test_a_window_over_the_edge_of_the_last_map_is_the_mean_of_what_is_there() -> None:
    # A ROI of 120 pixels has 3 pixels of 32 in block 5: those from 96 on have no map.
    features = {name: grey(1, 2, 120 // 2**k, 120 // 2**k) for k, name in enumerate(BLOCKS, start=1)}
    last = pool_windows(features, torch.tensor([[48]]), torch.tensor([[48]]), 72)[-1]
    expected = np.kron(features["block5"].numpy(), np.ones((32, 32)))[0, :, 48:96, 48:96].mean(axis=(1, 2))
    np.testing.assert_allclose(last[0, 0, 0], expected, rtol=1e-5)
