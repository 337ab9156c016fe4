"""Coverage against the promise, as table and sentence."""

import numpy as np

from mammo.evaluation.conformal import RATES, judge_fold
from mammo.evaluation.intervals import wilson
from mammo.report.referral import referral_summary, referral_table


def test_the_table_sets_hand_counted_rates_beside_the_promise() -> None:
    labels = np.array([0, 0, 0, 1])
    sets = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)
    rows = referral_table([judge_fold("fold 0", 0.9, 65, labels, sets, confidence=0.95)])
    assert rows[2].startswith("| fold 0 | 65 | 0.90 | 0.750 (0.301 to 0.954), n = 4 | 0.667 (")
    assert rows[2].endswith("| missed within chance |")
    assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_the_summary_gives_mean_and_spread_over_the_folds() -> None:
    labels = np.array([0, 1])
    two = [
        judge_fold("a", 0.9, 9, labels, np.array([[1, 0], [0, 1]], dtype=bool), confidence=0.95),
        judge_fold("b", 0.9, 9, labels, np.array([[1, 1], [1, 0]], dtype=bool), confidence=0.95),
    ]
    over_runs = {name: wilson(3, 4, 0.95).to_dict() for name in RATES}
    assert referral_summary(two, over_runs) == (
        "Mean over the runs with its interval, ± the standard deviation over 2 folds, at a promised coverage of 0.90: "
        "coverage 0.750 (0.301 to 0.954) ± 0.354, coverage of Normal 0.750 (0.301 to 0.954) ± 0.000, coverage of Tumor "
        "0.750 (0.301 to 0.954) ± 0.707, referral rate 0.750 (0.301 to 0.954) ± 0.354."
    )
