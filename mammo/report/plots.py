"""Curves and tables as pictures: ROC and precision-recall, confusions, training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, percent, wilson
from mammo.evaluation.metrics import Confusion, FloatArray, IntArray, check_arrays
from mammo.report.canvas import (
    INK,
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

ONE_CLASS: Final = "no curve: one class is absent"

Styles = dict[str, dict[str, Any]]
"""Line style of each system's name, as `canvas.system_styles` gives it."""


@dataclass(frozen=True)
class ScoredSystem:
    """A system in a picture of curves.

    Attributes:
        name: `compact-model2`, `floor`; it fixes the line's colour and dashes.
        scores: the system's score of each ROI, shape `(n,)`.
        auc: its AUC with the interval, for the legend; None leaves it out.
    """

    name: str
    scores: FloatArray
    auc: Estimate | None = None


def roc_and_precision_recall(
    labels: IntArray, systems: Sequence[ScoredSystem], path: Path, data_note: str
) -> None:
    """Draw the ROC and the precision-recall curves of several systems side by side.

    Raises:
        DataError: a system's scores are not those of the labelled ROIs.
    """
    for system in systems:
        check_arrays(labels, scores=system.scores)
    styles = system_styles([system.name for system in systems])
    legend_in = 0.24 * math.ceil(len(systems) / 2) + 0.1
    figure = new_figure(10, 4.9 + legend_in, "ROC and precision-recall curves, ROI level", data_note)
    grid = figure.add_gridspec(2, 2, height_ratios=(4.9, legend_in))
    roc, precision_recall = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    tidy(roc, "ROC", "1 − specificity", "Tumor recall (sensitivity)")
    tidy(precision_recall, "Precision-recall", "Tumor recall (sensitivity)", "Tumor precision")
    for axes in (roc, precision_recall):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_aspect("equal")
    if len(np.unique(labels)) < len(Label):
        say_empty(roc, ONE_CLASS)
        say_empty(precision_recall, ONE_CLASS)
    else:
        _draw_curves(roc, precision_recall, labels, systems, styles)
    draw_legend(figure.add_subplot(grid[1, :]), [_entry(system, styles) for system in systems], columns=2)
    save(figure, path)


def _draw_curves(
    roc: Axes, precision_recall: Axes, labels: IntArray, systems: Sequence[ScoredSystem], styles: Styles
) -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve  # here: it takes 1 s to import

    share = float(np.mean(labels))
    roc.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    chance: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8, "color": MUTED}
    roc.text(0.99, 0.96, "chance", rotation=45, rotation_mode="anchor", **chance)
    precision_recall.axhline(share, color=PALE, linewidth=1)
    precision_recall.text(0.99, share - 0.015, f"chance: {share:.2f}", **chance)
    for system in systems:
        style = styles[system.name]
        false_alarms, recall, _ = roc_curve(labels, system.scores)
        roc.plot(false_alarms, recall, linewidth=1.8, **style)
        precision, recall, _ = precision_recall_curve(labels, system.scores)
        # Steps: the precision between two thresholds is not what lies on a straight line.
        precision_recall.step(recall, precision, where="post", linewidth=1.8, **style)


def _entry(system: ScoredSystem, styles: Styles) -> Line2D:
    label = system.name if system.auc is None else f"{system.name}: AUC {_with_interval(system.auc)}"
    return Line2D([], [], linewidth=1.8, label=label, **styles[system.name])


def _with_interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "n/a"
    if math.isnan(estimate.ci_low):
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} ({percent(estimate.confidence)} {estimate.ci_low:.3f} to {estimate.ci_high:.3f})"


def confusion_matrices(
    confusions: Mapping[str, Confusion], path: Path, data_note: str, confidence: float = 0.95
) -> None:
    """Draw the confusion matrices of several systems side by side, four in a row.

    A cell's colour deepens with its share of the row, so that recall and specificity can be seen.
    """
    columns, rows = min(4, max(1, len(confusions))), max(1, math.ceil(len(confusions) / 4))
    figure = new_figure(max(5.0, 2.7 * columns), 3.2 * rows, "Confusion matrices, ROI level", data_note)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, table) in zip(grid, confusions.items(), strict=False):
        _draw_matrix(axes, name, table, confidence)
    for axes in grid[len(confusions) :]:
        axes.set_axis_off()
    if not confusions:
        say_empty(grid[0], "no system was evaluated")
    save(figure, path)


def _draw_matrix(axes: Axes, name: str, table: Confusion, confidence: float) -> None:
    cells = {
        (Label.NORMAL, Label.NORMAL): table.tn,
        (Label.NORMAL, Label.TUMOR): table.fp,
        (Label.TUMOR, Label.NORMAL): table.fn,
        (Label.TUMOR, Label.TUMOR): table.tp,
    }
    for (truth, called), count in cells.items():
        in_row = cells[truth, Label.NORMAL] + cells[truth, Label.TUMOR]
        share = count / in_row if in_row else 0.0
        # The deepest cell keeps 60% of the colour, so that dark text stays legible on it.
        fill = to_rgba(LABEL_COLOURS[called], 0.06 + 0.54 * share)
        axes.add_patch(Rectangle((called - 0.5, truth - 0.5), 1, 1, facecolor=fill, edgecolor="white"))
        axes.text(called, truth, str(count), ha="center", va="center", fontsize=15, color=INK)
        text = f"{share:.0%} of {in_row}" if in_row else "n/a"
        axes.text(called, truth + 0.3, text, ha="center", va="center", fontsize=7.5, color=INK)
    accuracy = wilson(*table.trials("accuracy"), confidence)
    tidy(axes, f"{name}\naccuracy {_short(accuracy)}", "decision", "truth")
    names = [label.title for label in Label]
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal")
    axes.set_xticks(list(Label), names)
    axes.set_yticks(list(Label), names, rotation=90, va="center")
    axes.title.set_fontsize(8.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _short(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "n/a"
    return f"{estimate.value:.2f} ({estimate.ci_low:.2f} to {estimate.ci_high:.2f})"


def training_curves(history: pd.DataFrame, system: str, path: Path, data_note: str) -> None:
    """Draw losses and validation metrics over the epochs, and mark the epoch of the lowest validation loss.

    Args:
        history: one row for each epoch: `epoch`, `train_loss`, `val_loss`, `val_auc`; further `val_…` columns
            that lie between 0 and 1 (accuracies) are drawn beside the AUC.
        system: the trained system's name.
        path: the PNG to write.
        data_note: which data the run rests on.
    """
    figure = new_figure(10, 3.8, f"Training of {system}", data_note)
    loss_axes, metric_axes = figure.subplots(1, 2)
    tidy(loss_axes, "Cross-entropy of patches", "epoch", "loss")
    tidy(metric_axes, "Validation", "epoch", "value")
    metric_axes.set_ylim(0, 1.02)
    if history.empty:
        say_empty(loss_axes, "no epoch was finished")
        say_empty(metric_axes, "no epoch was finished")
        save(figure, path)
        return
    metrics = [column for column in history if str(column).startswith("val_") and column != "val_loss"]
    _draw_lines(loss_axes, history, ["train_loss", "val_loss"])
    _draw_lines(metric_axes, history, [str(column) for column in metrics])
    if history["val_loss"].notna().any():
        best = int(history["epoch"].to_numpy()[np.nanargmin(history["val_loss"].to_numpy())])
        line: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (2, 2)), "zorder": 1}
        for axes in (loss_axes, metric_axes):
            axes.axvline(best, label=f"lowest validation loss: epoch {best}", **line)
    for axes in (loss_axes, metric_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="best")
    save(figure, path)


_CURVES = (
    ("#0B5D8A", "o", "solid"),
    ("#C2410C", "s", "dashed"),
    ("#5B5B5B", "^", "dotted"),
    ("#009E73", "D", "dashdot"),
)


def _draw_lines(axes: Axes, history: pd.DataFrame, columns: Sequence[str]) -> None:
    for column, (colour, marker, dashes) in zip(columns, _CURVES, strict=False):
        axes.plot(
            history["epoch"],
            history[column],
            color=colour,
            linestyle=dashes,
            marker=marker if len(history) <= 40 else "",
            markersize=4,
            linewidth=1.6,
            label=_in_words(column),
        )


def _in_words(column: str) -> str:
    words = {"train": "training", "val": "validation", "auc": "AUC"}
    return " ".join(words.get(part, part) for part in column.split("_"))
