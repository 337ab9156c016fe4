"""The plots: what they show is read from the drawn figure, never from the code's own numbers."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from mammo.core.errors import NOTICE, DataError
from mammo.evaluation.intervals import Estimate
from mammo.evaluation.metrics import Confusion
from mammo.report.canvas import LABEL_COLOURS, system_styles
from mammo.report.plots import (
    ScoredSystem,
    confusion_matrices,
    roc_and_precision_recall,
    training_curves,
)
from tests.reporting.drawn_figures import Gallery, catch_figures

NOTE = "PHANTOM (synthetic), grouped split, 40 test ROIs"
LABELS = np.array([0] * 25 + [1] * 15)
NAMES = ("compact-baseline", "compact-model1", "compact-model2", "vgg19_bn-model2", "floor")
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3, 4],
        "train_loss": [0.69, 0.6, 0.5, 0.4],
        "val_loss": [0.7, 0.55, 0.52, 0.6],
        "val_auc": [0.5, 0.7, 0.8, 0.78],
        "val_patch_accuracy": [0.5, 0.6, 0.7, 0.7],
        "lr": 1e-3,
    }
)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)


def systems(names: tuple[str, ...] = NAMES) -> list[ScoredSystem]:
    rng = np.random.default_rng(0)
    auc = Estimate(0.871, 0.7664, 0.9341, "BCa bootstrap of groups", 40, 40, 0.95)
    return [ScoredSystem(name, np.clip(rng.normal(0.35 + 0.3 * LABELS, 0.2), 0, 1), auc) for name in names]


def matrices(n: int = 5) -> dict[str, Confusion]:
    return {f"compact-model{i}": Confusion(tp=10 + i, fn=5 - i, fp=6, tn=19) for i in range(n)}


Draw = Callable[[Path], None]
EVERY_PLOT: dict[str, Draw] = {
    "curves": lambda path: roc_and_precision_recall(LABELS, systems(), path, NOTE),
    "one curve": lambda path: roc_and_precision_recall(LABELS, systems(NAMES[:1]), path, NOTE),
    "confusions": lambda path: confusion_matrices(matrices(), path, NOTE),
    "one confusion": lambda path: confusion_matrices(matrices(1), path, NOTE),
    "training": lambda path: training_curves(HISTORY, "compact-model2", path, NOTE),
    "one epoch": lambda path: training_curves(HISTORY[:1], "compact-model2", path, NOTE),
    "no system": lambda path: roc_and_precision_recall(LABELS, [], path, NOTE),
    "no confusion": lambda path: confusion_matrices({}, path, NOTE),
    "no epoch": lambda path: training_curves(HISTORY[:0], "compact-model2", path, NOTE),
}


@pytest.mark.parametrize("draw", EVERY_PLOT.values(), ids=EVERY_PLOT)
def test_every_plot_says_its_data_and_its_limits_and_no_text_meets_another(
    draw: Draw, tmp_path: Path, gallery: Gallery
) -> None:
    draw(tmp_path / "plot.png")
    assert NOTE in gallery.texts()
    assert NOTICE in gallery.texts()
    assert gallery.overlaps() == []
    assert gallery.outside() == []
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_the_same_input_gives_the_same_bytes_without_a_programs_name(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        roc_and_precision_recall(LABELS, systems(), tmp_path / name, NOTE)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert b"atplotlib" not in first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


def test_the_legend_gives_each_system_its_auc_and_interval(tmp_path: Path, gallery: Gallery) -> None:
    roc_and_precision_recall(LABELS, systems(), tmp_path / "a.png", NOTE)
    for name in NAMES:
        assert f"{name}: AUC 0.871 (95% 0.766 to 0.934)" in gallery.texts()


def test_an_auc_without_an_interval_says_so(tmp_path: Path, gallery: Gallery) -> None:
    perfect = Estimate(1.0, float("nan"), float("nan"), "BCa bootstrap of groups", 40, 40, 0.95)
    undefined = Estimate(float("nan"), float("nan"), float("nan"), "BCa bootstrap of groups", 40, 40, 0.95)
    scored = [ScoredSystem("a", LABELS.astype(float), perfect), ScoredSystem("b", LABELS * 0.0, undefined)]
    roc_and_precision_recall(LABELS, scored, tmp_path / "a.png", NOTE)
    assert {"a: AUC 1.000 (no interval)", "b: AUC n/a"} <= set(gallery.texts())


def test_the_roc_curve_passes_through_hand_computed_points(tmp_path: Path, gallery: Gallery) -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    roc_and_precision_recall(labels, [ScoredSystem("floor", scores)], tmp_path / "a.png", NOTE)
    roc, precision_recall = gallery[-1].axes[:2]
    points = {(float(x), float(y)) for x, y in np.asarray(roc.lines[-1].get_xydata())}
    assert points == {(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)}
    drawn = np.asarray(precision_recall.lines[-1].get_xydata())
    steps = {(round(float(x), 3), round(float(y), 3)) for x, y in drawn}
    assert steps == {(1, 0.5), (1, 0.667), (0.5, 0.5), (0.5, 1), (0, 1)}


def test_one_class_alone_has_no_curve_and_says_why(tmp_path: Path, gallery: Gallery) -> None:
    roc_and_precision_recall(
        np.zeros(5, dtype=int), [ScoredSystem("floor", np.ones(5))], tmp_path / "a.png", NOTE
    )
    assert gallery.texts().count("no curve: one class is absent") == 2


def test_scores_of_other_rois_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one value for each of the 40 ROIs"):
        roc_and_precision_recall(LABELS, [ScoredSystem("floor", np.ones(3))], tmp_path / "a.png", NOTE)
    assert list(tmp_path.iterdir()) == []


def test_a_confusion_matrix_shows_counts_and_shares_of_the_truth(tmp_path: Path, gallery: Gallery) -> None:
    confusion_matrices({"Model1": Confusion(tp=21, fn=2, fp=5, tn=36)}, tmp_path / "a.png", NOTE)
    texts = gallery.texts()
    assert {"21", "2", "5", "36", "91% of 23", "9% of 23", "12% of 41", "88% of 41"} <= set(texts)
    assert "Model1\naccuracy 0.89 (0.79 to 0.95)" in texts


def test_a_class_without_rois_has_no_share(tmp_path: Path, gallery: Gallery) -> None:
    confusion_matrices({"a": Confusion(tp=0, fn=0, fp=1, tn=3)}, tmp_path / "a.png", NOTE)
    assert gallery.texts().count("n/a") == 2


def test_training_curves_mark_the_epoch_of_the_lowest_validation_loss(
    tmp_path: Path, gallery: Gallery
) -> None:
    training_curves(HISTORY, "compact-model2", tmp_path / "a.png", NOTE)
    assert gallery.texts().count("lowest validation loss: epoch 3") == 2
    assert {"training loss", "validation loss", "validation AUC", "validation patch accuracy"} <= set(
        gallery.texts()
    )


def test_a_validation_auc_that_is_undefined_in_one_epoch_is_left_out_there(
    tmp_path: Path, gallery: Gallery
) -> None:
    history = HISTORY.assign(val_auc=[np.nan, 0.7, 0.8, 0.78])
    training_curves(history, "compact-model2", tmp_path / "a.png", NOTE)
    drawn = np.asarray(gallery[-1].axes[1].lines[0].get_ydata(), dtype=float)
    assert np.isnan(drawn).tolist() == [True, False, False, False]


def test_a_system_has_one_style_in_every_picture_and_no_two_share_one() -> None:
    backbones = (
        "compact",
        "vgg16",
        "vgg19",
        "vgg16_bn",
        "vgg19_bn",
        "densenet121",
        "resnet50",
        "mobilenet_v2",
    )
    names = [f"{backbone}-{fusion}" for backbone in backbones for fusion in ("baseline", "model1", "model2")]
    every = system_styles([*names, "floor", "Platt", "raw", "x", "y", "z"])
    assert system_styles(names[::-1][:2]).items() <= every.items()
    assert len({str(style) for style in every.values()}) == len(every)


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_systems_of_one_backbone_differ_in_lightness_too() -> None:
    styles = system_styles(NAMES[:3])
    light = sorted(luminance(style["color"]) for style in styles.values())
    assert all((b + 0.05) / (a + 0.05) > 1.5 for a, b in pairwise(light))


def test_the_two_classes_differ_in_hue_for_red_green_blind_people() -> None:
    (_, _, normal_blue), (_, _, tumor_blue) = (to_rgb(colour) for colour in LABEL_COLOURS.values())
    assert normal_blue - tumor_blue > 0.5
