"""The benchmark runs as it is shipped, whatever the machine lacks; what it measures is asserted nowhere."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from benchmarks.measure import Plan, Way, rates

ROOT = Path(__file__).parents[1]


def test_ways_take_turns_after_a_call_that_does_not_count() -> None:
    turns = list[str]()

    def take(name: str) -> float:
        turns.append(name)
        return 1.0

    ways = [Way(name, partial(take, name)) for name in "ab"]
    rows = rates("letters", "calls/s", ways, Plan(rounds=3, least_s=0.0))
    assert "".join(turns) == "ab" * 4
    assert [len(row.values) for row in rows] == [3, 3]


@pytest.mark.slow
def test_every_row_has_values_or_says_why_not(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("Before.\n<!-- results -->\nof yesterday\n<!-- end of results -->\nAfter.\n")
    command = [sys.executable, "-m", "benchmarks.run", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"date", "load_at_start", "device", "cores", "torch"} <= results["machine"].keys()
    for row in results["rows"]:
        if "skipped" in row:
            assert row["skipped"]
            assert "values" not in row
        else:
            assert row["median"] == median(row["values"])
            assert row["n"] == len(row["values"])
    by_group = {row["group"]: row for row in results["rows"]}
    assert by_group["batches on a GPU, compact-model1"]["skipped"] == "no GPU is visible"
    text = readme.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "of yesterday" not in text
    assert all(f"| {row['name']} | " in text for row in results["rows"])
