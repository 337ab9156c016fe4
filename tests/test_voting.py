"""Votes, shares and decisions against a plain-Python count in exact fractions."""

from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.config import VoteConfig
from mammo.voting import decisions, patch_votes, roi_votes, vote_shares

Rule = Literal["majority", "mean_score"]
Tie = Literal["tumor", "normal"]

EIGHTHS = [step / 8 for step in range(9)]
"""Exact in binary, so that ties are real ties."""


def decided_by_hand(scores: list[float], rule: str, tie: str, patch_at: float, share_at: float) -> int:
    exact = [Fraction(score) for score in scores]
    if rule == "majority":
        evidence = Fraction(sum(score > Fraction(patch_at) for score in exact), len(exact))
    else:
        evidence = sum(exact, Fraction(0)) / len(exact)
    if evidence == Fraction(share_at):
        return 1 if tie == "tumor" else 0
    return 1 if evidence > Fraction(share_at) else 0


@given(
    scores=st.integers(1, 30).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from(EIGHTHS), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    rule=st.sampled_from(["majority", "mean_score"]),
    tie=st.sampled_from(["tumor", "normal"]),
    patch_at=st.sampled_from(EIGHTHS),
    share_at=st.sampled_from(EIGHTHS),
)
def test_decisions_equal_a_count_in_exact_fractions(
    scores: list[list[float]], rule: Rule, tie: Tie, patch_at: float, share_at: float
) -> None:
    config = VoteConfig(rule=rule, tie=tie, patch_threshold=patch_at, share_threshold=share_at)

    decided = decisions(np.array(scores), config)

    assert decided.tolist() == [decided_by_hand(row, rule, tie, patch_at, share_at) for row in scores]


@pytest.mark.parametrize(("n_tumor", "expected"), [(12, 0), (13, 1)])
def test_thirteen_of_twenty_five_votes_are_a_majority(n_tumor: int, expected: int) -> None:
    scores = np.array([[0.51] * n_tumor + [0.02] * (25 - n_tumor)])

    assert decisions(scores, VoteConfig()).tolist() == [expected]


@pytest.mark.parametrize("rule", ["majority", "mean_score"])
@pytest.mark.parametrize(("tie", "expected"), [("tumor", 1), ("normal", 0)])
def test_two_votes_of_four_go_to_the_class_that_the_tie_rule_names(
    rule: Rule, tie: Tie, expected: int
) -> None:
    scores = np.array([[0.9, 0.1, 0.75, 0.25]])

    assert decisions(scores, VoteConfig(rule=rule, tie=tie)).tolist() == [expected]


def test_a_mean_that_misses_the_threshold_by_rounding_only_is_a_tie() -> None:
    scores = np.array([[0.1, 0.2, 0.3, 0.6]])  # their mean is 0.3, in floats a little more or less

    def with_tie(tie: Tie) -> list[int]:
        decided = decisions(scores, VoteConfig(rule="mean_score", tie=tie, share_threshold=0.3))
        return [int(value) for value in decided]

    assert (with_tie("tumor"), with_tie("normal")) == ([1], [0])


def test_the_rules_differ_where_a_few_sure_patches_outweigh_many_unsure_ones() -> None:
    scores = np.array([[1.0, 0.95, 0.4, 0.4, 0.4]])  # two votes of five, but a mean of 0.63

    assert decisions(scores, VoteConfig(rule="majority")).tolist() == [0]
    assert decisions(scores, VoteConfig(rule="mean_score")).tolist() == [1]


def test_a_patch_at_the_threshold_votes_normal_as_argmax_does() -> None:
    assert patch_votes(np.array([[0.5, np.nextafter(0.5, 1)]]), VoteConfig()).tolist() == [[0, 1]]


def test_vote_shares_are_the_mean_of_the_votes() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.2], [0.6, 0.7, 0.8, 0.1]])

    assert vote_shares(scores, VoteConfig(patch_threshold=0.65)).tolist() == [0.5, 0.5]
    assert vote_shares(scores, VoteConfig()).tolist() == [0.5, 0.75]


def test_a_record_shows_the_votes_behind_its_label() -> None:
    normal, tumor = roi_votes(np.array([[0.25, 0.75, 0.25], [0.75, 0.75, 0.0]]), VoteConfig())

    assert (normal.label, tumor.label) == ("Normal", "Tumor")
    assert normal.votes == (0, 1, 0)
    assert tumor.votes == (1, 1, 0)
    assert tumor.patch_scores == (0.75, 0.75, 0.0)
    assert tumor.vote_share == pytest.approx(2 / 3)
    assert tumor.score == 0.5


def test_no_rois_give_no_decisions() -> None:
    assert roi_votes(np.empty((0, 25)), VoteConfig()) == []
