"""What differs between two nested settings."""

from collections.abc import Mapping
from typing import Any, Final

MISSING: Final = "nothing"
"""Stands for a value that one side lacks."""


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Dotted key → value in `old` and in `new`, where these differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in (*old, *(key for key in new if key not in old)):
        was, becomes = old.get(key, MISSING), new.get(key, MISSING)
        if isinstance(was, Mapping) and isinstance(becomes, Mapping):
            found |= differences(was, becomes, f"{prefix}{key}.")
        elif was != becomes:
            found[f"{prefix}{key}"] = (was, becomes)
    return found
