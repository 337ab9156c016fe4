"""Optuna's own pictures of a study, as PNG files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import TrialState

from mammo.storage import atomic_path
from mammo.tuning.study import OpenStudy

MOST_IMPORTANT: Final = 4
"""Parameters that the contour plot pairs: all of them would be too small to read."""
_DPI: Final = 110


def write_plots(opened: OpenStudy, folder: Path) -> list[Path]:
    """Draw history, slices, parallel coordinates, and, where trials differ, importance and contours.

    Args:
        opened: the study; only its trials that count are drawn.
        folder: where `history.png`, `slice.png` … go.
    """
    import matplotlib

    study = _counted(opened)
    name = opened.config.tune.metric
    importance = importances(study)
    top = list(importance)[:MOST_IMPORTANT]
    written = []
    with warnings.catch_warnings(), matplotlib.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore")  # Optuna calls its matplotlib plots experimental
        from optuna.visualization import matplotlib as plots

        drawings: dict[str, Callable[[], Any]] = {
            "history": lambda: plots.plot_optimization_history(study, target_name=name),
            "slice": lambda: plots.plot_slice(study, target_name=name),
            "parallel_coordinate": lambda: plots.plot_parallel_coordinate(study, target_name=name),
        }
        if importance:
            drawings["importance"] = lambda: plots.plot_param_importances(
                study, evaluator=_evaluator(), target_name=name
            )
        if len(top) > 1:
            drawings["contour"] = lambda: plots.plot_contour(study, params=top, target_name=name)
        for title, draw in drawings.items():
            path = folder / f"{title}.png"
            _save(draw(), path, _note(opened))
            written.append(path)
    return written


def importances(study: optuna.Study) -> dict[str, float]:
    """fANOVA's share of each parameter in the spread of the values; empty where fewer than two values differ."""
    values = {t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < 2:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=_evaluator())


def _evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def _counted(opened: OpenStudy) -> optuna.Study:
    """The study without tries that were replaced."""
    study = optuna.create_study(direction="maximize", study_name=opened.study.study_name)
    study.add_trials([trial for trial in opened.ended if trial.state != TrialState.FAIL])
    return study


def _note(opened: OpenStudy) -> str:
    attrs, tune = opened.study.user_attrs, opened.config.tune
    data = "PHANTOM (synthetic)" if attrs["synthetic"] else "MIAS"
    return f"{data} ROIs, train and val only, {tune.n_folds} grouped folds · research software, no medical device"


def _save(drawn: Any, path: Path, note: str) -> None:
    """Write what Optuna drew, an axes or an array of them, and let go of it."""
    from matplotlib import pyplot
    from numpy import ravel

    figure = ravel(drawn)[0].figure
    if len(figure.axes) > 6:
        figure.set_size_inches(16, 11)
    else:
        figure.set_size_inches(11, 6)
    figure.text(0.01, 0.005, note, fontsize=8, color="#555555")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
