"""The reliability diagram: does a score of 0.7 mean that 70% of such ROIs are Tumor, before and after calibration?"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo.core.records import Label
from mammo.evaluation.calibration import Binning, brier, expected_calibration_error, reliability
from mammo.evaluation.metrics import FloatArray, IntArray
from mammo.report.canvas import (
    LABEL_COLOURS,
    MUTED,
    PALE,
    draw_legend,
    new_figure,
    save,
    say_empty,
    system_styles,
    tidy,
)

_COLUMNS: Final = 3
_LINE: Final[dict[str, Any]] = {"marker": "o", "markersize": 5, "linewidth": 1.6}
_RAW: Final[dict[str, Any]] = {"color": MUTED, "linestyle": "dashed", "markerfacecolor": "white"}


@dataclass(frozen=True)
class Calibrated:
    """A system in the diagram: its raw scores and its calibrated probabilities, both of shape `(n,)`."""

    name: str
    scores: FloatArray
    probabilities: FloatArray


def reliability_diagram(
    labels: IntArray,
    systems: Sequence[Calibrated],
    path: Path,
    data_note: str,
    *,
    binning: Binning = "equal_mass",
    n_bins: int = 6,
    confidence: float = 0.95,
) -> None:
    """Draw the share of Tumor ROIs against the mean score of each bin, a panel for each system.

    The bars are Wilson intervals of the shares, ticks at the edges the single ROIs (Tumor above, Normal below). The
    legend gives Brier score and expected calibration error, the line below each panel the ROIs in each bin.

    Raises:
        DataError: a system's scores are no probabilities or not those of the labelled ROIs.
    """
    columns, rows = min(_COLUMNS, max(1, len(systems))), max(1, math.ceil(len(systems) / _COLUMNS))
    title = f"Reliability, {n_bins} bins of {'equal mass' if binning == 'equal_mass' else 'equal width'}"
    figure = new_figure(max(5.6, 4.2 * columns), 5.2 * rows, title, data_note)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(4.6, 0.6) * rows)
    panels, legends = grid[::2].ravel(), grid[1::2].ravel()
    for axes in (*panels[max(1, len(systems)) :], *legends):
        axes.set_axis_off()
    for panel, below, system in zip(panels, legends, systems, strict=False):
        draw_legend(below, _draw_panel(panel, labels, system, binning, n_bins, confidence), columns=1)
    if not systems:
        tidy(panels[0])
        say_empty(panels[0], "no system was evaluated")
    save(figure, path)


def _draw_panel(
    axes: Axes, labels: IntArray, system: Calibrated, binning: Binning, n_bins: int, confidence: float
) -> list[Line2D]:
    """Draw one system; returns the entries of its legend."""
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    styles = {"raw": _RAW, "calibrated": system_styles([system.name])[system.name]}
    tables, entries = {}, []
    for kind, scores in (("raw", system.scores), ("calibrated", system.probabilities)):
        tables[kind] = reliability(labels, scores, binning=binning, n_bins=n_bins, confidence=confidence)
        error = expected_calibration_error(labels, scores, binning=binning, n_bins=n_bins)
        _draw_bins(axes, tables[kind], styles[kind])
        label = f"{kind}: Brier {brier(labels, scores):.3f}, calibration error {error:.3f}"
        entries.append(Line2D([], [], label=label, **_LINE, **styles[kind]))
    for truth, edge in ((Label.NORMAL, 0.0), (Label.TUMOR, 1.0)):
        ticks = system.probabilities[labels == truth]
        axes.plot(ticks, np.full(len(ticks), edge), "|", markersize=8, color=LABEL_COLOURS[truth], alpha=0.6)
    tidy(axes, system.name, "mean score of the bin\n" + _counts(tables), "share of Tumor ROIs")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
    if not len(labels):
        say_empty(axes, "no ROI was scored")
    return entries


def _draw_bins(axes: Axes, table: pd.DataFrame, style: dict[str, Any]) -> None:
    x, y = table["mean_score"], table["tumor_share"]
    gaps = np.clip([y - table["ci_low"], table["ci_high"] - y], 0, None)
    axes.errorbar(x, y, yerr=gaps, fmt="none", ecolor=style["color"], elinewidth=1, alpha=0.6)
    axes.plot(x, y, **_LINE, **style)


def _counts(tables: dict[str, pd.DataFrame]) -> str:
    """`ROIs per bin: 11, 10, …`, once where both kinds have the same bins."""
    counts = {kind: ", ".join(str(n) for n in table["n"]) for kind, table in tables.items()}
    lines = (
        [f"ROIs per bin: {counts['raw']}"]
        if counts["raw"] == counts["calibrated"]
        else [f"ROIs per bin, {kind}: {numbers}" for kind, numbers in counts.items()]
    )
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, 52))
