"""Which alias a version gets."""

from mammo.track.registry import alias_of_new_version


def test_the_first_version_becomes_champion() -> None:
    assert alias_of_new_version(None).alias == "champion"


def test_a_later_version_becomes_challenger_and_says_how_to_promote_it() -> None:
    decision = alias_of_new_version("3")

    assert decision.alias == "challenger"
    assert "version 3 is champion" in decision.reason
    assert "mammo promote" in decision.reason
