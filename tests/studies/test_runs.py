"""From kept patch scores to runs, on scores made by hand."""

import numpy as np
import pytest

from mammo.core.config import VoteConfig
from mammo.data.splits import grouped_folds
from mammo.evaluation.baselines import floor_scores
from mammo.studies.fits import Fit, PartScores
from mammo.studies.runs import Placed, chosen_by_validation, ensemble, floor_runs, runs_of
from tests.settings import section
from tests.studies.tiny_studies import tiny_config, tiny_rois

MAJORITY = section(VoteConfig, threshold="fixed")


def made_fit(roi_ids: list[str], scores: list[list[float]], val_loss: float = 0.5) -> Fit:
    part = PartScores(tuple(roi_ids), np.array([int(r[-1]) % 2 for r in roi_ids]), np.array(scores))
    return Fit({"val_loss": val_loss, "val_auc": 0.7}, part, part)


def placed_at(repeat: int, fold: int, seed: int, fit: Fit) -> Placed:
    return Placed(repeat, fold, seed, fit, MAJORITY)


ROIS = tiny_rois()
GROUP_OF: dict[str, str] = dict(zip(ROIS.table["roi_id"], ROIS.groups, strict=True))
A, B, C, D = sorted(GROUP_OF)[:4]


def test_each_roi_is_judged_by_the_fold_that_held_it_out() -> None:
    placed = [
        placed_at(0, 1, 0, made_fit([D, A], [[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])),
        placed_at(0, 0, 0, made_fit([C, B], [[0.6, 0.1, 0.1], [0.7, 0.7, 0.1]])),
    ]
    runs = runs_of(placed, ROIS)
    assert runs.roi_ids.tolist() == [A, B, C, D]
    assert runs.folds.tolist() == [[1, 0, 0, 1]]
    np.testing.assert_allclose(runs.scores, [[0.3, 0.5, 0.8 / 3, 0.6]])
    np.testing.assert_allclose(runs.shares, [[0, 2 / 3, 1 / 3, 2 / 3]])
    assert runs.decisions.tolist() == [[0, 1, 0, 1]]
    assert runs.labels.tolist() == [int(r[-1]) % 2 for r in (A, B, C, D)]
    assert runs.groups.tolist() == [GROUP_OF[r] for r in (A, B, C, D)]


def test_every_seed_of_every_repeat_is_a_run() -> None:
    placed = [
        placed_at(repeat, 0, seed, made_fit([A, B], [[0.1 * repeat], [0.01 * seed]]))
        for repeat in range(2)
        for seed in range(3)
    ]
    runs = runs_of(placed, ROIS)
    assert runs.scores[:, 0].tolist() == pytest.approx([0, 0, 0, 0.1, 0.1, 0.1])
    assert runs.scores[:, 1].tolist() == pytest.approx([0, 0.01, 0.02, 0, 0.01, 0.02])


def test_an_ensemble_averages_patch_scores_before_it_votes() -> None:
    seeds = [[[0.9, 0.2, 0.4]], [[0.3, 0.9, 0.4]], [[0.4, 0.6, 0.4]]]
    placed = [placed_at(0, 0, seed, made_fit([A], scores)) for seed, scores in enumerate(seeds)]
    (mean,) = ensemble(placed)
    np.testing.assert_allclose(mean.fit.test.patch_scores, [[1.6 / 3, 1.7 / 3, 0.4]])
    np.testing.assert_allclose(mean.fit.val.patch_scores, [[1.6 / 3, 1.7 / 3, 0.4]])
    assert runs_of([mean], ROIS).decisions.tolist() == [[1]]
    # One seed alone says Tumor: the majority of the seeds' votes would have been Normal.
    assert [int(runs_of([one], ROIS).decisions[0, 0]) for one in placed] == [0, 0, 0]


def test_the_threshold_is_fitted_to_the_validation_part_of_the_same_fit() -> None:
    quiet = np.array([[0.4, 0.4], [0.4, 0.4], [0.1, 0.1], [0.1, 0.1]])
    val = PartScores(("v1", "v2", "v3", "v4"), np.array([1, 1, 0, 0]), quiet)
    test = PartScores((A, B), np.array([1, 0]), np.array([[0.3, 0.3], [0.2, 0.2]]))
    fitted, fixed = (
        section(VoteConfig, rule="mean_score", threshold=threshold) for threshold in ("validation", "fixed")
    )
    # The middle of 0.1 and 0.4 lies between the two held-out ROIs; 0.5 lies above both.
    assert runs_of([Placed(0, 0, 0, Fit({}, val, test), fitted)], ROIS).decisions.tolist() == [[1, 0]]
    assert runs_of([Placed(0, 0, 0, Fit({}, val, test), fixed)], ROIS).decisions.tolist() == [[0, 0]]


def test_the_choice_of_a_system_is_made_in_each_fold_by_its_own_validation() -> None:
    systems = {
        "a": [
            placed_at(0, 0, 0, made_fit([A], [[0.1]], 0.4)),
            placed_at(0, 1, 0, made_fit([B], [[0.1]], 0.6)),
        ],
        "b": [
            placed_at(0, 0, 0, made_fit([A], [[0.8]], 0.5)),
            placed_at(0, 1, 0, made_fit([B], [[0.8]], 0.5)),
        ],
    }
    chosen = chosen_by_validation(systems, "val_loss")
    assert runs_of(chosen, ROIS).scores.tolist() == [[0.1, 0.8]]


def test_the_floor_is_fitted_in_each_fold_on_its_training_part_alone() -> None:
    folds = grouped_folds(ROIS, tiny_config().ledger)
    for fold, placed in zip(folds, floor_runs(folds), strict=True):
        train, test = fold.rois.part("train"), fold.rois.part("test")
        expected = floor_scores(train.images, train.labels, test.images)
        np.testing.assert_allclose(placed.fit.test.patch_scores[:, 0], expected)
