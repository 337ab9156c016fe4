"""Ways to do one thing, timed in turn: A B A B …, so that whatever else the machine does hits all alike.

Also what all benchmarks need: programs of this environment, servers for a while, and tables in `README.md`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Final
from urllib.request import urlopen

from mammo.core.errors import MammoError
from mammo.core.files import write_bytes

READY_S: Final = 120


@dataclass(frozen=True)
class Plan:
    """What to measure: rounds, least seconds of each way in a round, ROIs of the scaling rows, the frozen system
    and those that train whole."""

    rounds: int = 5
    least_s: float = 1.0
    n_rois: tuple[int, ...] = (100, 1_000, 10_000)
    frozen: str = "vgg16-model1"
    trained: tuple[str, ...] = ("compact-baseline", "compact-model1", "compact-model2")

    def short(self) -> "Plan":
        """Of three rounds at most, for what takes long."""
        return replace(self, rounds=min(3, self.rounds))


@dataclass(frozen=True)
class Row:
    """One measured thing.

    Attributes:
        group, name, unit: where it stands, what it is, and of what its values are.
        values: of the rounds, none where it was skipped.
        against, times: another row of its group, and how often better than that this one is, by their medians.
        wanted: the ratio that the project aims at; no run fails for it.
        skipped: why there are no values.
    """

    group: str
    name: str
    unit: str
    values: tuple[float, ...] = ()
    against: str = ""
    times: float | None = None
    wanted: float | None = None
    skipped: str = ""


@dataclass(frozen=True)
class Way:
    """A way to do a thing: `do` does some of it, waits for the result and returns how much that was."""

    name: str
    do: Callable[[], float] | None
    against: str = ""
    wanted: float | None = None
    skipped: str = ""


def rates(group: str, unit: str, ways: Sequence[Way], plan: Plan) -> list[Row]:
    """Units a second of each way; the first call of each is not counted."""
    can = {way.name: way.do for way in ways if way.do is not None}
    found: dict[str, list[float]] = {name: [] for name in can}
    for do in can.values():
        do()
    for _ in range(plan.rounds):
        for name, do in can.items():
            found[name].append(_rate(do, plan.least_s))
    rows = [
        Row(
            group,
            way.name,
            unit,
            tuple(found.get(way.name, ())),
            way.against,
            wanted=way.wanted,
            skipped=way.skipped,
        )
        for way in ways
    ]
    return with_ratios(rows)


def _rate(do: Callable[[], float], least_s: float) -> float:
    started, done = perf_counter(), do()
    while perf_counter() - started < least_s:
        done += do()
    return done / (perf_counter() - started)


def with_ratios(rows: Sequence[Row], *, less_is_better: bool = False) -> list[Row]:
    """The rows of a group with their ratios filled in."""
    medians: Mapping[str, float] = {row.name: median(row.values) for row in rows if row.values}

    def ratio(row: Row) -> float | None:
        if row.name not in medians or row.against not in medians:
            return None
        own, other = medians[row.name], medians[row.against]
        return other / own if less_is_better else own / other

    return [replace(row, times=ratio(row)) for row in rows]


def program(name: str) -> str:
    """The path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], folder: Path, ready: str, **environment: str) -> Iterator[None]:
    """A server, from its first answer at the address `ready` to the end of the block."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            started = monotonic()
            while True:
                with suppress(OSError), urlopen(ready, timeout=5):
                    break
                if server.poll() is not None or monotonic() - started > READY_S:
                    raise MammoError(
                        f"`{' '.join(command)}` gives no answer at {ready}; run it by hand (it needs a champion: "
                        "`dvc repro` or `mammo demo`)"
                    )
                sleep(0.02)
            yield
        finally:
            server.terminate()


def put_table(readme: Path, name: str, table: str) -> None:
    """The table between the two markers of its name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = readme.read_text().partition(begin)
    write_bytes(readme, f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}".encode())
