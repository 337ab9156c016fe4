"""Which alias a version gets, and which system is registered."""

import pytest

from mammo.systems.train import best_system
from mammo.track.registry import alias_of_new_version


def test_the_first_version_becomes_champion() -> None:
    assert alias_of_new_version(None).alias == "champion"


def test_a_later_version_becomes_challenger_and_says_how_to_promote_it() -> None:
    decision = alias_of_new_version("3")

    assert decision.alias == "challenger"
    assert "version 3 is champion" in decision.reason
    assert "mammo promote" in decision.reason


@pytest.mark.parametrize(("by", "expected"), [("val_loss", "b"), ("val_auc", "c")])
def test_loss_is_best_when_low_and_auc_when_high(by: str, expected: str) -> None:
    results = {
        "a": {"val_loss": 0.7, "val_auc": 0.60},
        "b": {"val_loss": 0.4, "val_auc": 0.85},
        "c": {"val_loss": 0.5, "val_auc": 0.91},
    }

    assert best_system(results, by) == expected


@pytest.mark.parametrize("by", ["val_loss", "val_auc"])
def test_the_earlier_of_two_equal_systems_wins(by: str) -> None:
    assert best_system({"z": {by: 0.5}, "a": {by: 0.5}}, by) == "z"
