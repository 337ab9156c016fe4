"""One fit: what its key holds, what it never sees, how it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mammo.data.rois import RoiSet
from mammo.studies.fits import Fit, FitTask, fit_key, fit_one, fit_path, load_fit, save_fit
from mammo.systems.devices import cpu_threads
from mammo.systems.score import RoiScorer
from tests.studies.tiny_studies import tiny_material, tiny_task


@pytest.fixture(scope="module")
def task() -> FitTask:
    return tiny_task()


@pytest.fixture(scope="module")
def fit(task: FitTask) -> Fit:
    return fit_one(task)


def held_out(task: FitTask) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    parts = task.split.set_index("roi_id")["split"].loc[task.rois.table["roi_id"]]
    return (parts == "test").to_numpy(dtype=bool)


def with_held_out(task: FitTask, change: Callable[[RoiSet, Any], RoiSet]) -> FitTask:
    return replace(task, rois=change(task.rois, np.flatnonzero(held_out(task))))


def turned_pixels(rois: RoiSet, rows: Any) -> RoiSet:
    images = rois.images.copy()
    images[rows] = 255 - images[rows[::-1]]
    return RoiSet(rois.table, images)


def turned_labels(rois: RoiSet, rows: Any) -> RoiSet:
    table = rois.table.copy()
    table.loc[rows, "label"] = 1 - table.loc[rows, "label"]
    return RoiSet(table, rois.images)


def same_scores(a: Fit, b: Fit) -> bool:
    return np.array_equal(a.val.patch_scores, b.val.patch_scores) and a.validation == b.validation


@pytest.mark.parametrize("change", [turned_pixels, turned_labels])
def test_held_out_rois_leave_no_trace_in_the_fit(
    task: FitTask, fit: Fit, change: Callable[[RoiSet, Any], RoiSet]
) -> None:
    assert same_scores(fit_one(with_held_out(task, change)), fit)


def test_held_out_labels_do_not_change_the_held_out_scores(task: FitTask, fit: Fit) -> None:
    changed = fit_one(with_held_out(task, turned_labels))
    np.testing.assert_array_equal(changed.test.patch_scores, fit.test.patch_scores)
    np.testing.assert_array_equal(changed.test.labels, 1 - fit.test.labels)


def test_validation_and_held_out_rois_are_scored_once_each(task: FitTask, fit: Fit) -> None:
    parts = task.split.groupby("split")["roi_id"].apply(sorted)
    assert sorted(fit.val.roi_ids) == parts["val"]
    assert sorted(fit.test.roi_ids) == parts["test"]
    assert fit.test.patch_scores.shape == (len(parts["test"]), 9)


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"epochs": 3}},
        {"train": {"head_lr": 0.01}},
        {"patches": {"tumor_draws": 9}},
        {"patches": {"last_offset": False}},
        {"model": {"head_dropout": 0.1}},
        {"vote": {"views": 8}},
    ],
)
def test_whatever_changes_a_fit_changes_its_key(task: FitTask, sections: dict[str, Any]) -> None:
    assert fit_key(tiny_task(**sections)) != fit_key(task)


@pytest.mark.parametrize(
    "sections",
    [{"vote": {"rule": "mean_score"}}, {"evaluate": {"seed": 5}}, {"register": {"select_by": "val_auc"}}],
)
def test_votes_and_evaluation_cost_no_fit(task: FitTask, sections: dict[str, Any]) -> None:
    assert fit_key(tiny_task(**sections)) == fit_key(task)


def test_the_key_holds_pixels_labels_parts_and_seed(task: FitTask) -> None:
    moved = task.split.copy()
    moved.loc[moved.index[0], "split"] = "train" if moved["split"].iloc[0] != "train" else "val"
    others = [
        with_held_out(task, turned_pixels),
        with_held_out(task, turned_labels),
        replace(task, split=moved),
        tiny_task(seed=1),
        replace(task, system="compact-model1"),
    ]
    assert len({fit_key(other) for other in [task, *others]}) == 6


def test_the_order_of_the_split_table_does_not_matter(task: FitTask) -> None:
    assert fit_key(replace(task, split=task.split.iloc[::-1])) == fit_key(task)


def test_a_fit_of_a_study_trains_and_scores_with_one_thread_whatever_the_settings_say(
    task: FitTask, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    training: list[int] = []
    scoring: list[int] = []
    score = RoiScorer.patch_scores

    def watched(scorer: RoiScorer, images: np.ndarray) -> np.ndarray:
        scoring.append(torch.get_num_threads())
        return score(scorer, images)

    monkeypatch.setattr(RoiScorer, "patch_scores", watched)
    two_threads = tiny_task(train={"threads": 2})
    assert fit_key(two_threads) == fit_key(task)
    with cpu_threads(2):
        other = fit_one(two_threads, on_epoch=lambda record: training.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
    assert (set(training), set(scoring)) == ({1}, {1})
    assert same_scores(other, fit)


def test_a_kept_fit_comes_back_as_it_was(fit: Fit, tmp_path: Path) -> None:
    path = fit_path(tmp_path, "key")
    save_fit(path, fit)
    back = load_fit(path)
    assert back is not None
    assert same_scores(back, fit)
    assert back.test.roi_ids == fit.test.roi_ids
    np.testing.assert_array_equal(back.test.labels, fit.test.labels)
    np.testing.assert_array_equal(back.test.patch_scores, fit.test.patch_scores)


@pytest.mark.parametrize("content", [b"", b"no fit", None])
def test_a_damaged_file_is_no_fit(fit: Fit, tmp_path: Path, content: bytes | None) -> None:
    path = fit_path(tmp_path, "key")
    save_fit(path, fit)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert load_fit(path) is None


def test_groups_are_no_part_of_a_fit(task: FitTask) -> None:
    assert fit_key(tiny_task(material=tiny_material())) == fit_key(task)
