"""Everything that the project promises about speed, measured in one run: `python -m benchmarks.run`, or `make bench`.

Writes `results.json`, and a table of it between two markers of `README.md`, both beside this file.
"""

import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from benchmarks.measure import Plan, Row, put_table
from benchmarks.programs import intervals, programs, scaling
from benchmarks.roads import Keras, compact_training, gpu, limits, scoring, training
from mammo.core.errors import guarded
from mammo.core.files import write_json
from mammo.systems.devices import choose_device, computes_bfloat16, hardware, keep_freed_memory

HERE: Final = Path(__file__).parent
BUSY: Final = 0.7
"""Load of the last minute from which the table warns: other work took part of the processors."""


def measure(plan: Plan, device: torch.device, console: Console) -> dict[str, Any]:
    """Machine and rows of one run, as `results.json` has them."""
    keep_freed_memory()
    machine: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "device": hardware(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": computes_bfloat16(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    rows = []
    with Keras.started(device) as keras:
        machine["tensorflow"] = version(packages_distributions()["tensorflow"][0]) if keras.pool else None
        for row in chain(scoring(plan, device, keras), training(plan, device, keras)):
            rows.append(row)
            console.print(_line(row), highlight=False, markup=False, soft_wrap=True)
    others = (compact_training(plan, device), limits(plan, device), gpu(plan, device), scaling(plan, device))
    for row in chain(*others, intervals(plan), programs(plan)):
        rows.append(row)
        console.print(_line(row), highlight=False, markup=False, soft_wrap=True)
    return {"machine": machine, "rounds": plan.rounds, "rows": [_described(row) for row in rows]}


def _described(row: Row) -> dict[str, Any]:
    middle = {"median": median(row.values), "n": len(row.values)} if row.values else {}
    return {name: value for name, value in {**asdict(row), **middle}.items() if value not in ("", (), None)}


def _line(row: Row) -> str:
    return f"{row.group}: {' | '.join(_cells(_described(row)))}"


def _cells(row: dict[str, Any]) -> list[str]:
    if "skipped" in row:
        return [row["name"], f"skipped: {row['skipped']}", "", ""]
    middle, values = row["median"], row["values"]
    spread = f" ({_figure(min(values))} to {_figure(max(values))})" if len(values) > 1 else ""
    ratio = f"{_figure(row['times'])} × {row['against']}" if "times" in row else ""
    wanted = f"≥ {row['wanted']:g}" if "wanted" in row else ""
    return [row["name"], f"{_figure(middle)} {row['unit']}{spread}", ratio, wanted]


def _figure(value: float) -> str:
    """Three digits that count, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    machine = results["machine"]
    loads = ", ".join(f"{load:g}" for load in machine["load_at_start"])
    busy = machine["load_at_start"][0] >= BUSY
    lines = [
        f"{machine['date']}, {machine['device']}{' with bfloat16' if machine['bfloat16'] else ''}, "
        f"{machine['cores']} cores, torch {machine['torch']}, "
        f"{'TensorFlow ' + machine['tensorflow'] if machine['tensorflow'] else 'no TensorFlow'}; "
        f"load at the start {loads}{': **other work ran beside it**' if busy else ''}. "
        f"Medians of {results['rounds']} rounds (lowest to highest), at most three in what takes long.",
    ]
    group = None
    for row in results["rows"]:
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"| {group} | median | ratio | wanted |", "|---|---|---|---|"]
        lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join(lines) + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """`results.json`, and the table into the folder's README where it has the markers."""
    write_json(folder / "results.json", results)
    put_table(folder / "README.md", "results", table(results))


def run(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Rounds of each comparison.", min=1)] = Plan.rounds,
    full: Annotated[bool, typer.Option("--full", help="Also score 100,000 ROIs.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="Each way once, on the compact net alone: does it run?")] = False,
    out: Annotated[Path, typer.Option(help="Folder of results.json and the README.")] = HERE,
) -> None:
    """Measure, show each row, and write results and table."""
    sizes = (*Plan.n_rois, 100_000) if full else Plan.n_rois
    plan = Plan(1, 0.0, (4, 8), "compact-model1", ("compact-model1",)) if tiny else Plan(rounds, n_rois=sizes)
    write(measure(plan, choose_device(device), Console(file=sys.stderr)), out)


if __name__ == "__main__":
    guarded(lambda: typer.run(run))
