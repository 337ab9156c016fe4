"""Plots of scores and estimates: ROC and precision-recall, confusion, training, reliability, referral, the ledger.

Each function takes the PNG to write and a note on the data that the picture rests on, and raises `DataError` where the
file cannot be written.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mammo.core.records import Label
from mammo.evaluation.metrics import TITLES, FloatArray, IntArray
from mammo.report import canvas
from mammo.report.blocks import shown

Judged = Mapping[str, dict[str, Any]]
"""Name of a system → what an evaluation found of it, as `systems.assess` gives it."""

_NORMAL, _TUMOR = canvas.LABEL_COLOURS[Label.NORMAL], canvas.LABEL_COLOURS[Label.TUMOR]
_TRAINING: Final = (
    ("#0B5D8A", "o", "solid"),
    ("#C2410C", "s", "dashed"),
    ("#5B5B5B", "^", "dotted"),
    ("#009E73", "D", "dashdot"),
)
_WORDS: Final = {"train": "training", "val": "validation", "auc": "AUC"}
_BINS: Final[dict[str, Any]] = {"marker": "o", "markersize": 5, "linewidth": 1.6}
_RAW: Final[dict[str, Any]] = {"color": canvas.MUTED, "linestyle": "dashed", "markerfacecolor": "white"}
_PROMISE: Final = (0, (3, 2))
_COVERAGES: Final = (
    ("coverage", "all ROIs", canvas.INK, "o", 0.0),
    ("coverage_normal", "Normal ROIs", _NORMAL, "s", -0.22),
    ("coverage_tumor", "Tumor ROIs", _TUMOR, "^", 0.22),
)
_LEDGER_METRICS: Final = ("accuracy", "recall", "specificity", "auc_score")
_PROTOCOLS: Final = (("o", _NORMAL), ("s", "#7B3294"), ("D", _TUMOR))
"""Marker and colour of the ledger's protocols, told apart without colour too."""
_PAPER: Final = ("^", canvas.INK)


def roc_and_precision_recall(
    labels: IntArray,
    scores: Mapping[str, FloatArray],
    judged: Judged,
    path: Path,
    data_note: str,
) -> None:
    """Draw the ROC and the precision-recall curves of several systems side by side.

    `labels` are true classes, shape `(n,)`; `scores` give each system's score of each ROI, `(n,)`, and its name fixes
    the line's colour and dashes; the AUC of each that was `judged` stands in the legend.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve  # here: it takes 1 s to import

    heights = (4.9, 0.24 * math.ceil(len(scores) / 2) + 0.1)
    figure = canvas.new_figure(10, sum(heights), "ROC and precision-recall curves, ROI level", data_note)
    (roc, precision_recall), below = _panels_and_legend(figure, heights, 2)
    canvas.tidy(roc, "ROC", "1 − specificity", "Tumor recall (sensitivity)")
    canvas.tidy(precision_recall, "Precision-recall", "Tumor recall (sensitivity)", "Tumor precision")
    styles = canvas.system_styles(list(scores))
    for name, style in styles.items():
        style |= {"linewidth": 1.8, "label": f"{name}: AUC {shown(judged[name]['roi']['auc_score'])}"}
    two_classes = len(np.unique(labels)) == len(Label)
    for axes in (roc, precision_recall):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        if not two_classes:
            canvas.say_empty(axes, "no curve: one class is absent")
    if two_classes:
        share = float(np.mean(labels))
        chance: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8, "color": canvas.MUTED}
        roc.plot([0, 1], [0, 1], color=canvas.PALE, linewidth=1)
        roc.text(0.99, 0.96, "chance", rotation=45, rotation_mode="anchor", **chance)
        precision_recall.axhline(share, color=canvas.PALE, linewidth=1)
        precision_recall.text(0.99, share - 0.015, f"chance: {share:.2f}", **chance)
        for name, style in styles.items():
            false_alarms, recall, _ = roc_curve(labels, scores[name])
            roc.plot(false_alarms, recall, **style)
            precision, recall, _ = precision_recall_curve(labels, scores[name])
            # Steps: the precision between two thresholds is not what lies on a straight line.
            precision_recall.step(recall, precision, where="post", **style)
    entries = [Line2D([], [], **style) for style in styles.values()]
    canvas.draw_legend(below, entries, columns=2)
    canvas.save(figure, path)


def confusion_matrices(judged: Judged, path: Path, data_note: str) -> None:
    """Draw the confusion matrices of several systems side by side, four in a row.

    A cell's colour deepens with its share of the row, so that recall and specificity can be seen.
    """
    columns, rows = min(4, len(judged)), math.ceil(len(judged) / 4)
    width = max(5.0, 2.9 * columns)
    figure = canvas.new_figure(width, 3.2 * rows, "Confusion matrices, ROI level", data_note)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, one) in zip(grid, judged.items(), strict=False):
        canvas.tidy(axes, f"{name}\naccuracy {shown(one['roi']['accuracy'], 2)}", "decision", "truth")
        tp, fn, fp, tn = (one["confusion"][count] for count in ("tp", "fn", "fp", "tn"))
        _draw_matrix(axes, np.array([[tn, fp], [fn, tp]]))
    for axes in grid[len(judged) :]:
        axes.set_axis_off()
    canvas.save(figure, path)


def _draw_matrix(axes: Axes, counts: IntArray) -> None:
    """Draw cells `(truth, decision)` with the count and its share of the row."""
    for (truth, called), count in np.ndenumerate(counts):
        in_row = counts[truth].sum()
        share = count / in_row if in_row else 0.0
        # The deepest cell keeps 60% of the colour, so that dark text stays legible on it.
        fill = to_rgba(canvas.LABEL_COLOURS[Label(called)], 0.06 + 0.54 * share)
        axes.add_patch(Rectangle((called - 0.5, truth - 0.5), 1, 1, facecolor=fill, edgecolor="white"))
        text: dict[str, Any] = {"ha": "center", "va": "center", "color": canvas.INK}
        axes.text(called, truth, str(count), fontsize=15, **text)
        axes.text(called, truth + 0.3, f"{share:.0%} of {in_row}" if in_row else "n/a", fontsize=7.5, **text)
    names = [label.title for label in Label]
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal")
    axes.set_xticks(list(Label), names)
    axes.set_yticks(list(Label), names, rotation=90, va="center")
    axes.title.set_fontsize(8.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def training_curves(history: pd.DataFrame, system: str, path: Path, data_note: str) -> None:
    """Draw losses and validation metrics over the epochs, and mark the epoch of the lowest validation loss.

    `history` has one row for each epoch: `epoch`, `train_loss`, `val_loss`, `val_auc`; further `val_…` columns between
    0 and 1 are drawn beside the AUC. Of an ensemble `member` says whose epoch it is, and each has its mark.
    """
    figure = canvas.new_figure(10, 3.8, f"Training of {system}", data_note)
    losses, metrics = figure.subplots(1, 2)
    canvas.tidy(losses, "Cross-entropy of patches", "epoch", "loss")
    canvas.tidy(metrics, "Validation", "epoch", "value")
    metrics.set_ylim(0, 1.02)
    judged = [name for name in map(str, history) if name.startswith("val_") and name != "val_loss"]
    by_epoch = history.set_index("epoch")
    members = by_epoch["member"] if "member" in history else pd.Series(0, by_epoch.index)
    chosen = list(by_epoch["val_loss"].groupby(members).idxmin())
    lowest = f"lowest validation loss: epoch {' and '.join(map(str, chosen))}"
    dashed: dict[str, Any] = {"color": canvas.MUTED, "linewidth": 0.9, "linestyle": (0, (2, 2)), "zorder": 1}
    for axes, columns in ((losses, ["train_loss", "val_loss"]), (metrics, judged)):
        for column, (colour, marker, dashes) in zip(columns, _TRAINING, strict=False):
            in_words = " ".join(_WORDS.get(part, part) for part in column.split("_"))
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "markersize": 4}
            look |= {"marker": marker if len(history) <= 40 else "", "label": in_words}
            axes.plot(history["epoch"], history[column], **look)
        for best in chosen:
            axes.axvline(best, label=lowest if best == chosen[0] else None, **dashed)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=8.5, frameon=False, labelcolor=canvas.INK, loc="best")
    canvas.save(figure, path)


def reliability_diagram(
    labels: IntArray,
    judged: Judged,
    probabilities: Mapping[str, FloatArray],
    path: Path,
    data_note: str,
) -> None:
    """Draw the share of Tumor ROIs against the mean score of each bin, a panel for each system.

    The bars are Wilson intervals of the shares, ticks at the edges the single ROIs (Tumor above, Normal below) with
    these labels and calibrated `probabilities`, `(n,)`. The legend gives Brier score and expected calibration error,
    the line below each panel the ROIs in each bin.
    """
    columns, rows = min(3, len(judged)), math.ceil(len(judged) / 3)
    first = next(iter(judged.values()))["calibration"]
    title = f"Reliability, {first['n_bins']} bins of {first['binning'].replace('_', ' ')}"
    figure = canvas.new_figure(max(5.6, 4.2 * columns), 5.2 * rows, title, data_note)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(4.6, 0.6) * rows)
    for axes in grid.ravel():
        axes.set_axis_off()
    styles = canvas.system_styles(list(judged))
    panels, legends = grid[::2].ravel(), grid[1::2].ravel()
    for axes, below, (name, one) in zip(panels, legends, judged.items(), strict=False):
        axes.set_axis_on()
        axes.plot([0, 1], [0, 1], color=canvas.PALE, linewidth=1)
        counts, entries = {}, []
        for kind, style in (("raw", _RAW), ("calibrated", styles[name])):
            found = one["calibration"][kind]
            table = pd.DataFrame(found["bins"])
            brier, error = (found[of]["value"] for of in ("brier", "calibration_error"))
            label = f"{kind}: Brier {brier:.3f}, calibration error {error:.3f}"
            x, y = table["mean_score"], table["tumor_share"]
            gaps = np.clip([y - table["ci_low"], table["ci_high"] - y], 0, None)
            axes.errorbar(x, y, yerr=gaps, fmt="none", ecolor=style["color"], elinewidth=1, alpha=0.6)
            entries += axes.plot(x, y, label=label, **_BINS, **style)
            counts[kind] = ", ".join(map(str, table["n"]))
        for truth, colour in canvas.LABEL_COLOURS.items():
            ticks = probabilities[name][labels == truth]
            axes.plot(ticks, np.full(len(ticks), float(truth)), "|", markersize=8, color=colour, alpha=0.6)
        if counts["raw"] == counts["calibrated"]:
            lines = [f"ROIs per bin: {counts['raw']}"]
        else:
            lines = [f"ROIs per bin, {kind}: {numbers}" for kind, numbers in counts.items()]
        in_bins = (piece for line in lines for piece in textwrap.wrap(line, 52))
        canvas.tidy(axes, name, "\n".join(["mean score of the bin", *in_bins]), "share of Tumor ROIs")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
        canvas.draw_legend(below, entries, columns=1)
    canvas.save(figure, path)


def referral_picture(folds: Sequence[dict[str, Any]], path: Path, data_note: str) -> None:
    """Draw the coverage of each fold that `judge_fold` judged beside its promise, and its referral rate."""
    rows = np.arange(len(folds), dtype=float)
    heights = (1.6 + 0.55 * len(folds), 0.3)
    title = "Prediction sets: coverage against the promise, and referrals"
    figure = canvas.new_figure(10, sum(heights), title, data_note)
    (coverage, referral), below = _panels_and_legend(figure, heights, 2)
    canvas.tidy(coverage, "Coverage", "share of the sets that hold the true class")
    canvas.tidy(referral, "Refer to reader", "share of the ROIs whose set holds both classes")
    coverage.vlines([fold["promise"] for fold in folds], rows - 0.42, rows + 0.42, canvas.MUTED, _PROMISE)
    entries = [Line2D([], [], color=canvas.MUTED, linestyle=_PROMISE, label="promise")]
    entries += [Line2D([], [], color=colour, marker=marker, label=label) for _, label, colour, marker, _ in _COVERAGES]
    rates = [(coverage, *one) for one in _COVERAGES]
    for axes, name, _, colour, marker, shift in (*rates, (referral, "referral_rate", "", canvas.INK, "o", 0)):
        ends = [[fold[name][end] for end in ("value", "ci_low", "ci_high")] for fold in folds]
        values, low, high = np.array(ends, dtype=float).T
        look: dict[str, Any] = {"fmt": marker, "color": colour, "elinewidth": 1.2, "markersize": 5}
        axes.errorbar(values, rows + shift, xerr=np.clip([values - low, high - values], 0, None), **look)
    for axes, names in ((coverage, [fold["fold"] for fold in folds]), (referral, [""] * len(folds))):
        axes.set(xlim=(-0.02, 1.02), ylim=(len(folds) - 0.5, -0.5))
        axes.set_yticks(rows, names)
    canvas.draw_legend(below, entries, columns=4)
    canvas.save(figure, path)


def draw_ledger(ledger: dict[str, Any], path: Path, data_note: str) -> None:
    """Draw the rows of the ledger: one panel a metric, one mark a protocol, the paper's figures beside them."""
    rows = ledger["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    marks = dict(zip(protocols, _PROTOCOLS, strict=False))
    height = 0.46 * len(names) + 0.9
    figure = canvas.new_figure(13.5, height + 0.4, "Ledger: published and honest protocols", data_note)
    panels, below = _panels_and_legend(figure, (height, 0.3), len(_LEDGER_METRICS))
    for axes, metric in zip(panels, _LEDGER_METRICS, strict=True):
        canvas.tidy(axes, TITLES[metric])
        for row in rows:
            found = row["cells"].get(metric)
            if found is None or found["value"] is None:
                continue
            (marker, colour), y = _PAPER, float(names.index(row["name"]))
            if row["kind"] != "paper":
                marker, colour = marks[row["protocol"]]
                # Protocols stand beside each other in a row's line, so that intervals do not cover each other.
                y += (protocols.index(row["protocol"]) - (len(protocols) - 1) / 2) * 0.24
            if found["ci_low"] is not None:
                axes.hlines(y, found["ci_low"], found["ci_high"], color=colour, linewidth=1.6)
            axes.plot([found["value"]], [y], marker=marker, color=colour, markersize=5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))
        axes.tick_params(axis="y", labelcolor=canvas.INK, length=0)
        axes.grid(visible=False, axis="y")
        for border in range(1, len(names)):
            axes.axhline(border - 0.5, color=canvas.PALE, linewidth=0.6)
    if any(row["kind"] == "paper" for row in rows):
        marks["Paper, as reported"] = _PAPER
    line: dict[str, Any] = {"linewidth": 1.6, "markersize": 5}
    entries = [
        Line2D([], [], marker=marker, color=colour, label=name[0].upper() + name[1:], **line)
        for name, (marker, colour) in marks.items()
    ]
    canvas.draw_legend(below, entries, len(entries), fontsize=9, labelcolor=canvas.MUTED, handlelength=2)
    canvas.save(figure, path)


def _panels_and_legend(figure: Figure, heights: tuple[float, float], n: int) -> tuple[list[Axes], Axes]:
    """A row of `n` panels and, below them, a row for the legend."""
    grid = figure.add_gridspec(2, n, height_ratios=heights)
    panels = [figure.add_subplot(grid[0, column]) for column in range(n)]
    return panels, figure.add_subplot(grid[1, :])
