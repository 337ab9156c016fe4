"""Fits in worker processes: the same bits for any number of jobs, clear ends, nothing lost."""

import io
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from rich.console import Console

from mammo.core.errors import MammoError, WeightsError
from mammo.core.files import Workspace
from mammo.data.splits import grouped_folds
from mammo.studies import fits as pool
from mammo.studies.fits import (
    DryRunError,
    Fit,
    FitTask,
    checkpoint_path,
    fit_key,
    fit_path,
    load_fit,
    run_fits,
)
from tests.studies.tiny_studies import tiny_config, tiny_rois, tiny_task


@pytest.fixture(scope="module")
def tasks() -> list[FitTask]:
    return [tiny_task(seed) for seed in range(3)]


@pytest.mark.slow
def test_the_number_of_jobs_changes_no_bit_and_kept_fits_are_not_fitted_again(
    tasks: list[FitTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Console(file=io.StringIO(), record=True, width=200)
    one = run_fits(tasks, Workspace(tmp_path / "one"), 1, shown)
    two = run_fits(tasks[::-1], Workspace(tmp_path / "two"), 2, Console(quiet=True))[::-1]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.val.patch_scores, b.val.patch_scores)
        np.testing.assert_array_equal(a.test.patch_scores, b.test.patch_scores)
        assert a.validation == b.validation
    assert "fit 3/3 done" in shown.export_text()
    with pytest.raises(DryRunError, match=r"^1 fits to do, 3 kept from before; \d+ jobs?, about 0:00:\d\d "):
        run_fits([*tasks, tiny_task(9)], Workspace(tmp_path / "one"), 0, Console(quiet=True))
    monkeypatch.setattr(pool, "_fit_missing", lambda *_: pytest.fail("fitted again"))
    again = run_fits([*tasks, tasks[0]], Workspace(tmp_path / "one"), 1, Console(quiet=True))
    np.testing.assert_array_equal(again[3].test.patch_scores, one[0].test.patch_scores)


@pytest.mark.slow
def test_a_failing_fit_ends_the_command_with_its_own_error_and_finished_fits_stay(
    tasks: list[FitTask], tmp_path: Path
) -> None:
    failing = tiny_task(model={"weights": "no-such-file.pt"})
    with pytest.raises(WeightsError, match=r"no-such-file\.pt"):
        run_fits([tasks[0], failing], Workspace(tmp_path), 1, Console(quiet=True))
    assert fit_path(Workspace(tmp_path).fits, fit_key(tasks[0])).is_file()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_fit_without_memory_on_its_gpu_is_an_error_with_a_way_out(
    tasks: list[FitTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_fit_and_keep", no_memory)
    with pytest.raises(MammoError, match=r"a worker died \(CUDA out of memory\).*fewer --jobs"):
        run_fits([tasks[0]], Workspace(tmp_path), 1, Console(quiet=True))


def no_memory(*_: object) -> Fit:
    raise torch.OutOfMemoryError("CUDA out of memory\nand much more")


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_and_neither_fit_nor_epochs_are_lost(
    tasks: list[FitTask], tmp_path: Path
) -> None:
    folder = Workspace(tmp_path).fits

    def files(folder: Path) -> set[str]:
        return {path.name for path in folder.glob("[!.]*.*")}

    def kill_in_the_second_fit(stop: threading.Event) -> None:
        while not stop.wait(0.02):
            finished = files(folder)
            if finished and files(folder / "unfinished") - {checkpoint_path(folder, fit_key(tasks[0])).name}:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid or 0, signal.SIGKILL)
                return

    # Many epochs, so that the second fit is surely unfinished when the first file is seen.
    longer = [tasks[0], tiny_task(1, train={"epochs": 400})]
    stop = threading.Event()
    killer = threading.Thread(target=kill_in_the_second_fit, args=(stop,))
    killer.start()
    try:
        with pytest.raises(MammoError, match="finished fits are kept"):
            run_fits(longer, Workspace(tmp_path), 1, Console(quiet=True))
    finally:
        stop.set()
        killer.join()
    assert load_fit(fit_path(Workspace(tmp_path).fits, fit_key(tasks[0]))) is not None
    assert files(folder / "unfinished") == {checkpoint_path(folder, fit_key(longer[1])).name}


def test_two_commands_do_not_fit_in_one_folder(tasks: list[FitTask], tmp_path: Path) -> None:
    folder = Workspace(tmp_path).fits
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(MammoError, match="another command is fitting here"):
        run_fits(tasks, Workspace(tmp_path), 1, Console(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("n_folds", [1, 3], ids=["one fold", "all folds: every ROI trains in one"])
def test_features_of_folds_are_kept_before_their_fits(tmp_path: Path, n_folds: int) -> None:
    config = tiny_config(train={"recipe": "frozen", "features": "kept"})
    folds = grouped_folds(tiny_rois(), config.ledger)[:n_folds]
    tasks = [FitTask("compact-baseline", config, 0, fold.rois, str(number)) for number, fold in enumerate(folds)]
    workspace = Workspace(tmp_path)
    run_fits(tasks, workspace, 1, Console(quiet=True))
    (index,) = workspace.feature_cache.glob("*.index")
    learnt = np.any([task.rois.table["split"] == "train" for task in tasks], axis=0)
    assert len(index.read_text().split()) == 8 * learnt.sum() + (~learnt).sum()
