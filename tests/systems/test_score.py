"""Scores of patches and ROIs against one patch at a time, cut by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mammo.core.config import VoteConfig
from mammo.data.rois import Rois
from mammo.models.build import Classifier, Network
from mammo.models.bundle import Bundle, load_bundle, save_bundle
from mammo.systems.score import RoiScorer, grid_batch, patch_logits, tumor_scores
from tests.settings import section
from tests.tiny_fits import CPU, SETTINGS, new_classifier

SIZE_PX, STRIDE_PX = 40, 40
GRID = [(top, left) for top in (0, 40, 80) for left in (0, 40, 80)]


@pytest.fixture
def classifier() -> Classifier:
    return new_classifier().eval()


def scorer_of(network: Network, **vote: Any) -> RoiScorer:
    return RoiScorer.on(Bundle(network, SIZE_PX, STRIDE_PX, section(VoteConfig, **vote)), CPU, "float32")


@pytest.fixture
def scorer(classifier: Classifier) -> RoiScorer:
    return scorer_of(classifier)


def test_the_grids_follow_each_other_row_by_row() -> None:
    batch = grid_batch(2, SETTINGS, CPU)
    rows = torch.stack([batch.roi, batch.top, batch.left, batch.size], dim=1).tolist()
    assert rows == [[roi, top, left, SIZE_PX] for roi in (0, 1) for top, left in GRID]


def test_tumor_scores_are_the_softmax_of_the_second_logit() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (4, 5, 2))
    np.testing.assert_allclose(tumor_scores(torch.from_numpy(logits)), softmax(logits, axis=-1)[..., 1])


@pytest.mark.parametrize("batch_size", [1, 7, 18, 256])
def test_logits_do_not_depend_on_the_size_of_the_batches(
    classifier: Classifier, disc_set: Rois, batch_size: int
) -> None:
    images = torch.from_numpy(disc_set.images[:2])
    patches = [images[None, None, roi, y : y + 40, x : x + 40].float() for roi in (0, 1) for y, x in GRID]
    with torch.no_grad():
        one_by_one = torch.cat([classifier(patch) for patch in patches])
    grid = grid_batch(2, SETTINGS, CPU)
    logits = patch_logits(classifier, images, grid, SIZE_PX, "float32", batch_size)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, one_by_one, atol=1e-5, rtol=1e-5)


def test_a_rois_scores_do_not_depend_on_its_neighbours_nor_on_a_classifier_left_in_training(
    classifier: Classifier, disc_set: Rois
) -> None:
    scorer = scorer_of(classifier.train())
    together, every_second = (scorer.patch_scores(disc_set.images[::step]) for step in (1, 2))
    alone = scorer.patch_scores(disc_set.images[10:11])
    assert together.shape == (18, 9)
    np.testing.assert_allclose(together[10:11], alone, atol=1e-6)
    np.testing.assert_allclose(together[::2], every_second, atol=1e-6)


def test_votes_use_the_bundles_own_rule(scorer: RoiScorer, disc_set: Rois) -> None:
    scores = scorer.patch_scores(disc_set.images[:3])
    threshold = float(np.median(scores))
    strict = scorer_of(scorer.bundle.network, patch_threshold=threshold, share_threshold=0.0, tie="normal")
    votes = strict.votes(disc_set.images[:3])
    assert [list(vote.votes) for vote in votes] == (scores > threshold).astype(int).tolist()
    assert [vote.label == "Tumor" for vote in votes] == (scores > threshold).any(axis=1).tolist()


def test_no_rois_give_no_logits_no_scores_and_no_votes(scorer: RoiScorer) -> None:
    none = np.empty((0, 120, 120), dtype=np.uint8)
    grid = grid_batch(0, SETTINGS, CPU)
    assert patch_logits(scorer.bundle.network, torch.from_numpy(none), grid, SIZE_PX).shape == (0, 2)
    assert scorer.patch_scores(none).shape == (0, 9)
    assert scorer.votes(none) == []


def test_eight_views_are_the_mean_over_the_turns_and_mirror_images_of_each_patch(
    classifier: Classifier, disc_set: Rois
) -> None:
    image = disc_set.images[11]
    patches = [image[top : top + 40, left : left + 40].astype(np.float32) for top, left in GRID]
    quarters = [np.rot90(one, turns) for one in patches for turns in range(4)]
    views = np.stack([view for one in quarters for view in (one, np.fliplr(one))])
    with torch.no_grad():
        logits = classifier(torch.from_numpy(views)[:, None])
    expected = softmax(logits.double().numpy(), axis=-1)[:, 1].reshape(9, 8).mean(axis=1)
    scorer = scorer_of(classifier, views=8)
    np.testing.assert_allclose(scorer.patch_scores(image[None])[0], expected, atol=1e-6)
    upright, turned, mirrored = (
        scorer.patch_scores(np.ascontiguousarray(one)[None]).reshape(3, 3)
        for one in (image, np.rot90(image), np.fliplr(image))
    )
    np.testing.assert_allclose(turned, np.rot90(upright), atol=1e-6)
    np.testing.assert_allclose(mirrored, np.fliplr(upright), atol=1e-6)


def test_a_bundle_votes_with_the_patches_it_was_trained_for(
    tmp_path: Path, classifier: Classifier, disc_set: Rois
) -> None:
    every = Bundle(classifier, size_px=72, stride_px=12, vote=section(VoteConfig))
    save_bundle(replace(every, corner_patches=False), tmp_path)
    images = disc_set.images[:3]
    scores = RoiScorer.on(load_bundle(tmp_path), CPU, "float32").patch_scores(images)
    of_every = RoiScorer.on(every, CPU, "float32").patch_scores(images).reshape(3, 5, 5)
    np.testing.assert_allclose(scores.reshape(3, 3, 3), of_every[:, 1:4, 1:4], atol=1e-6)
