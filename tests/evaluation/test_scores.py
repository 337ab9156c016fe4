"""Metrics against hand counts, brute force and scikit-learn; judgements of runs: what is refused, how folds join."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mammo.core.errors import DataError
from mammo.evaluation.metrics import Confusion, auc, confusion
from mammo.evaluation.scores import Scores, auc_within_folds, read_predictions, run_values
from tests.evaluation.made_scores import made, some_runs


def single(ids: str, scores: list[list[float]], fold: int = 0) -> Scores:
    patches = np.array(scores)
    called = (patches.mean(axis=1) > 0.5).astype(np.int64)
    labels = np.array([ord(one) % 2 for one in ids])
    one = Scores.single(np.array(list(ids)), labels, np.array(list(ids)), patches, called * 1.0, called)
    return replace(one, folds=np.full((1, len(ids)), fold))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"groups": np.array(["a", "b"])}, "groups must have one value for each of the 3 ROIs"),
        ({"decisions": np.array([[0, 1]])}, "decisions must have one value for each of the 3 ROIs"),
        ({"patch_scores": np.full((1, 3, 2), np.nan)}, "scores must be numbers, got NaN for 3 of 3"),
        ({"patch_scores": np.zeros((1, 4, 2))}, "scores must have one value for each of the 3 ROIs"),
    ],
)
def test_arrays_that_do_not_describe_the_same_rois_are_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        replace(made([0, 1, 1], [0, 1, 1]), **change)


def test_folds_become_a_run_in_the_order_of_the_ids_and_runs_are_stacked() -> None:
    runs = [
        [single("db", [[0.9, 0.7], [0.1, 0.1]], fold=1), single("ca", [[0.2, 0.4], [0.6, 0.6]])],
        [single("ac", [[0.5, 0.7], [0.1, 0.3]], fold=2), single("bd", [[0.4, 0.4], [1.0, 1.0]])],
    ]
    found = Scores.of_runs(runs)
    assert found.roi_ids.tolist() == found.groups.tolist() == ["a", "b", "c", "d"]
    assert found.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(found.scores, [[0.6, 0.1, 0.3, 0.8], [0.6, 0.4, 0.2, 1.0]])
    assert found.folds.tolist() == [[0, 1, 0, 1], [2, 0, 2, 0]]
    assert found.decisions.tolist() == [[1, 0, 0, 1], [1, 0, 0, 1]]
    assert found.only(np.array(["d", "b"])).scores.tolist() == [[0.1, 0.8], [0.4, 1.0]]


def test_ids_of_digits_are_read_as_the_text_that_they_are(tmp_path: Path) -> None:
    header = "system,roi_id,group_id,label,decision,vote_share,score,probability"
    rows = ("mine,000002,07,Tumor,Normal,0.25,0.4,", "mine,000001,07,Normal,Tumor,1.0,0.9,0.8")
    (tmp_path / "predictions.csv").write_text("\n".join((header, *rows)))
    found = Scores.of_predictions(read_predictions(tmp_path / "predictions.csv"))
    assert (found.roi_ids.tolist(), found.groups.tolist()) == (["000002", "000001"], ["07", "07"])
    assert (found.labels.tolist(), found.decisions.tolist()) == ([1, 0], [[0, 1]])
    assert (found.scores.tolist(), found.shares.tolist()) == ([[0.4, 0.9]], [[0.25, 1.0]])
    assert found.probabilities is not None
    np.testing.assert_array_equal(found.probabilities, [[np.nan, 0.8]])


def test_folds_of_other_grids_keep_their_mean_scores() -> None:
    found = Scores.of_runs([[single("a", [[0.2, 0.4, 0.6]]), single("b", [[0.5, 0.7]])]])
    np.testing.assert_allclose(found.patch_scores, [[[0.4], [0.6]]])


def test_a_patch_has_the_label_group_and_fold_of_its_roi() -> None:
    patches = single("ab", [[0.2, 0.6, 0.7], [0.5, 0.4, 0.9]], fold=3).by_patch(0.5)
    assert patches.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert patches.groups.tolist() == list("aaabbb")
    assert patches.folds.tolist() == [[3] * 6]
    assert patches.scores.tolist() == [[0.2, 0.6, 0.7, 0.5, 0.4, 0.9]]
    assert patches.decisions.tolist() == [[0, 1, 1, 0, 0, 1]]
    assert len(set(patches.roi_ids)) == 6


def brute_auc(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    won = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in np.flatnonzero(labels == 1)
        for j in np.flatnonzero(labels == 0)
        if folds[i] == folds[j]
    ]
    return float(np.mean(won))


def test_an_auc_counts_the_pairs_of_one_fold_alone_and_each_roi_as_often_as_its_weight_says() -> None:
    runs = some_runs()
    weights = np.random.default_rng(1).integers(0, 3, (3, 60))
    weights[0] = 1
    for metric, evidence in (("auc_score", runs.scores), ("auc_vote_share", runs.shares)):
        found = run_values(runs, metric, weights.astype(float))
        for run, (scores, folds) in enumerate(zip(evidence, runs.folds, strict=True)):
            repeated = [np.repeat(np.arange(60), row) for row in weights]
            expected = [brute_auc(runs.labels[rows], scores[rows], folds[rows]) for rows in repeated]
            assert found[run] == pytest.approx(expected), metric


def test_a_fold_of_one_class_gives_no_pairs_and_no_pairs_no_auc() -> None:
    labels, scores, ones = np.array([0, 1, 1]), np.array([0.1, 0.9, 0.2]), np.ones((1, 3))
    assert auc_within_folds(labels, scores, np.array([0, 0, 1]), ones)[0] == 1.0
    assert np.isnan(auc_within_folds(labels, scores, np.array([0, 1, 1]), ones)[0])


def test_trials_are_the_successes_among_the_metrics_own_rois() -> None:
    table = Confusion(tp=2, fn=1, fp=5, tn=4)
    trials = {"accuracy": (6, 12), "recall": (2, 3), "specificity": (4, 9), "precision": (2, 7)}
    assert {name: table.trials(name) for name in trials} == trials


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_the_rates_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, decisions = np.array(pairs).T
    values = confusion(labels, decisions).metrics()
    undefined = {"zero_division": np.nan}
    for name, reference in {
        "accuracy": sk.accuracy_score(labels, decisions),
        "recall": sk.recall_score(labels, decisions, **undefined),
        "specificity": sk.recall_score(labels, decisions, pos_label=0, **undefined),
        "precision": sk.precision_score(labels, decisions, **undefined),
        "f1": sk.f1_score(labels, decisions, **undefined),
        "balanced_accuracy": (values["recall"] + values["specificity"]) / 2,
    }.items():
        assert values[name] == pytest.approx(reference, nan_ok=True), name


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_the_auc_is_the_share_of_pairs_that_the_tumor_roi_wins(pairs: list[tuple[int, int]]) -> None:
    labels, scores = np.array(pairs).T
    if 0 < labels.sum() < len(labels):
        assert auc(labels, scores / 6) == pytest.approx(brute_auc(labels, scores, 0 * labels))
    else:
        assert math.isnan(auc(labels, scores / 6))


def test_undefined_metrics_are_nan_and_never_zero() -> None:
    no_tumor = Confusion(tp=0, fn=0, fp=0, tn=3).metrics()
    undefined = {name for name, value in no_tumor.items() if math.isnan(value)}
    assert undefined == {"recall", "precision", "f1", "balanced_accuracy"}
    assert math.isnan(auc(np.array([1, 1]), np.array([0.2, 0.3])))
    assert math.isnan(auc(np.array([], dtype=int), np.array([])))
