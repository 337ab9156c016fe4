"""The counts of the paper against the rates that it prints."""

import itertools

import pytest

from mammo.evaluation.baselines import N_TEST_ROIS, PAPER_RESULTS, PaperResult
from mammo.evaluation.metrics import Confusion

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
    model1 = PAPER_RESULTS[0].estimates()["accuracy"]
    assert (round(model1.ci_low, 3), round(model1.ci_high, 3), model1.n) == (0.791, 0.946, N_TEST_ROIS)


def test_systems_whose_numbers_are_not_at_hand_stay_empty() -> None:
    empty = [result.system for result in PAPER_RESULTS if not result.estimates()]
    assert empty == ["VGG16", "VGG19", "DenseNet", "ResNet50", "MobileNet"]
