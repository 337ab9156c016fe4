"""The floor beside a network: against scikit-learn, by hand, and what it may not change."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import zscore

from mammo.core.errors import DataError
from mammo.evaluation.baselines import fit_floor, floor_scores, floor_statistics
from mammo.evaluation.stacking import Stack, fit_stack
from tests.disc_rois import disc_rois

TRAIN, VAL, TEST = (disc_rois(9, 8, seed=seed) for seed in (0, 1, 2))
SCORES = np.random.default_rng(0).uniform(0.05, 0.95, (17, 4))


@pytest.fixture(scope="module")
def stack() -> Stack:
    return fit_stack(TRAIN.images, TRAIN.labels, VAL.images, VAL.labels, SCORES)


def test_the_floors_weights_are_its_logit() -> None:
    weights, intercept = fit_floor(TRAIN.images, TRAIN.labels)
    expected = floor_scores(TRAIN.images, TRAIN.labels, TEST.images)
    np.testing.assert_allclose(expit(floor_statistics(TEST.images) @ weights + intercept), expected, rtol=1e-6)


def test_on_validation_the_score_is_the_sum_of_the_z_scores_calibrated(stack: Stack) -> None:
    floor = zscore(logit(floor_scores(TRAIN.images, TRAIN.labels, VAL.images)))
    network = logit(SCORES)
    of_rois = network.mean(axis=1)
    summed = (network - of_rois.mean()) / of_rois.std() + floor[:, None]
    expected = expit(stack.calibrator.slope * summed + stack.calibrator.intercept)
    np.testing.assert_allclose(stack.apply(VAL.images, SCORES), expected, rtol=1e-5)


def test_patches_of_one_roi_keep_their_order_and_rois_do_not_see_each_other(stack: Stack) -> None:
    stacked = stack.apply(TEST.images, SCORES)
    np.testing.assert_array_equal(stacked.argsort(axis=1), SCORES.argsort(axis=1))
    alone = stack.apply(TEST.images[3:4], SCORES[3:4])
    np.testing.assert_allclose(alone[0], stacked[3], rtol=1e-12)


def test_a_network_that_says_the_same_of_every_roi_leaves_the_decision_to_the_floor() -> None:
    flat = np.full((17, 4), 0.6)
    stack = fit_stack(TRAIN.images, TRAIN.labels, VAL.images, VAL.labels, flat)
    floor = floor_scores(TRAIN.images, TRAIN.labels, TEST.images)
    np.testing.assert_array_equal(stack.apply(TEST.images, flat)[:, 0].argsort(), floor.argsort())


def test_a_part_of_one_class_is_refused() -> None:
    normal = TRAIN.only(TRAIN.labels == 0)
    with pytest.raises(DataError, match="both classes are needed"):
        fit_stack(normal.images, normal.labels, VAL.images, VAL.labels, SCORES)
