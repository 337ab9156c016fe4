"""Which ROIs the report explains."""

import pandas as pd

from mammo.core.config import VoteConfig
from mammo.report.examples import pick_examples

ROWS = [
    ("other", "t-sure", "Tumor", "Normal", 0.0, 0.01),
    ("mine", "t-weak", "Tumor", "Tumor", 0.6, 0.55),
    ("mine", "t-sure", "Tumor", "Tumor", 1.0, 0.80),
    ("mine", "t-surer", "Tumor", "Tumor", 1.0, 0.90),
    ("mine", "n-sure", "Normal", "Normal", 0.0, 0.10),
    ("mine", "missed", "Tumor", "Normal", 0.2, 0.30),
    ("mine", "alarm", "Normal", "Tumor", 0.8, 0.60),
    ("mine", "n-near", "Normal", "Normal", 0.48, 0.45),
]
COLUMNS = ["system", "roi_id", "label", "decision", "vote_share", "score"]


def test_the_surest_of_each_kind_and_the_nearest_are_picked_each_once() -> None:
    picked = pick_examples(pd.DataFrame(ROWS, columns=COLUMNS), "mine", VoteConfig())
    assert [(one.reason, one.roi_id) for one in picked] == [
        ("Surest rightly called Tumor", "t-surer"),
        ("Surest rightly called Normal", "n-sure"),
        ("Surest missed Tumor", "missed"),
        ("Surest false alarm", "alarm"),
        ("Nearest to the threshold", "n-near"),
        ("Nearest to the threshold", "t-weak"),
    ]
    assert [ROWS[one.row][1] for one in picked] == [one.roi_id for one in picked]


def test_distances_are_from_the_threshold_that_decides() -> None:
    vote = VoteConfig(rule="mean_score", share_threshold=0.9)
    picked = pick_examples(pd.DataFrame(ROWS, columns=COLUMNS), "mine", vote)
    assert next(one.roi_id for one in picked if "Tumor" in one.reason) == "t-weak"
    assert next(one.roi_id for one in picked if "Nearest" in one.reason) == "t-surer"


def test_a_kind_that_does_not_occur_is_left_out() -> None:
    picked = pick_examples(pd.DataFrame(ROWS[2:3], columns=COLUMNS), "mine", VoteConfig())
    assert [one.reason for one in picked] == ["Surest rightly called Tumor"]
    assert pick_examples(pd.DataFrame(ROWS, columns=COLUMNS), "nobody", VoteConfig()) == []
