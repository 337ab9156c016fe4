"""The plots of scores and estimates: what they show is read from the figure, never from the code's own numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo.evaluation.conformal import judge_fold
from mammo.report.canvas import system_styles
from mammo.report.curves import (
    confusion_matrices,
    draw_ledger,
    referral_picture,
    reliability_diagram,
    roc_and_precision_recall,
    training_curves,
)
from tests.report.drawn_figures import Gallery

NOTE = "PHANTOM (synthetic), grouped split, 40 test ROIs"
LABELS = np.array([0] * 25 + [1] * 15)
NAMES = ("compact-baseline", "compact-model1", "compact-model2", "vgg19_bn-model2", "floor")
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3, 4],
        "train_loss": [0.69, 0.6, 0.5, 0.4],
        "val_loss": [0.7, 0.55, 0.52, 0.6],
        "val_auc": [np.nan, 0.7, 0.8, 0.78],
        "val_patch_accuracy": [0.5, 0.6, 0.7, 0.7],
        "lr": 1e-3,
    }
)


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "ci_low": low, "ci_high": high, "n": 40}


def with_auc(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"roi": {"auc_score": estimate(value, low, high)}}


def scores(n: int) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    rng = np.random.default_rng(0)
    return {name: np.clip(rng.normal(0.35 + 0.3 * LABELS, 0.2), 0, 1) for name in NAMES[:n]}


def curves(n: int, path: Path) -> None:
    judged = dict.fromkeys(NAMES, with_auc(0.871, 0.7664, 0.9341))
    roc_and_precision_recall(LABELS, scores(n), judged, path, NOTE)


def counted(tp: int, fn: int, fp: int, tn: int) -> dict[str, Any]:
    counts = {"tp": tp, "fn": fn, "fp": fp, "tn": tn}
    return {"confusion": counts, "roi": {"accuracy": estimate(0.891, 0.7909, 0.9462)}}


def confusions(n: int, path: Path) -> None:
    found = {f"compact-model{i}": counted(tp=10 + i, fn=5 - i, fp=6, tn=19) for i in range(n)}
    confusion_matrices(found, path, NOTE)


def bins(*sizes: int) -> dict[str, Any]:
    """A calibration of bins of these sizes, evenly spread over the scores."""
    rows = [
        {"n": size, "mean_score": at, "tumor_share": at, "ci_low": at / 2, "ci_high": (1 + at) / 2}
        for size, at in zip(sizes, np.linspace(0, 1, len(sizes)), strict=True)
    ]
    return {"brier": estimate(0.1), "calibration_error": estimate(0.3), "bins": rows}


def calibrated(n: int, path: Path, n_bins: int = 6) -> None:
    one = {"binning": "equal_mass", "n_bins": n_bins, "raw": bins(*[2] * n_bins), "calibrated": bins(40)}
    reliability_diagram(LABELS, {name: {"calibration": one} for name in NAMES[:n]}, scores(n), path, NOTE)


def folds(n: int) -> list[dict[str, Any]]:
    rng, labels = np.random.default_rng(3), np.arange(40) % 2
    sets = [(rng.random((40, 2)) < 0.3) | (labels[:, None] == [0, 1]) for _ in range(n)]
    return [
        judge_fold(f"compact-model2, fold {i}", 0.9, 65, labels, found, confidence=0.95) for i, found in enumerate(sets)
    ]


def ledger(n: int) -> dict[str, Any]:
    cell = {"value": 0.8, "ci_low": 0.7, "ci_high": 0.9}
    reported = {
        "accuracy": cell,
        "recall": {"value": 0.9, "ci_low": None, "ci_high": None},
        "auc_score": None,
    }
    rows = [
        {"name": name, "protocol": protocol, "kind": "system", "cells": {"accuracy": cell, "auc_score": cell}}
        for name in NAMES[:n]
        for protocol in ("published", "honest")
    ]
    return {"rows": [*rows, {"name": "paper", "protocol": "published", "kind": "paper", "cells": reported}]}


Draw = Callable[[Path], None]
EVERY_PLOT: dict[str, Draw] = {
    "curves": lambda path: curves(5, path),
    "one curve": lambda path: curves(1, path),
    "confusions": lambda path: confusions(5, path),
    "one confusion": lambda path: confusions(1, path),
    "training": lambda path: training_curves(HISTORY, "compact-model2", path, NOTE),
    "one epoch": lambda path: training_curves(HISTORY[1:2], "compact-model2", path, NOTE),
    "reliability": lambda path: calibrated(4, path),
    "one reliability": lambda path: calibrated(1, path),
    "many bins": lambda path: calibrated(3, path, 20),
    "referral": lambda path: referral_picture(folds(10), path, NOTE),
    "one referral": lambda path: referral_picture(folds(1), path, NOTE),
    "ledger": lambda path: draw_ledger(ledger(5), path, NOTE),
    "one row": lambda path: draw_ledger(ledger(1), path, NOTE),
}


@pytest.mark.parametrize("draw", EVERY_PLOT.values(), ids=EVERY_PLOT)
def test_every_plot_says_its_data_and_its_limits_and_no_text_meets_another(
    draw: Draw, tmp_path: Path, gallery: Gallery
) -> None:
    draw(tmp_path / "plot.png")
    assert gallery.faults(NOTE) == []
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_the_same_input_gives_the_same_bytes_without_a_programs_name(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        curves(5, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert b"atplotlib" not in first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        (with_auc(0.871, 0.7664, 0.9341), "0.871 (0.766 to 0.934), n 40"),
        (with_auc(1.0), "1.000, n 40"),
        (with_auc(None), "n/a"),
    ],
)
def test_the_legend_gives_a_system_its_auc_and_interval(
    auc: dict[str, Any], words: str, tmp_path: Path, gallery: Gallery
) -> None:
    roc_and_precision_recall(LABELS, {"a": LABELS / 2}, {"a": auc}, tmp_path / "a.png", NOTE)
    assert f"a: AUC {words}" in gallery.texts()


def test_the_roc_curve_passes_through_hand_computed_points(tmp_path: Path, gallery: Gallery) -> None:
    labels, found = np.array([0, 0, 1, 1]), {"floor": np.array([0.1, 0.4, 0.35, 0.8])}
    roc_and_precision_recall(labels, found, {"floor": with_auc(0.75)}, tmp_path / "a.png", NOTE)
    roc, precision_recall = gallery[-1].axes[:2]
    points = {(float(x), float(y)) for x, y in np.asarray(roc.lines[-1].get_xydata())}
    assert points == {(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)}
    drawn = np.asarray(precision_recall.lines[-1].get_xydata())
    steps = {(round(float(x), 3), round(float(y), 3)) for x, y in drawn}
    assert steps == {(1, 0.5), (1, 0.667), (0.5, 0.5), (0.5, 1), (0, 1)}


def test_one_class_alone_has_no_curve_and_says_why(tmp_path: Path, gallery: Gallery) -> None:
    found = {"floor": np.ones(5)}
    roc_and_precision_recall(np.zeros(5, int), found, {"floor": with_auc(None)}, tmp_path / "a.png", NOTE)
    assert gallery.texts().count("no curve: one class is absent") == 2


def test_a_confusion_matrix_shows_counts_and_shares_of_the_truth(tmp_path: Path, gallery: Gallery) -> None:
    judged = {"Model1": counted(tp=21, fn=2, fp=5, tn=36), "a": counted(tp=0, fn=0, fp=1, tn=3)}
    confusion_matrices(judged, tmp_path / "a.png", NOTE)
    texts = gallery.texts()
    assert {"21", "2", "5", "36", "91% of 23", "9% of 23", "12% of 41", "88% of 41"} <= set(texts)
    assert "Model1\naccuracy 0.89 (0.79 to 0.95), n 40" in texts
    assert texts.count("n/a") == 2  # a class without ROIs has no share


def test_training_curves_mark_the_epoch_of_the_lowest_validation_loss(tmp_path: Path, gallery: Gallery) -> None:
    training_curves(HISTORY, "compact-model2", tmp_path / "a.png", NOTE)
    texts = gallery.texts()
    assert texts.count("lowest validation loss: epoch 3") == 2
    assert {"training loss", "validation loss", "validation AUC", "validation patch accuracy"} <= set(texts)
    drawn = np.asarray(gallery[-1].axes[1].lines[0].get_ydata(), dtype=float)
    assert np.isnan(drawn).tolist() == [True, False, False, False]  # an AUC that was undefined is left out


def test_training_curves_of_an_ensemble_mark_the_chosen_epoch_of_each_member(tmp_path: Path, gallery: Gallery) -> None:
    training_curves(HISTORY.assign(member=[0, 0, 1, 1]), "compact-model1+compact-model2", tmp_path / "a.png", NOTE)
    assert gallery.texts().count("lowest validation loss: epoch 2 and 3") == 2


@pytest.mark.parametrize(
    ("raw", "calibrated", "said"),
    [
        ((2, 3), (2, 3), "ROIs per bin: 2, 3"),
        ((2, 3), (5,), "ROIs per bin, raw: 2, 3\nROIs per bin, calibrated: 5"),
    ],
)
def test_reliability_names_its_bins_their_numbers_and_what_was_computed_of_them(
    raw: tuple[int, ...], calibrated: tuple[int, ...], said: str, tmp_path: Path, gallery: Gallery
) -> None:
    one = {"binning": "equal_mass", "n_bins": 2, "raw": bins(*raw)}
    one |= {"calibrated": bins(*calibrated) | {"brier": estimate(0.0104), "calibration_error": estimate(0.2)}}
    probabilities = {"compact-model1": np.array([0.1, 0.2, 0.3, 0.4, 0.9])}
    labels = np.array([0, 0, 0, 1, 1])
    judged = {"compact-model1": {"calibration": one}}
    reliability_diagram(labels, judged, probabilities, tmp_path / "a.png", NOTE)
    assert {
        "Reliability, 2 bins of equal mass",
        "raw: Brier 0.100, calibration error 0.300",
        "calibrated: Brier 0.010, calibration error 0.200",
        f"mean score of the bin\n{said}",
    } <= set(gallery.texts())
    ticks = [line for line in gallery[-1].axes[0].lines if line.get_marker() == "|"]
    assert [np.asarray(line.get_xdata()).tolist() for line in ticks] == [[0.1, 0.2, 0.3], [0.4, 0.9]]


def test_coverage_and_referral_rate_are_drawn_beside_the_promise(tmp_path: Path, gallery: Gallery) -> None:
    # Of 4 Normal ROIs three sets hold the class, and two hold both; there is no Tumor ROI.
    sets = np.array([[1, 0], [1, 1], [1, 1], [0, 1]], dtype=bool)
    fold = judge_fold("all Normal", 0.9, 9, np.zeros(4, dtype=int), sets, confidence=0.95)
    referral_picture([fold], tmp_path / "a.png", NOTE)
    coverage, referral = gallery[-1].axes[:2]
    assert "all Normal" in gallery.texts()
    promises, *_ = coverage.collections
    assert [np.asarray(s)[:, 0].tolist() for s in promises.get_segments()] == [[0.9, 0.9]]  # type: ignore[attr-defined]
    assert [np.asarray(line.get_xdata()).tolist() for line in coverage.lines[:2]] == [[0.75], [0.75]]
    assert np.isnan(np.asarray(coverage.lines[2].get_xdata(), dtype=float)).all()
    assert np.asarray(referral.lines[0].get_xdata()).tolist() == [0.5]


def test_the_ledger_has_a_mark_for_each_protocol_and_for_the_paper(tmp_path: Path, gallery: Gallery) -> None:
    draw_ledger(ledger(2), tmp_path / "a.png", NOTE)
    accuracy, recall, specificity, _ = gallery[-1].axes[:4]
    assert {"Published", "Honest", "Paper, as reported", *NAMES[:2]} <= set(gallery.texts())
    points = [line for line in accuracy.lines if line.get_marker() != "None"]
    assert [np.asarray(line.get_ydata()).tolist() for line in points] == [
        [-0.12],
        [0.12],
        [0.88],
        [1.12],
        [2],
    ]
    assert len(accuracy.collections) == 5
    assert (len(recall.collections), len(specificity.collections)) == (0, 0)  # no interval, nothing reported


def test_a_system_has_one_style_in_every_picture_and_no_two_share_one() -> None:
    vggs = ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
    backbones = ("compact", *vggs, "densenet121", "resnet50", "mobilenet_v2")
    names = [f"{backbone}-{fusion}" for backbone in backbones for fusion in ("baseline", "model1", "model2")]
    every = system_styles([*names, "floor", "Platt", "raw", "x", "y", "z"])
    assert system_styles(names[::-1][:2]).items() <= every.items()
    assert len({str(style) for style in every.values()}) == len(every)
