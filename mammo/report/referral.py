"""Coverage and referral rate by fold against the promise."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo.core.records import Label
from mammo.evaluation.conformal import FoldReferral
from mammo.report.canvas import INK, LABEL_COLOURS, MUTED, draw_legend, new_figure, save, say_empty, tidy

_PROMISE: Final = (0, (3, 2))
_SERIES: Final = (
    ("coverage", "all ROIs", INK, "o", 0.0),
    ("coverage_normal", "Normal ROIs", LABEL_COLOURS[Label.NORMAL], "s", 0.22),
    ("coverage_tumor", "Tumor ROIs", LABEL_COLOURS[Label.TUMOR], "^", -0.22),
)


def referral_picture(folds: Sequence[FoldReferral], path: Path, data_note: str) -> None:
    """Draw each fold's coverage beside the promise, and its referral rate, with Wilson intervals.

    Raises:
        DataError: the file cannot be written.
    """
    figure = new_figure(
        10,
        1.9 + 0.55 * max(1, len(folds)),
        "Prediction sets: coverage against the promise, and referrals",
        data_note,
    )
    grid = figure.add_gridspec(2, 2, height_ratios=(1.6 + 0.55 * max(1, len(folds)), 0.3))
    coverage = figure.add_subplot(grid[0, 0])
    referral = figure.add_subplot(grid[0, 1], sharey=coverage)
    referral.tick_params(labelleft=False)
    below = figure.add_subplot(grid[1, :])
    below.set_axis_off()
    tidy(coverage, "Coverage", "share of the sets that hold the true class")
    tidy(referral, "Refer to reader", "share of the ROIs whose set holds both classes")
    for axes in (coverage, referral):
        axes.set(xlim=(-0.02, 1.02), ylim=(max(1, len(folds)) - 0.5, -0.5))
    if not folds:
        say_empty(coverage, "no fold was judged")
        say_empty(referral, "no fold was judged")
        save(figure, path)
        return
    for row, fold in enumerate(folds):
        coverage.vlines(fold.promise, row - 0.42, row + 0.42, colors=MUTED, linestyles=_PROMISE)
        for name, _, colour, marker, shift in _SERIES:
            _draw_rate(coverage, fold, name, row - shift, colour, marker)
        _draw_rate(referral, fold, "referral_rate", row, INK, "o")
    coverage.set_yticks(range(len(folds)), [fold.fold for fold in folds])
    entries = [Line2D([], [], color=MUTED, linestyle=_PROMISE, label="promise")]
    entries += [
        Line2D([], [], color=colour, marker=marker, label=title) for _, title, colour, marker, _ in _SERIES
    ]
    draw_legend(below, entries, columns=4)
    save(figure, path)


def _draw_rate(axes: Axes, fold: FoldReferral, name: str, y: float, colour: str, marker: str) -> None:
    estimate = fold.rate(name)
    if math.isnan(estimate.value):
        return
    line: dict[str, Any] = {"color": colour, "elinewidth": 1.2, "markersize": 5}
    gaps = [[max(0, estimate.value - estimate.ci_low)], [max(0, estimate.ci_high - estimate.value)]]
    axes.errorbar([estimate.value], [y], xerr=gaps, fmt=marker, **line)
