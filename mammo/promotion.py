"""Which alias a new version gets: a pure decision with its reason. `registry.py` carries it out."""

from dataclasses import dataclass
from typing import Final, Literal

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"


@dataclass(frozen=True)
class Decision:
    """An alias for a version, and why."""

    alias: Literal["champion", "challenger"]
    reason: str


def alias_of_new_version(champion: str | None) -> Decision:
    """The first version becomes champion by itself; a later one waits for `mammo promote`.

    Args:
        champion: the version that holds the alias now, or None.
    """
    if champion is None:
        return Decision(CHAMPION, "no champion yet: the first version becomes champion")
    return Decision(CHALLENGER, f"version {champion} is champion: promote with `mammo promote VERSION`")
