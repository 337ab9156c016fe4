"""Coverage and referral rate by fold against the promise: a markdown table and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo.core.records import Label
from mammo.evaluation.conformal import RATES, FoldReferral, over_folds
from mammo.report.canvas import INK, LABEL_COLOURS, MUTED, draw_legend, new_figure, save, say_empty, tidy
from mammo.report.markdown import markdown_table
from mammo.report.tables import cell

_PROMISE: Final = (0, (3, 2))
_SERIES: Final = (
    ("coverage", "all ROIs", INK, "o", 0.0),
    ("coverage_normal", "Normal ROIs", LABEL_COLOURS[Label.NORMAL], "s", 0.22),
    ("coverage_tumor", "Tumor ROIs", LABEL_COLOURS[Label.TUMOR], "^", -0.22),
)


def referral_table(folds: Sequence[FoldReferral]) -> list[str]:
    """Markdown rows: promise, coverage and referral rate of each fold with Wilson intervals."""
    rows = []
    for fold in folds:
        rates = [f"{cell(fold.rate(name).to_dict())}, n = {fold.rate(name).n}" for name in RATES]
        rows.append([str(fold.fold), str(fold.n_calibration), f"{fold.promise:.2f}", *rates, fold.verdict])
    headings = ["fold", "ROIs that fitted", "promise", *RATES.values(), "promise was"]
    return markdown_table(headings, rows)


def referral_summary(folds: Sequence[FoldReferral], over_runs: dict[str, dict[str, Any]]) -> str:
    """One sentence over several folds or fits of one system: promise, every rate with its interval, its spread.

    Whether the promise was kept is a question for these rates: coverage is promised on average over folds.

    Args:
        folds: the folds.
        over_runs: each of the `RATES` over all judged ROIs with its interval, as JSON holds it.
    """
    promised = " and ".join(f"{promise:.2f}" for promise in sorted({fold.promise for fold in folds}))
    spread = over_folds(folds, folds[0].coverage.confidence)
    rates = ", ".join(
        f"{title.lower().replace('normal', 'Normal').replace('tumor', 'Tumor')} {cell(over_runs[name])}"
        + ("" if math.isnan(spread[name].sd) else f" ± {spread[name].sd:.3f}")
        for name, title in RATES.items()
    )
    return (
        f"Mean over the runs with its interval, ± the standard deviation over {len(folds)} folds, at a promised "
        f"coverage of {promised}: {rates}."
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
