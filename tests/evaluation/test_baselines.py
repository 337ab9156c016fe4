"""The floor against hand-computed statistics and the published archive; the paper's counts against its rates."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mammo.core.errors import DataError
from mammo.data.rois import Rois
from mammo.evaluation.baselines import PAPER_RESULTS, STATISTICS, PaperResult, floor_scores, floor_statistics
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


def test_one_class_alone_is_refused() -> None:
    images, labels = rois(4)
    with pytest.raises(DataError, match="both classes are needed"):
        floor_scores(images, np.zeros_like(labels), images)


@pytest.mark.real
def test_on_the_published_split_the_floor_is_as_strong_as_known(real_rois: Rois) -> None:
    split = real_rois.table["published_split"].to_numpy()
    train, test = (real_rois.only(split == part) for part in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (197, 64)
    scores = floor_scores(train.images, train.labels, test.images)
    accuracy = confusion(test.labels, (scores > 0.5).astype(int)).metrics()["accuracy"]
    assert accuracy == pytest.approx(0.83, abs=0.02)
    assert auc(test.labels, scores) == pytest.approx(0.87, abs=0.02)
    assert auc(test.labels, floor_statistics(test.images)[:, -1]) == pytest.approx(0.876, abs=5e-4)


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


def test_systems_whose_numbers_are_not_at_hand_stay_empty() -> None:
    empty = [result.system for result in PAPER_RESULTS if not result.estimates(0.95)]
    assert empty == ["VGG16", "VGG19", "DenseNet", "ResNet50", "MobileNet"]
