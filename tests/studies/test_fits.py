"""One fit: what its key holds, what it never sees, how it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

from mammo.core.files import Workspace
from mammo.data.rois import Rois
from mammo.evaluation.stacking import fit_stack
from mammo.studies.fits import Fit, FitTask, fit_key, fit_one, fit_path, load_fit, save_fit
from mammo.studies.runs import fit_all
from mammo.systems.devices import cpu_threads
from mammo.systems.score import grid_scores
from tests.studies.tiny_studies import tiny_task


@pytest.fixture(scope="module")
def task() -> FitTask:
    return tiny_task()


@pytest.fixture(scope="module")
def fit(task: FitTask) -> Fit:
    return fit_one(task)


def with_held_out(task: FitTask, change: Callable[[Rois, Any], Rois]) -> FitTask:
    return replace(task, rois=change(task.rois, np.flatnonzero(task.rois.table["split"] == "test")))


def turned_pixels(rois: Rois, rows: Any) -> Rois:
    images = rois.images.copy()
    images[rows] = 255 - images[rows[::-1]]
    return Rois(rois.table, images)


def turned_labels(rois: Rois, rows: Any) -> Rois:
    table = rois.table.copy()
    table.loc[rows, "label"] = 1 - table.loc[rows, "label"]
    return Rois(table, rois.images)


def same_scores(a: Fit, b: Fit) -> bool:
    return np.array_equal(a.val.patch_scores, b.val.patch_scores) and a.validation == b.validation


def test_held_out_rois_leave_no_trace_in_the_fit(task: FitTask, fit: Fit) -> None:
    assert same_scores(fit_one(with_held_out(task, turned_pixels)), fit)
    relabelled = fit_one(with_held_out(task, turned_labels))
    assert same_scores(relabelled, fit)
    np.testing.assert_array_equal(relabelled.test.patch_scores, fit.test.patch_scores)
    np.testing.assert_array_equal(relabelled.test.labels, 1 - fit.test.labels)


FITTED: list[dict[str, Any]] = [
    {"train": {"epochs": 3}},
    {"train": {"head_lr": 0.01}},
    {"patches": {"tumor_draws": 9}},
    {"patches": {"last_offset": False}},
    {"model": {"head_dropout": 0.1}},
    {"vote": {"views": 8}},
]
UNREAD: list[dict[str, Any]] = [
    {"vote": {"rule": "mean_score"}},
    {"evaluate": {"seed": 5}},
    {"register": {"select_by": "val_auc"}},
]


def test_what_changes_a_fit_changes_its_key_and_votes_and_evaluation_do_not(task: FitTask) -> None:
    assert len({fit_key(tiny_task(**sections)) for sections in ({}, *FITTED)}) == 1 + len(FITTED)
    assert {fit_key(tiny_task(**sections)) for sections in UNREAD} == {fit_key(task)}


def test_the_key_holds_pixels_labels_parts_and_seed_but_no_groups(task: FitTask) -> None:
    def with_column(**values: Any) -> FitTask:
        return replace(task, rois=Rois(task.rois.table.assign(**values), task.rois.images))

    moved = task.rois.table["split"].to_list()
    moved[0] = "train" if moved[0] != "train" else "val"
    others = [
        with_held_out(task, turned_pixels),
        with_held_out(task, turned_labels),
        with_column(split=moved),
        tiny_task(seed=1),
        replace(task, system="compact-model1"),
    ]
    assert len({fit_key(other) for other in [task, *others]}) == 6
    assert fit_key(with_column(group_id="all")) == fit_key(task)


def test_a_fit_of_a_study_trains_and_scores_with_one_thread_whatever_the_settings_say(
    task: FitTask, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    training: list[int] = []
    scoring: list[int] = []

    def watched(*arguments: Any) -> Any:
        scoring.append(torch.get_num_threads())
        return grid_scores(*arguments)

    monkeypatch.setattr("mammo.systems.train.grid_scores", watched)
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


def flipped(content: bytes) -> bytes:
    """One bit of the last array's bytes is another."""
    middle = content.rindex(b"NUMPY") + 200
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no fit", lambda c: c[:-100], lambda c: c[:200], flipped])
def test_a_damaged_file_is_no_fit(fit: Fit, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = fit_path(tmp_path, "key")
    save_fit(path, fit)
    path.write_bytes(damage(path.read_bytes()))
    assert load_fit(path) is None


def test_a_system_with_the_floor_shares_the_fit_of_its_network_and_stacks_it_within_the_fold(
    task: FitTask, fit: Fit, tmp_path: Path
) -> None:
    with_floor = replace(task, system=f"{task.system}-floor")
    assert fit_key(with_floor) == fit_key(task)
    workspace = Workspace(tmp_path)
    workspace.fits.mkdir(parents=True)
    save_fit(fit_path(workspace.fits, fit_key(task)), fit)
    (placed,) = fit_all({"one": [with_floor]}, workspace, 1, Console(quiet=True))["one"]
    train, val, test = (task.rois.part(name) for name in ("train", "val", "test"))
    stack = fit_stack(train.images, train.labels, val.images, val.labels, fit.val.patch_scores)
    expected = stack.apply(test.images, fit.test.patch_scores)
    np.testing.assert_array_equal(placed.fit.test.patch_scores, expected)
    assert placed.fit.test.roi_ids == fit.test.roi_ids
    assert placed.fit.validation["val_auc"] == roc_auc_score(val.labels, placed.fit.val.patch_scores.mean(axis=1))


def test_an_ensemble_shares_the_fits_of_its_members_and_averages_their_patch_scores(tmp_path: Path) -> None:
    workspace, task, console = Workspace(tmp_path), tiny_task(), Console(quiet=True)
    single = {name: [replace(task, system=name)] for name in ("compact-baseline", "compact-model1")}
    alone = [placed[0].fit for placed in fit_all(single, workspace, 1, console).values()]
    together = {"one": [replace(task, system="compact-baseline+compact-model1")]}
    kept = {path: path.stat().st_mtime_ns for path in workspace.fits.glob("*.npz")}
    (placed,) = fit_all(together, workspace, 1, console)["one"]
    assert {path: path.stat().st_mtime_ns for path in workspace.fits.glob("*.npz")} == kept
    for part in ("val", "test"):
        members = [getattr(fit, part).patch_scores for fit in alone]
        np.testing.assert_allclose(getattr(placed.fit, part).patch_scores, np.mean(members, axis=0))
    assert placed.fit.validation["val_auc"] == roc_auc_score(
        placed.fit.val.labels, placed.fit.val.patch_scores.mean(axis=1)
    )
