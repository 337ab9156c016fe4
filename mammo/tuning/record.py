"""The result of a study as files: `best.yaml` with the choice, `trials.csv` and `study.json` with all, and pictures."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import PatchesConfig, VoteConfig
from mammo.core.errors import NOTICE, MammoError, data_name
from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.provenance import data_hashes
from mammo.core.tune_config import TuneConfig, sure_centre_px
from mammo.data.patches import grid_offsets
from mammo.tuning.objective import (
    ERROR,
    FIT_S,
    FOLDS,
    INDEX,
    JUDGE_S,
    OWN,
    PATCHES,
    PRUNED_BY,
    TRIAL_S,
    WORKER,
    state_of,
)
from mammo.tuning.space import TUNED, chosen_settings
from mammo.tuning.storage import experimental
from mammo.tuning.study import SAMPLER_NOTE, OpenStudy
from mammo.tuning.workers import N_WORKERS

BEST_FILE: Final = "best.yaml"
STUDY_FILE: Final = "study.json"
STATES: Final = ("complete", "pruned", "failed", "retried")
MOST_PAIRED: Final = 4
"""Parameters in the contour plot: all pairs of all of them would be too small to read."""
ONE_WORKER: Final = (
    "one worker: the same trials again with the same settings, data, machine and library versions"
)
MANY_WORKERS: Final = (
    "several workers: the seeds of each trial are fixed, but what the sampler and the pruners have seen when it begins "
    "depends on which trials end first; parameters from the first learned trial on, and who is pruned, may differ"
)


def best_trial(opened: OpenStudy) -> FrozenTrial:
    """The complete trial with the highest value; the earlier one wins a tie.

    Raises:
        MammoError: no trial completed.
    """
    complete = [t for t in opened.ended if t.state == TrialState.COMPLETE]
    if not complete:
        errors = [str(t.user_attrs[ERROR]) for t in opened.ended if ERROR in t.user_attrs]
        raise MammoError(
            f"study {opened.study.study_name}: at least one trial must complete, but none of {len(opened.ended)} did"
            f"{' (' + errors[-1] + ')' if errors else ''}; widen the space, lower the rates, or ask for more trials"
        )
    return max(complete, key=lambda trial: trial.value or 0.0)


def study_record(opened: OpenStudy) -> dict[str, Any]:
    """Everything that `best.yaml` says: the choice, what it means as settings, and what it rests on."""
    best, config, attrs = best_trial(opened), opened.config, opened.study.user_attrs
    trials = opened.trials
    system, chosen = chosen_settings(config, best.params)
    counts = {state: sum(state_of(t) == state for t in trials) for state in STATES}
    workers = {t.user_attrs[WORKER] for t in trials if WORKER in t.user_attrs}
    folds = [float(value) for value in best.user_attrs[FOLDS]]
    return {
        "study": {
            "name": opened.study.study_name,
            "id": opened.id,
            "mark": attrs["mark"],
            "seed": config.tune.seed,
            "held_out_fold": config.tune.held_out_fold,
            "sampler": SAMPLER_NOTE,
            "startup_trials": config.tune.startup_trials,
            "epoch_pruner": config.tune.epoch_pruner,
            "wilcoxon_p": config.tune.wilcoxon_p,
            "n_workers": attrs[N_WORKERS],
            "repeatable": ONE_WORKER if attrs[N_WORKERS] == 1 else MANY_WORKERS,
            "n_worker_processes_in_all": len(workers),
            "synthetic": bool(attrs["synthetic"]),
            "n_rois": attrs["n_rois"],
            "n_tumor": attrs["n_tumor"],
            "n_groups": attrs["n_groups"],
            "test_part": "never read by a trial",
            "commit": attrs["commit"],
            "data_md5": data_hashes(opened.space.root),
        },
        "budget": {
            "n_folds": config.tune.n_folds,
            "epochs": config.tune.epochs,
            "patches_per_epoch": config.tune.patches_per_epoch,
        },
        "trials": {"ended": len(opened.ended), **counts},
        "pruning": saved_work(config.tune, opened.ended),
        "best": {
            "trial": int(best.user_attrs[INDEX]),
            "metric": config.tune.metric,
            "evidence": evidence(config.tune.metric, chosen.vote),
            "value": float(best.value or 0.0),
            "folds": folds,
            "fold_standard_error": float(np.std(folds, ddof=1) / np.sqrt(len(folds))),
            "params": dict(best.params),
            "votes": _votes(chosen.patches, chosen.vote),
            "note": "the best of several noisy trials looks better than it is; `mammo tune nested` judges it",
        },
        "settings_of_params": _own(opened),
        "importance": importances(opened.ended),
        "system": system,
        "recipes": {TUNED: chosen.recipes[TUNED].model_dump(mode="json")},
        "patches": chosen.patches.model_dump(mode="json"),
        "vote": chosen.vote.model_dump(mode="json"),
        "space": attrs["tune"]["space"],
    }


def _own(opened: OpenStudy) -> dict[str, Any] | str:
    """How the settings of `params.yaml` fared as a trial of the same budget."""
    for trial in opened.ended:
        if trial.user_attrs.get(OWN):
            return {
                "trial": int(trial.user_attrs[INDEX]),
                "state": state_of(trial),
                "evidence": evidence(
                    opened.config.tune.metric, chosen_settings(opened.config, trial.params)[1].vote
                ),
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "folds": [float(value) for value in trial.user_attrs.get(FOLDS, [])],
                "params": dict(trial.params),
            }
    return "not in the space: no trial has them"


def evidence(metric: str, vote: VoteConfig) -> str:
    """What a trial's metric rests on. AUCs of shares, which have ties, are lower than those of mean scores."""
    if metric != "auc":
        return "decisions"
    return "mean score" if vote.rule == "mean_score" else "vote share"


def _votes(patches: PatchesConfig, vote: VoteConfig) -> dict[str, Any]:
    offsets = grid_offsets(patches.size_px, patches.stride_px, corner_patches=patches.corner_patches)
    n_votes = len(offsets) ** 2
    return {
        "n_votes": n_votes,
        "tie": "an odd number of votes" if n_votes % 2 else f"a tie goes to {vote.tie}",
        "sure_centre_px": sure_centre_px(patches.size_px),
    }


def importances(ended: Sequence[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """fANOVA's share of each parameter (Hutter et al. 2014), largest first; empty where no two values differ.

    Only complete trials count, so after much pruning the shares rest on few. They have no interval.
    """
    study = _redrawn(ended)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    about = {
        "ci_low": None,
        "ci_high": None,
        "n": len(complete),
        "method": "fANOVA over the complete trials",
    }
    return {name: {"value": float(share), **about} for name, share in shares.items()}


def saved_work(tune: TuneConfig, ended: Sequence[FrozenTrial]) -> dict[str, Any]:
    """How much work pruning saved, in training patches and in seconds of the trials' own speed.

    Args:
        tune: the budget.
        ended: finished trials.
    """
    full = tune.n_folds * tune.epochs * tune.patches_per_epoch
    judged = [t for t in ended if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    done = [int(t.user_attrs.get(PATCHES, 0)) for t in judged]
    spent = [float(t.user_attrs.get(FIT_S, 0)) + float(t.user_attrs.get(JUDGE_S, 0)) for t in judged]
    pruned = [t.user_attrs.get(PRUNED_BY) for t in judged if t.state == TrialState.PRUNED]
    return {
        "planned_patches": full * len(judged),
        "trained_patches": sum(done),
        "saved_share": 1 - sum(done) / (full * len(judged)) if judged else 0.0,
        "saved_s": sum(s * (full / d - 1) for s, d in zip(spent, done, strict=True) if 0 < d < full),
        "stopped_by_epoch": sum(by == "epoch" for by in pruned),
        "stopped_by_fold": sum(by == "fold" for by in pruned),
    }


def trials_table(opened: OpenStudy) -> pd.DataFrame:
    """One row for each try, in the order of their numbers; the columns of the space start with `param_`."""
    counts = {trial.number for trial in opened.ended}
    rows = [
        {
            "number": t.number,
            "index": t.user_attrs.get(INDEX),
            "counts": t.number in counts,
            "state": state_of(t),
            "settings_of_params": bool(t.user_attrs.get(OWN)),
            "value": t.value if t.state == TrialState.COMPLETE else None,
            "pruned_by": t.user_attrs.get(PRUNED_BY),
            "patches_trained": t.user_attrs.get(PATCHES),
            **{f"fold_{k}": value for k, value in enumerate(t.user_attrs.get(FOLDS, []))},
            **{f"param_{name}": t.params.get(name) for name in opened.config.tune.space},
            "fit_s": t.user_attrs.get(FIT_S),
            "judge_s": t.user_attrs.get(JUDGE_S),
            "trial_s": t.user_attrs.get(TRIAL_S),
            "error": t.user_attrs.get(ERROR),
        }
        for t in opened.trials
    ]
    return pd.DataFrame(rows).astype({"index": "Int64", "patches_trained": "Int64"})


def write_record(opened: OpenStudy, record: dict[str, Any]) -> None:
    """Write the study's folder: the choice and every try; where `train` may take the choice, all the rest as well.

    The rest are the intermediate values and the pictures.
    """
    held_out_fold = opened.config.tune.held_out_fold
    folder = report_folder(opened.space, held_out_fold)
    write_bytes(
        folder / BEST_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100).encode()
    )
    with atomic_path(folder / "trials.csv") as temporary:
        trials_table(opened).to_csv(temporary, index=False)
    if held_out_fold is None:
        write_json(folder / STUDY_FILE, _whole(opened, record))
        write_plots(opened, record["importance"], folder)


def _whole(opened: OpenStudy, record: dict[str, Any]) -> dict[str, Any]:
    """What is stored of the study, ready for JSON: record, identity, and the epochs and folds of every try."""
    return {
        "record": record,
        "study": dict(opened.study.user_attrs),
        "trials": [
            {
                "number": t.number,
                "state": state_of(t),
                "value": t.value if t.state == TrialState.COMPLETE else None,
                "params": t.params,
                "intermediate_values": {str(step): value for step, value in t.intermediate_values.items()},
                # Who did the work is the storage's and MLflow's business: names of machines do not belong in a report.
                **{key: value for key, value in t.user_attrs.items() if key != WORKER},
            }
            for t in opened.trials
        ],
    }


def write_plots(opened: OpenStudy, shares: Mapping[str, Any], folder: Path) -> None:
    """Let Optuna draw a study's trials that count; importance, lines and contours only where values differ.

    Args:
        opened: a study with a complete trial.
        shares: importance of each parameter, largest first.
        folder: where `history.png`, `slice.png`, `importance.png`, `contour.png`, `parallel_coordinate.png` go.
    """
    import matplotlib

    with experimental(), matplotlib.rc_context({"backend": "agg", "font.size": 9}):
        # Of a parameter that has one value.
        warnings.filterwarnings("ignore", message="Attempting to set identical")
        from optuna.visualization import matplotlib as plots

        study, tune = _redrawn(opened.ended), opened.config.tune
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        varied = [name for name in shares if len({trial.params[name] for trial in complete}) > 1]
        data = data_name(opened.study.user_attrs["synthetic"])
        note = f"{data} ROIs of train and val, {tune.n_folds} grouped folds, mean over the folds. {NOTICE}"

        def draw(name: str, plot: Callable[..., Any], size_in: tuple[float, float], **options: Any) -> None:
            _save_drawn(plot(study, target_name=tune.metric, **options), size_in, note, folder / name)

        draw("history.png", plots.plot_optimization_history, (8, 5))
        draw("slice.png", plots.plot_slice, (3 * len(tune.space), 4), params=list(tune.space))
        if shares:
            evaluator = FanovaImportanceEvaluator(seed=0)
            draw("importance.png", plots.plot_param_importances, (8, 5), evaluator=evaluator)
            draw("parallel_coordinate.png", plots.plot_parallel_coordinate, (14, 6), params=list(tune.space))
        if len(varied) > 1:
            draw("contour.png", plots.plot_contour, (14, 10), params=varied[:MOST_PAIRED])


def _redrawn(ended: Sequence[FrozenTrial]) -> optuna.Study:
    """The trials that count as a study in memory, in the order of their indices: a retry ends after later trials."""
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial for trial in ended if trial.state != TrialState.FAIL])
    return study


def _save_drawn(drawn: Any, size_in: tuple[float, float], note: str, path: Path) -> None:
    """Write what Optuna drew, an axes or several of them, and let go of it."""
    from matplotlib import pyplot

    figure = np.ravel(drawn)[0].figure
    figure.set_size_inches(*size_in)
    figure.text(0.01, -0.3 / size_in[1], note, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def report_folder(space: Workspace, held_out_fold: int | None = None) -> Path:
    """Where a study's reports lie; those that judge the tuning itself below those of the study that chooses."""
    folder = space.reports / "tune"
    return folder if held_out_fold is None else folder / "nested" / f"without-fold-{held_out_fold}"
