"""The pictures of a study: history, slices, importance in the house's style; contours and parallel lines by Optuna."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mammo.reporting.canvas import INK, MUTED, new_figure, save, tidy
from mammo.search_space import Choices
from mammo.storage import atomic_path
from mammo.tuning.quiet import experimental
from mammo.tuning.study import OpenStudy

MOST_PAIRED: Final = 4
MOST_PARALLEL: Final = 7
"""Parameters in the contour and the parallel plot: all of them would be too small to read."""
_DPI: Final = 110
_BLUE: Final = "#0072b2"
_STOPPED: Final = "#999999"


def write_plots(opened: OpenStudy, shares: dict[str, float], folder: Path) -> None:
    """Draw a study's trials that count; importance and contours only where values differ.

    Args:
        opened: a study with a complete trial.
        shares: importance of each parameter, largest first.
        folder: where `history.png`, `slice.png`, `importance.png`, `contour.png`, `parallel_coordinate.png` go.
    """
    trials = [trial for trial in opened.ended if trial.state != TrialState.FAIL]
    metric, note = opened.config.tune.metric, _note(opened)
    _draw_history(trials, metric, note, folder / "history.png")
    _draw_slices(opened, trials, metric, note, folder / "slice.png")
    if shares:
        _draw_importance(shares, metric, note, folder / "importance.png")
    complete, _ = _split(trials)
    varied = [name for name in shares if len({trial.params[name] for trial in complete}) > 1]
    if len(varied) > 1:
        study = optuna.create_study(direction="maximize", study_name=opened.study.study_name)
        study.add_trials(trials)
        _draw_by_optuna(study, varied, metric, note, folder)


def _note(opened: OpenStudy) -> str:
    data = "PHANTOM (synthetic)" if opened.study.user_attrs["synthetic"] else "MIAS"
    return f"{data} ROIs of train and val, {opened.config.tune.n_folds} grouped folds, mean over the folds"


def _split(trials: list[FrozenTrial]) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Complete ones, and pruned ones that reported a value."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return complete, [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]


def _draw_history(trials: list[FrozenTrial], metric: str, note: str, path: Path) -> None:
    complete, pruned = _split(trials)
    figure = new_figure(8, 4, "History of the study", note)
    axes = figure.add_subplot()
    at = [trial.user_attrs["index"] for trial in complete]
    values = np.array([trial.value for trial in complete], dtype=float)
    axes.scatter(at, values, color=_BLUE, label="complete", zorder=3)
    axes.step(at, np.maximum.accumulate(values), where="post", color=INK, linewidth=1, label="best so far")
    for trial in pruned:
        axes.axvline(trial.user_attrs["index"], color=_STOPPED, linewidth=0.8, linestyle="dotted")
    tidy(axes, f"{len(complete)} complete, {len(pruned)} pruned (dotted)", "trial", metric)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def _draw_slices(opened: OpenStudy, trials: list[FrozenTrial], metric: str, note: str, path: Path) -> None:
    """The value over each parameter, one panel each; pruned trials as marks along the lower edge."""
    complete, pruned = _split(trials)
    space = opened.config.tune.space
    n_columns = min(4, len(space))
    n_rows = -(-len(space) // n_columns)
    figure = new_figure(11, 2.5 * n_rows, "Value over each parameter", note)
    panels = np.ravel(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False))
    for axes, (name, parameter) in zip(panels, space.items(), strict=False):
        named = isinstance(parameter, Choices)
        order = [str(value) for value in parameter.choices] if isinstance(parameter, Choices) else []

        def place(trial: FrozenTrial, name: str = name, order: list[str] = order) -> float:
            value = trial.params[name]
            return float(order.index(str(value))) if order else float(value)

        axes.scatter([place(t) for t in complete], [t.value for t in complete], s=18, color=_BLUE)
        bottom = np.full(len(pruned), 0.02)
        axes.scatter(
            [place(t) for t in pruned],
            bottom,
            marker="|",
            color=_STOPPED,
            transform=axes.get_xaxis_transform(),
        )
        tidy(axes, name)
        if named:
            axes.set_xticks(range(len(order)), order)
            axes.set_xlim(-0.5, len(order) - 0.5)
        elif not isinstance(parameter, Choices) and parameter.log:
            axes.set_xscale("log")
    for axes in panels[::n_columns]:
        axes.set_ylabel(metric, fontsize=9, color=INK)
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    save(figure, path)


def _draw_importance(shares: dict[str, float], metric: str, note: str, path: Path) -> None:
    figure = new_figure(8, 0.35 * len(shares) + 0.8, "Importance of the parameters", note)
    axes = figure.add_subplot()
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names], color=_BLUE)
    tidy(axes, "fANOVA over the complete trials", f"share of the spread of {metric}")
    axes.grid(visible=False, axis="y")
    save(figure, path)


def _draw_by_optuna(study: optuna.Study, ranked: list[str], metric: str, note: str, folder: Path) -> None:
    import matplotlib

    with experimental(), matplotlib.rc_context({"backend": "agg"}):
        from optuna.visualization import matplotlib as plots

        drawn: dict[str, Any] = {
            "contour": plots.plot_contour(study, params=ranked[:MOST_PAIRED], target_name=metric),
            "parallel_coordinate": plots.plot_parallel_coordinate(
                study, params=ranked[:MOST_PARALLEL], target_name=metric
            ),
        }
        for name, axes in drawn.items():
            _save_drawn(axes, f"{note} · research software, no medical device", folder / f"{name}.png")


def _save_drawn(drawn: Any, note: str, path: Path) -> None:
    """Write what Optuna drew, an axes or an array of them, and let go of it."""
    from matplotlib import pyplot

    figure = np.ravel(drawn)[0].figure
    figure.set_size_inches(14, 10)
    figure.text(0.01, 0.005, note, fontsize=9, color=MUTED)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
