"""Numbers that documents for people repeat are those of the reports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = r"([+-]?\d\.\d{3})"
INTERVAL = re.compile(rf"{NUMBER} \({NUMBER}\s+to\s+{NUMBER}\)")
Ends = tuple[float, float, float]


def estimates(value: Any) -> Iterator[Ends]:
    """Every value with its interval, wherever it stands in a report."""
    if isinstance(value, dict):
        centre = value.get("value", value.get("mean"))
        if isinstance(centre, float) and isinstance(value.get("ci_low"), float):
            yield centre, value["ci_low"], value["ci_high"]
        for inner in value.values():
            yield from estimates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from estimates(inner)


@pytest.fixture(scope="module")
def reported() -> set[tuple[str, ...]]:
    """As documents write them; what a measurement falls short by is written without its sign."""
    found = [one for path in (ROOT / "reports").rglob("*.json") for one in estimates(json.loads(path.read_text()))]
    shown = {tuple(f"{end:.3f}" for end in one) for one in found}
    return shown | {tuple(f"{-end:.3f}" for end in (value, high, low)) for value, low, high in found}


@pytest.mark.parametrize("name", ["README.md", "reports/findings.md", "reports/tried.md"])
def test_every_interval_of_a_document_stands_in_a_report(name: str, reported: set[tuple[str, ...]]) -> None:
    written = INTERVAL.findall((ROOT / name).read_text())

    assert written
    assert [one for one in written if tuple(f"{float(end):.3f}" for end in one) not in reported] == []
