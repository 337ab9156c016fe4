"""Slices, against counts by hand and scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammo.evaluation.slices import slices_of
from tests.evaluation.made_scores import HOW, made, some_runs

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0])
SCORES = np.array([0.9, 0.3, 0.8, 0.6, 0.1, 0.4, 0.7, 0.2])
DECIDED = made(LABELS, [1, 0, 1, 1, 0, 0, 1, 0], SCORES)


def judged(values: Sequence[str | None], names: list[str], *, of_lesions: bool) -> dict[str, Any]:
    found = slices_of(DECIDED, np.array(values, dtype=object), names, of_lesions=of_lesions, **HOW)
    assert [one["value"] for one in found] == names
    return {one["value"]: one for one in found}


def test_a_tissue_has_every_metric_of_its_own_rois() -> None:
    found = judged(["F", "F", "F", "G", "F", "F", "F", "G"], ["F", "G", "D"], of_lesions=False)
    fatty = found["F"]["metrics"]
    assert (found["F"]["n_tumor"], found["F"]["n_normal"]) == (3, 3)
    assert fatty["accuracy"]["value"] == pytest.approx(4 / 6)
    assert fatty["recall"]["value"] == pytest.approx(2 / 3)
    assert fatty["specificity"]["value"] == pytest.approx(2 / 3)
    inside = [0, 1, 2, 4, 5, 6]
    assert fatty["auc_score"]["value"] == pytest.approx(roc_auc_score(LABELS[inside], SCORES[inside]))
    assert fatty["recall"]["n"] == 3
    assert fatty["recall"]["ci_low"] < 2 / 3 < fatty["recall"]["ci_high"]


@pytest.mark.parametrize("of_lesions", [False, True])
def test_an_empty_slice_is_undefined_and_never_zero(of_lesions: bool) -> None:
    dense = judged([None] * 8, ["D"], of_lesions=of_lesions)["D"]
    assert (dense["n_tumor"], dense["n_normal"]) == (0, 0)
    assert {value["value"] for value in dense["metrics"].values()} == {None}


def test_a_kind_of_lesion_is_ranked_against_all_normal_rois() -> None:
    found = judged(["CIRC"] * 2 + ["SPIC"] * 2 + ["NORM"] * 4, ["CIRC", "SPIC"], of_lesions=True)["CIRC"]
    ranked = [0, 1, 4, 5, 6, 7]
    assert set(found["metrics"]) == {"recall", "auc_score"}
    assert found["metrics"]["recall"]["value"] == 0.5
    assert found["metrics"]["auc_score"]["value"] == pytest.approx(roc_auc_score(LABELS[ranked], SCORES[ranked]))
    assert (found["n_tumor"], found["n_normal"]) == (2, 0)


def test_over_several_runs_a_slice_has_the_mean_of_what_each_run_says() -> None:
    runs = some_runs(n_runs=3)
    values = np.where(np.arange(60) % 2, "F", "G").astype(object)
    (fatty,) = slices_of(runs, values, ["F"], of_lesions=False, **HOW)
    inside = values == "F"
    tumor = inside & (runs.labels == 1)
    assert fatty["metrics"]["recall"]["value"] == pytest.approx(np.mean([one[tumor].mean() for one in runs.decisions]))
    assert fatty["metrics"]["accuracy"]["n"] == inside.sum() == 30
    assert fatty["metrics"]["recall"]["sd_runs"] == pytest.approx(
        np.std([one[tumor].mean() for one in runs.decisions], ddof=1)
    )
