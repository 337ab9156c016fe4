"""Forest plots: one line a row, a point with its interval for each protocol or variant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo.evaluation.metrics import TITLES
from mammo.report.canvas import INK, MUTED, PALE, new_figure, save, tidy

PANELS: Final = ("accuracy", "recall", "specificity", "auc_score")
MARKS: Final = (("o", "#0072B2"), ("s", "#7B3294"), ("D", "#D55E00"))
"""Marker and colour of the protocols, told apart without colour too."""
_PAPER: Final[tuple[str, str]] = ("^", INK)
_ROW_IN: Final = 0.46


@dataclass(frozen=True)
class _Point:
    row: int
    offset: float
    mark: tuple[str, str]
    found: dict[str, Any]


def draw_ledger(ledger: dict[str, Any], path: Path, data_note: str) -> None:
    """Draw the rows of the ledger: one panel a metric, one mark a protocol, the paper's figures beside them.

    Raises:
        DataError: the file cannot be written.
    """
    rows = ledger["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    marks = dict(zip(protocols, MARKS, strict=False))
    height = _ROW_IN * len(names) + 0.9
    figure = new_figure(13.5, height + 0.4, "Ledger: published and honest protocols", data_note)
    grid = figure.add_gridspec(2, len(PANELS), height_ratios=(height, 0.3))
    for column, metric in enumerate(PANELS):
        axes = figure.add_subplot(grid[0, column])
        points = [
            _Point(
                names.index(row["name"]),
                0.0 if row["kind"] == "paper" else _offset(protocols, row["protocol"]),
                _PAPER if row["kind"] == "paper" else marks[row["protocol"]],
                found,
            )
            for row in rows
            if (found := row["cells"].get(metric)) is not None and found["value"] is not None
        ]
        tidy(axes, TITLES[metric])
        _draw_points(axes, points, names if column == 0 else [""] * len(names))
    legend = [(f"{name[0].upper()}{name[1:]}", mark) for name, mark in marks.items()]
    if any(row["kind"] == "paper" for row in rows):
        legend.append(("Paper, as reported", _PAPER))
    _draw_legend(figure.add_subplot(grid[1, :]), legend)
    save(figure, path)


def _offset(protocols: Sequence[str], protocol: str) -> float:
    """Where in its row's line a protocol stands, so that intervals do not cover each other."""
    return (protocols.index(protocol) - (len(protocols) - 1) / 2) * 0.24


def _draw_points(axes: Axes, points: Sequence[_Point], labels: Sequence[str]) -> None:
    for point in points:
        marker, colour = point.mark
        y = point.row + point.offset
        if point.found["ci_low"] is not None:
            axes.hlines(y, point.found["ci_low"], point.found["ci_high"], color=colour, linewidth=1.6)
        axes.plot([point.found["value"]], [y], marker=marker, color=colour, markersize=5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.grid(visible=False, axis="y")
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color=PALE, linewidth=0.6)


def _draw_legend(axes: Axes, entries: Sequence[tuple[str, tuple[str, str]]]) -> None:
    axes.set_axis_off()
    handles = [
        Line2D([], [], marker=marker, color=colour, linewidth=1.6, markersize=5, label=label)
        for label, (marker, colour) in entries
    ]
    axes.legend(
        handles=handles, loc="center", ncols=len(handles), fontsize=9, frameon=False, labelcolor=MUTED
    )
