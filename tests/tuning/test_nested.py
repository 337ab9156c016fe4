"""The judgement of the tuning itself: what a study must not see judges what it chose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mammo.core.config import Config
from mammo.core.files import Workspace, read_json, read_table
from mammo.data.splits import development_rois
from mammo.evaluation.metrics import auc
from mammo.report.studies import write_study
from mammo.studies.fits import Fit, PartScores
from mammo.tuning.mlflow import log_nested
from mammo.tuning.nested import judged_alike, run_nested
from mammo.tuning.objective import held_out_value, nested_folds, trial_folds
from mammo.tuning.space import without_fold
from mammo.tuning.study import rois_mark, study_mark, study_name
from mammo.tuning.workers import Plan
from tests.tuning.conftest import make_workspace

Store = Callable[[Workspace], None]


def test_every_roi_is_held_out_from_one_study_and_the_test_part_from_all(
    workspace: tuple[Workspace, Config],
) -> None:
    space, config = workspace
    split = read_table(space.split).set_index("roi_id")
    group_of = split["group_id"].to_dict()
    rois = development_rois(space)
    held_out: list[str] = []
    for fold in nested_folds(rois, config.tune):
        seen = set(trial_folds(space, without_fold(config, fold.fold))[0].rois.table["roi_id"])
        mine = set(fold.rois.part("test").table["roi_id"])
        assert seen | mine == set(rois.table["roi_id"])
        assert not {group_of[roi] for roi in seen} & {group_of[roi] for roi in mine}
        assert set(split["split"].loc[sorted(seen)]) <= {"train", "val"}
        held_out += mine
    assert sorted(held_out) == sorted(rois.table["roi_id"])


def test_studies_of_different_folds_do_not_mix(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    all_of_them = [config, *(without_fold(config, fold) for fold in range(config.tune.nested_folds))]
    assert len({study_name(one) for one in all_of_them}) == len(all_of_them)
    materials = [trial_folds(space, one) for one in all_of_them]
    assert len({rois_mark(material) for material in materials}) == len(all_of_them)
    marks = [study_mark(one, material) for one, material in zip(all_of_them, materials, strict=True)]
    assert len(set(marks)) == len(all_of_them)


def test_the_threshold_of_a_held_out_value_comes_from_validation() -> None:
    vote = Config.load(Path(__file__).parents[2] / "params.yaml").vote
    val = PartScores(("a", "b"), np.array([0, 1]), np.array([[0.1, 0.9, 0.1, 0.1], [0.9, 0.9, 0.1, 0.9]]))
    test = PartScores(("c", "d"), np.array([0, 1]), np.array([[0.9, 0.1, 0.1, 0.9], [0.9, 0.9, 0.9, 0.9]]))
    fit = Fit({}, val, test)
    # Between a quarter and three quarters of the votes, which is half: a tied vote is not above it.
    assert held_out_value("accuracy", fit, vote.model_copy(update={"threshold": "validation"})) == 1.0
    low = vote.model_copy(update={"threshold": "fixed", "share_threshold": 0.25})
    assert held_out_value("accuracy", fit, low) == 0.5
    assert held_out_value("auc", fit, vote) == auc(test.labels, np.array([0.5, 1.0]))


def test_an_auc_of_mean_scores_is_compared_with_one_of_mean_scores() -> None:
    own = Config.load_own(Path(__file__).parents[2] / "params.yaml").vote
    by_score = own.model_copy(update={"rule": "mean_score", "tie": "normal"})
    nobody = PartScores((), np.zeros(0, dtype=np.int64), np.zeros((0, 2)))
    # One vote of two each, so that the shares are tied; the mean scores 0.45 and 0.60 are not.
    test = PartScores(("a", "b"), np.array([0, 1]), np.array([[0.2, 0.7], [0.3, 0.9]]))
    fit = Fit({}, nobody, test)
    assert held_out_value("auc", fit, own) == 0.5
    assert held_out_value("auc", fit, judged_alike("auc", own, by_score)) == 1.0
    assert judged_alike("auc", by_score, own).rule == "majority"
    assert judged_alike("accuracy", own, by_score) == own


@pytest.mark.slow
def test_nested_studies_judge_their_choices_and_go_on_where_they_were(tmp_path: Path, store_of: Store) -> None:
    from mammo.track.store import connect

    space, config = make_workspace(tmp_path / "space", nested_folds=3, nested_seeds=1)
    recipe = config.recipes["scratch"].model_copy(update={"epochs": 2, "patches_per_epoch": 32})
    config = config.model_copy(update={"recipes": {**config.recipes, "scratch": recipe}})
    store_of(space)
    quiet = Console(quiet=True)

    def judged() -> dict[str, Any]:
        summary = run_nested(space, config, Plan(2, 1), quiet)
        write_study(space, "nested", summary)
        log_nested(space, config, summary, space.reports / "tune")
        return summary

    first = judged()
    client = connect(space)
    experiment = client.get_experiment_by_name("phantom-grouped_cv")

    def run_of_the_judgement() -> Any:
        (only,) = client.search_runs([experiment.experiment_id], "tags.`mlflow.runName` = 'tune nested'")
        return only

    client.update_run(run_of_the_judgement().info.run_id, status="RUNNING")  # as if killed before its end
    again = judged()
    assert again == first == read_json(space.reports / "tune" / "nested.json")
    assert [entry["trials"]["ended"] for entry in first["folds"]] == [2, 2, 2]
    assert sum(entry["n_rois"] for entry in first["folds"]) == 32
    assert first["effect"]["n_rois"] == 32
    cells = {name: first[name]["cells"]["auc_score"]["value"] for name in ("tuned", "reference")}
    assert first["effect"]["cells"]["auc_score"]["value"] == pytest.approx(cells["tuned"] - cells["reference"])
    assert not (space.reports / "tune" / "best.yaml").exists()  # no choice for `train` comes of it
    folders = sorted(path.name for path in (space.reports / "tune" / "nested").iterdir())
    assert folders == [f"without-fold-{fold}" for fold in range(3)]
    run = run_of_the_judgement()
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "tuned/auc_score")
    assert [metric.value for metric in history] == [cells["tuned"]]
    text = (space.reports / "tune" / "nested.md").read_text()
    assert "PHANTOM" in text
    assert "no medical device" in text
    assert first["effect"]["verdict"] in text
    for entry in first["folds"]:
        assert f"{entry['promised']:.3f}" in text
