"""The floor against hand-computed statistics and the published archive; the paper's counts against its rates."""

import io
import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mammo.core.errors import DataError
from mammo.evaluation.baselines import (
    PAPER_RESULTS,
    STATISTICS,
    PaperResult,
    floor_scores,
    floor_statistics,
)
from mammo.evaluation.metrics import Confusion, auc, confusion

Images = npt.NDArray[np.uint8]


def rois(n: int, seed: int = 0) -> tuple[Images, npt.NDArray[np.int64]]:
    """Noise ROIs; the middle of a Tumor ROI is brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.normal(100, 20, (n, 120, 120))
    images[:, 40:80, 40:80] += (rng.normal(0, 12, n) + 12 * labels)[:, None, None]
    return images.clip(0, 255).astype(np.uint8), labels


def test_the_statistics_equal_scipys_on_each_roi() -> None:
    images, _ = rois(3)
    table = floor_statistics(images)
    assert table.shape == (3, len(STATISTICS)) == (3, 8)
    for row, image in zip(table, images.astype(float), strict=True):
        expected = {
            "mean": image.mean(),
            "sd": np.std(image),
            "min": image.min(),
            "p5": stats.scoreatpercentile(image.ravel(), 5),
            "median": np.median(image),
            "p95": stats.scoreatpercentile(image.ravel(), 95),
            "skewness": stats.skew(image.ravel()),
            "centre_difference": image[40:80, 40:80].mean() - image.mean(),
        }
        assert dict(zip(STATISTICS, row, strict=True)) == pytest.approx(expected)


def test_a_roi_of_one_grey_level_has_no_skewness_and_no_warning() -> None:
    row = floor_statistics(np.full((1, 120, 120), 7, dtype=np.uint8))[0]
    assert row.tolist() == [7, 0, 7, 7, 7, 7, 0, 0]


def test_scores_are_those_of_a_logistic_regression_on_the_standardised_statistics() -> None:
    images, labels = rois(40)
    unseen, _ = rois(20, seed=1)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=1000))
    pipeline.fit(floor_statistics(images), labels)
    expected = pipeline.predict_proba(floor_statistics(unseen))[:, 1]
    assert floor_scores(images, labels, unseen) == pytest.approx(expected, abs=1e-4)


def test_a_brighter_middle_raises_the_score() -> None:
    flat, bright = np.full((2, 120, 120), 100, dtype=np.uint8)
    bright[40:80, 40:80] = 130
    low, high = floor_scores(*rois(60), np.stack([flat, bright]))
    assert low < high


def test_a_statistic_that_never_varies_does_no_harm() -> None:
    images = np.full((6, 120, 120), 50, dtype=np.uint8)
    images[::2] = 90
    scores = floor_scores(images, np.array([1, 0] * 3), images)
    assert (scores[::2] > 0.5).all()
    assert (scores[1::2] < 0.5).all()


def test_one_class_alone_is_refused() -> None:
    images, labels = rois(4)
    with pytest.raises(DataError, match="both classes are needed"):
        floor_scores(images, np.zeros_like(labels), images)


def read_folder(archive: zipfile.ZipFile, folder: str) -> tuple[Images, npt.NDArray[np.int64]]:
    names = [name for name in archive.namelist() if f"/{folder}/" in name and name.endswith(".png")]
    images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) for name in names]
    return np.stack(images), np.array([int(Path(name).name.startswith("Tumor")) for name in names])


@pytest.mark.real
@pytest.mark.skipif("MAMMO_MIAS_ROIS" not in os.environ, reason="MAMMO_MIAS_ROIS names no ROI archive")
def test_on_the_published_split_the_floor_is_as_strong_as_known() -> None:
    with zipfile.ZipFile(os.environ["MAMMO_MIAS_ROIS"]) as archive:
        train, test = (read_folder(archive, folder) for folder in ("train", "test"))
    assert (len(train[1]), len(test[1])) == (197, 64)
    scores = floor_scores(*train, test[0])
    accuracy = confusion(test[1], (scores > 0.5).astype(int)).metrics()["accuracy"]
    assert accuracy == pytest.approx(0.83, abs=0.02)
    assert auc(test[1], scores) == pytest.approx(0.87, abs=0.02)
    assert auc(test[1], floor_statistics(test[0])[:, -1]) == pytest.approx(0.876, abs=5e-4)


PRINTED = {"Model1": (0.8906, 0.913, 0.8077), "Model2": (0.875, 0.9565, 0.7586)}


@pytest.mark.parametrize("result", PAPER_RESULTS[:2], ids=lambda result: result.system)
def test_only_the_stated_counts_round_to_the_printed_rates(result: PaperResult) -> None:
    fitting = []
    for tp, fp in itertools.product(range(24), range(42)):
        counts = Confusion(tp, 23 - tp, fp, 41 - fp)
        rates = counts.metrics()
        found = tuple(rates[name] for name in ("accuracy", "recall", "precision"))
        if found == pytest.approx(PRINTED[result.system], abs=5.1e-5):
            fitting.append(counts)
    assert fitting == [result.confusion]


def test_the_accuracies_carry_their_wilson_intervals() -> None:
    model1 = PAPER_RESULTS[0].estimates(0.95)["accuracy"]
    assert (round(model1.ci_low, 3), round(model1.ci_high, 3), model1.n) == (0.791, 0.946, 64)


def test_systems_whose_numbers_are_not_at_hand_stay_empty() -> None:
    empty = [result.system for result in PAPER_RESULTS if not result.estimates(0.95)]
    assert empty == ["VGG16", "VGG19", "DenseNet", "ResNet50", "MobileNet"]
