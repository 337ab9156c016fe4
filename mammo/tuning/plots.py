"""The pictures of a study: history, slices, importance, parallel lines; contours by Optuna."""

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import NullFormatter
from optuna.trial import FrozenTrial, TrialState

from mammo.core.errors import NOTICE, data_name
from mammo.core.files import atomic_path
from mammo.core.tune_config import Choices, Parameter
from mammo.evaluation.intervals import percent
from mammo.report.canvas import INK, MUTED, new_figure, save, tidy
from mammo.tuning.quiet import experimental
from mammo.tuning.study import OpenStudy

MOST_PAIRED: Final = 4
"""Parameters in the contour plot: all pairs of all of them would be too small to read."""
_DPI: Final = 110
_BLUE: Final = "#0072b2"
_STOPPED: Final = "#999999"


def write_plots(opened: OpenStudy, shares: dict[str, dict[str, Any]], folder: Path) -> None:
    """Draw a study's trials that count; importance and contours only where values differ.

    Args:
        opened: a study with a complete trial.
        shares: importance of each parameter, largest first (`importance.importances`).
        folder: where `history.png`, `slice.png`, `importance.png`, `contour.png`, `parallel_coordinate.png` go.
    """
    trials = [trial for trial in opened.ended if trial.state != TrialState.FAIL]
    metric, note = opened.config.tune.metric, _note(opened)
    _draw_history(trials, metric, note, folder / "history.png")
    _draw_slices(opened, trials, metric, note, folder / "slice.png")
    if shares:
        _draw_importance(shares, metric, note, folder / "importance.png")
    complete, _ = _split(trials)
    if len({trial.value for trial in complete}) > 1:
        _draw_parallel(opened, trials, metric, note, folder / "parallel_coordinate.png")
    varied = [name for name in shares if len({trial.params[name] for trial in complete}) > 1]
    if len(varied) > 1:
        study = optuna.create_study(direction="maximize", study_name=opened.study.study_name)
        study.add_trials(trials)
        _draw_contours(study, varied, metric, note, folder)


def _note(opened: OpenStudy) -> str:
    data = data_name(opened.study.user_attrs["synthetic"])
    return f"{data} ROIs of train and val, {opened.config.tune.n_folds} grouped folds, mean over the folds"


def _split(trials: list[FrozenTrial]) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Complete ones, and pruned ones that reported a value."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return complete, [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]


def _draw_history(trials: list[FrozenTrial], metric: str, note: str, path: Path) -> None:
    # By index: a retry ends after later trials.
    complete, pruned = _split(sorted(trials, key=lambda trial: int(trial.user_attrs["index"])))
    figure = new_figure(8, 4, "History of the study", note)
    axes = figure.add_subplot()
    at = [trial.user_attrs["index"] for trial in complete]
    values = np.array([trial.value for trial in complete], dtype=float)
    axes.scatter(at, values, color=_BLUE, label="complete", zorder=3)
    last = max(trial.user_attrs["index"] for trial in trials)
    best = np.maximum.accumulate(values)
    axes.step([*at, last], [*best, *best[-1:]], where="post", color=INK, linewidth=1, label="best so far")
    _mark_below(axes, [trial.user_attrs["index"] for trial in pruned], label="pruned")
    # The marks have no place of their own in the axes' limits, and the last trials are often pruned.
    axes.set_xlim(-1, last + 1)
    tidy(axes, f"{len(complete)} complete, {len(pruned)} pruned", "trial", metric)
    # Beside the axes, where no point can lie under it.
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def _mark_below(axes: Axes, places: Sequence[float], label: str | None = None) -> None:
    """Marks along the lower edge: trials whose value is not known."""
    bottom = np.full(len(places), 0.02)
    low = axes.get_xaxis_transform()
    axes.scatter(places, bottom, marker="|", color=_STOPPED, transform=low, label=label)


def _draw_slices(opened: OpenStudy, trials: list[FrozenTrial], metric: str, note: str, path: Path) -> None:
    """The value over the whole searched range of each parameter; pruned trials as marks along the lower edge."""
    complete, pruned = _split(trials)
    space = opened.config.tune.space
    n_columns = min(4, len(space))
    n_rows = -(-len(space) // n_columns)
    title = "Value over each parameter (the darker, the later the trial; marks below: pruned)"
    figure = new_figure(11, 2.5 * n_rows, title, note)
    panels = np.ravel(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False))
    order = [trial.user_attrs["index"] for trial in complete]
    ends = Normalize(-0.5 * max(order, default=1), max(order, default=1))
    for axes, (name, parameter) in zip(panels, space.items(), strict=False):
        tidy(axes, name)
        place = _span(axes, parameter)
        values = [float(trial.value or 0) for trial in complete]
        axes.scatter(
            [place(t.params[name]) for t in complete], values, s=20, c=order, cmap="Blues", norm=ends
        )
        _mark_below(axes, [place(t.params[name]) for t in pruned])
    for axes in panels[::n_columns]:
        axes.set_ylabel(metric, fontsize=9, color=INK)
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    save(figure, path)


def _span(axes: Axes, parameter: Parameter) -> Callable[[Any], float]:
    """Give the axis the whole searched range; returns where on it a value stands."""
    if isinstance(parameter, Choices):
        names = [str(value) for value in parameter.choices]
        axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        return lambda value: float(names.index(str(value)))
    low, high = float(parameter.low), float(parameter.high)
    if low == high:  # a range of one value: the library's own margins
        axes.set_xticks([low])
        return float
    if parameter.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
    else:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return float


def _draw_parallel(opened: OpenStudy, trials: list[FrozenTrial], metric: str, note: str, path: Path) -> None:
    """A line for each trial across all parameters to its value; pruned ones end before that."""
    complete, pruned = _split(trials)
    space = opened.config.tune.space
    figure = new_figure(1.25 * (len(space) + 1), 5, "Every trial across all parameters", note)
    axes = figure.add_subplot()
    values = [float(trial.value or 0) for trial in complete]
    low, high = min(values), max(values)
    at = range(len(space))
    for trial in pruned:
        heights = [_height(space[name], trial.params[name]) for name in space]
        axes.plot(at, heights, color=_STOPPED, linewidth=0.5, alpha=0.6)
    for trial, value in sorted(zip(complete, values, strict=True), key=lambda pair: pair[1]):
        share = (value - low) / (high - low)
        heights = [*(_height(space[name], trial.params[name]) for name in space), share]
        axes.plot(
            [*at, len(space)], heights, color=colormaps["Blues"](0.3 + 0.7 * share), linewidth=1 + share
        )
    scales = [
        *(_marks(parameter) for parameter in space.values()),
        [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")],
    ]
    for place, marks in enumerate(scales):
        axes.axvline(place, color=INK, linewidth=0.8, zorder=0)
        for height, text in marks:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.text(place + 0.04, height, text, fontsize=7, color=INK, va="center", bbox=box, zorder=4)
    tidy(axes, f"{len(complete)} complete (the darker, the better), {len(pruned)} pruned (grey)")
    axes.set_xticks([*at, len(space)], [*(name.replace("_", "\n") for name in space), metric])
    axes.set_xlim(-0.1, len(space) + 0.6)
    axes.set_yticks([])
    axes.grid(visible=False)
    save(figure, path)


def _height(parameter: Parameter, value: Any) -> float:
    """Where in its searched range a value stands: from 0 to 1, on the range's own scale."""
    if isinstance(parameter, Choices):
        last = len(parameter.choices) - 1
        return parameter.choices.index(value) / last if last else 0.5
    low, high, at = float(parameter.low), float(parameter.high), float(value)
    if low == high:
        return 0.5
    return log(at / low) / log(high / low) if parameter.log else (at - low) / (high - low)


def _marks(parameter: Parameter) -> list[tuple[float, str]]:
    """Choices, or the ends of a range, with their heights."""
    if isinstance(parameter, Choices):
        return [(_height(parameter, value), str(value).replace("_", "\n")) for value in parameter.choices]
    ends = {float(parameter.low), float(parameter.high)}
    return [(_height(parameter, end), f"{end:g}") for end in ends]


def _draw_importance(shares: dict[str, dict[str, Any]], metric: str, note: str, path: Path) -> None:
    figure = new_figure(8, 0.35 * len(shares) + 1.0, "Importance of the parameters", note)
    axes = figure.add_subplot()
    names = list(reversed(shares))
    axes.barh(names, [shares[name]["value"] for name in names], color=_BLUE, height=0.6)
    known = [name for name in names if shares[name]["ci_low"] is not None]
    lows, highs = ([shares[name][end] for name in known] for end in ("ci_low", "ci_high"))
    axes.hlines(known, lows, highs, color=INK, linewidth=1.2)
    first = next(iter(shares.values()))
    title = f"fANOVA over {first['n']} complete trials; lines: {percent(first['confidence'])} intervals over the trials"
    tidy(axes, title, f"share of the spread of {metric}")
    axes.grid(visible=False, axis="y")
    save(figure, path)


def _draw_contours(study: optuna.Study, ranked: list[str], metric: str, note: str, folder: Path) -> None:
    import matplotlib

    with experimental(), matplotlib.rc_context({"backend": "agg"}):
        from optuna.visualization import matplotlib as plots

        drawn = plots.plot_contour(study, params=ranked[:MOST_PAIRED], target_name=metric)
        few = f"the {len(ranked[:MOST_PAIRED])} most important of {len(ranked)} parameters that varied"
        _save_drawn(drawn, f"{note}; {few} · {NOTICE}", folder / "contour.png")


def _save_drawn(drawn: Any, note: str, path: Path) -> None:
    """Write what Optuna drew, an axes or a square of them, and let go of it."""
    from matplotlib import pyplot

    if np.ndim(drawn) == 2:
        _label_edges_only(np.asarray(drawn))
    figure = np.ravel(drawn)[0].figure
    figure.set_size_inches(14, 10)
    figure.text(0.01, 0.005, note, fontsize=9, color=MUTED)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def _label_edges_only(square: npt.NDArray[Any]) -> None:
    """Name each row and column once, and write no numbers between the powers of ten, where they would meet."""
    for (row, column), axes in np.ndenumerate(square):
        axes.set_xlabel(axes.get_xlabel() if row == len(square) - 1 else "")
        axes.set_ylabel(axes.get_ylabel() if column == 0 else "")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
