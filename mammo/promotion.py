"""Which alias a new version gets: a pure decision with its reason. `registry.py` carries it out."""

from dataclasses import dataclass
from typing import Any, Final, Literal

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


def best_system(results: dict[str, dict[str, Any]], by: str) -> str:
    """The system with the best validation result; the earlier one in the list wins a tie.

    Args:
        results: validation results of each system, with the key `by`.
        by: `val_loss` (lower is better) or `val_auc` (higher is better).
    """
    sign = 1 if by == "val_loss" else -1
    return min(results, key=lambda system: sign * float(results[system][by]))
