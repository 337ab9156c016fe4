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

from mammo.core.config import VoteConfig
from mammo.core.errors import DATA_NAMES, NOTICE, MammoError
from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.provenance import data_hashes
from mammo.core.tune_config import TuneConfig, sure_centre_px
from mammo.data.patches import grid_corners
from mammo.tuning import objective
from mammo.tuning.objective import ERROR, FOLDS, INDEX, OWN, PATCHES, PRUNED_BY, WORKER, state_of
from mammo.tuning.space import TUNED, chosen_settings
from mammo.tuning.study import N_WORKERS, SAMPLER_NOTE, OpenStudy

COSTS: Final = (objective.FIT_S, objective.JUDGE_S, objective.TRIAL_S)
STATES: Final = ("complete", "pruned", "failed", "retried")
ONE_WORKER: Final = "one worker: the same trials again with the same settings, data, machine and library versions"
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
    best, tune, attrs = best_trial(opened), opened.config.tune, opened.study.user_attrs
    trials, ended = opened.trials, opened.ended
    system, chosen = chosen_settings(opened.config, best.params)
    patches, vote = chosen.patches, chosen.vote
    folds = list(best.user_attrs[FOLDS])
    n_votes = len(grid_corners(patches.size_px, patches.stride_px, corner_patches=patches.corner_patches))
    return {
        "study": {
            "name": opened.study.study_name,
            "id": opened.id,
            "mark": attrs["mark"],
            "seed": tune.seed,
            "held_out_fold": tune.held_out_fold,
            "sampler": SAMPLER_NOTE,
            "startup_trials": tune.startup_trials,
            "epoch_pruner": tune.epoch_pruner,
            "wilcoxon_p": tune.wilcoxon_p,
            "n_workers": attrs[N_WORKERS],
            "repeatable": ONE_WORKER if attrs[N_WORKERS] == 1 else MANY_WORKERS,
            "n_worker_processes_in_all": len({t.user_attrs.get(WORKER) for t in trials} - {None}),
            "synthetic": bool(attrs["synthetic"]),
            **{name: attrs[name] for name in ("n_rois", "n_tumor", "n_groups")},
            "test_part": "never read by a trial",
            "commit": attrs["commit"],
            "data_md5": data_hashes(opened.workspace.root),
        },
        "budget": {name: getattr(tune, name) for name in ("n_folds", "epochs", "patches_per_epoch")},
        "trials": {"ended": len(ended), **{s: sum(state_of(t) == s for t in trials) for s in STATES}},
        "pruning": saved_work(tune, ended),
        "best": {
            "trial": int(best.user_attrs[INDEX]),
            "metric": tune.metric,
            "evidence": evidence(tune.metric, vote),
            "value": float(best.value or 0.0),
            "folds": folds,
            "fold_standard_error": float(np.std(folds, ddof=1) / np.sqrt(len(folds))),
            "params": dict(best.params),
            "votes": {
                "n_votes": n_votes,
                "tie": "an odd number of votes" if n_votes % 2 else f"a tie goes to {vote.tie}",
                "sure_centre_px": sure_centre_px(patches.size_px),
            },
            "note": "the best of several noisy trials looks better than it is; `mammo tune nested` judges it",
        },
        "settings_of_params": _own(opened),
        "importance": importances(ended),
        "system": system,
        "recipes": {TUNED: chosen.recipes[TUNED].model_dump(mode="json")},
        "patches": patches.model_dump(mode="json"),
        "vote": vote.model_dump(mode="json"),
        "space": attrs["tune"]["space"],
    }


def _value(trial: FrozenTrial) -> float | None:
    """Optuna gives a pruned trial its last epoch's value, which is none."""
    return trial.value if trial.state == TrialState.COMPLETE else None


def _own(opened: OpenStudy) -> dict[str, Any] | str:
    """How the settings of `params.yaml` fared as a trial of the same budget."""
    own = next((trial for trial in opened.ended if trial.user_attrs.get(OWN)), None)
    if own is None:
        return "not in the space: no trial has them"
    _, settings = chosen_settings(opened.config, own.params)
    return {
        "trial": int(own.user_attrs[INDEX]),
        "state": state_of(own),
        "evidence": evidence(opened.config.tune.metric, settings.vote),
        "value": _value(own),
        "folds": list(own.user_attrs.get(FOLDS, [])),
        "params": dict(own.params),
    }


def evidence(metric: str, vote: VoteConfig) -> str:
    """What a trial's metric rests on. AUCs of shares, which have ties, are lower than those of mean scores."""
    if metric != "auc":
        return "decisions"
    return "mean score" if vote.rule == "mean_score" else "vote share"


def importances(ended: Sequence[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """fANOVA's share of each parameter (Hutter et al. 2014), largest first; empty where no two values differ.

    Only complete trials count, so after much pruning the shares rest on few. They have no interval.
    """
    study = _redrawn(ended)
    values = [trial.value for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len(set(values)) < 2:
        return {}
    about = {"ci_low": None, "ci_high": None, "n": len(values), "method": "fANOVA over the complete trials"}
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: {"value": float(share), **about} for name, share in shares.items()}


def saved_work(tune: TuneConfig, ended: Sequence[FrozenTrial]) -> dict[str, Any]:
    """How much work pruning saved finished trials, in training patches and in seconds of their own speed."""
    full = tune.n_folds * tune.epochs * tune.patches_per_epoch
    judged = [t for t in ended if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    done = [int(t.user_attrs.get(PATCHES, 0)) for t in judged]
    spent = [sum(float(t.user_attrs.get(cost, 0)) for cost in COSTS[:2]) for t in judged]
    pruned = [t.user_attrs.get(PRUNED_BY) for t in judged]
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
            INDEX: t.user_attrs.get(INDEX),
            "counts": t.number in counts,
            "state": state_of(t),
            OWN: bool(t.user_attrs.get(OWN)),
            "value": _value(t),
            PRUNED_BY: t.user_attrs.get(PRUNED_BY),
            PATCHES: t.user_attrs.get(PATCHES),
            **{f"fold_{k}": value for k, value in enumerate(t.user_attrs.get(FOLDS, []))},
            **{f"param_{name}": t.params.get(name) for name in opened.config.tune.space},
            **{name: t.user_attrs.get(name) for name in (*COSTS, ERROR)},
        }
        for t in opened.trials
    ]
    return pd.DataFrame(rows).astype({INDEX: "Int64", PATCHES: "Int64"})


def write_record(opened: OpenStudy, record: dict[str, Any]) -> None:
    """Write the choice and every try; where `train` may take the choice, also all that is stored, and the pictures."""
    held_out_fold = opened.config.tune.held_out_fold
    folder = report_folder(opened.workspace, held_out_fold)
    write_bytes(folder / "best.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100).encode())
    with atomic_path(folder / "trials.csv") as temporary:
        trials_table(opened).to_csv(temporary, index=False)
    if held_out_fold is None:
        tries = [
            {
                "number": t.number,
                "state": state_of(t),
                "value": _value(t),
                "params": t.params,
                "intermediate_values": {str(step): value for step, value in t.intermediate_values.items()},
                # Who did the work is the storage's and MLflow's business: names of machines do not belong in a report.
                **{key: value for key, value in t.user_attrs.items() if key != WORKER},
            }
            for t in opened.trials
        ]
        whole = {"record": record, "study": dict(opened.study.user_attrs), "trials": tries}
        write_json(folder / "study.json", whole)
        write_plots(opened, record["importance"], folder)


def write_plots(opened: OpenStudy, shares: Mapping[str, Any], folder: Path) -> None:
    """Let Optuna draw a study's trials that count as PNGs; importance, lines and contours only where values differ.

    `shares` is the importance of each parameter, largest first.
    """
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({"backend": "agg", "font.size": 9}):
        # Of a parameter that has one value.
        warnings.filterwarnings("ignore", message="Attempting to set identical")
        from matplotlib import pyplot
        from optuna.visualization import matplotlib as plots

        study, tune = _redrawn(opened.ended), opened.config.tune
        complete = [trial.params for trial in study.trials if trial.state == TrialState.COMPLETE]
        varied = [name for name in shares if len({params[name] for params in complete}) > 1]
        data = DATA_NAMES[opened.config.ingest.source]
        note = f"{data} ROIs of train and val, {tune.n_folds} grouped folds, mean over the folds. {NOTICE}"

        def draw(name: str, plot: Callable[..., Any], size_in: tuple[float, float], **options: Any) -> None:
            # An axes or several of them.
            figure = np.ravel(plot(study, target_name=tune.metric, **options))[0].figure
            figure.set_size_inches(*size_in)
            figure.text(0.01, -0.3 / size_in[1], note, fontsize=9)
            with atomic_path(folder / name) as temporary:
                no_note = {"Software": None}
                figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata=no_note)
            pyplot.close(figure)

        draw("history.png", plots.plot_optimization_history, (8, 5))
        draw("slice.png", plots.plot_slice, (3 * len(tune.space), 4), params=list(tune.space))
        if shares:
            evaluator = FanovaImportanceEvaluator(seed=0)
            draw("importance.png", plots.plot_param_importances, (8, 5), evaluator=evaluator)
            draw("parallel_coordinate.png", plots.plot_parallel_coordinate, (14, 6), params=list(tune.space))
        if len(varied) > 1:
            # More than four would be too small to read.
            draw("contour.png", plots.plot_contour, (14, 10), params=varied[:4])


def _redrawn(ended: Sequence[FrozenTrial]) -> optuna.Study:
    """The trials that count as a study in memory, in the order of their indices: a retry ends after later trials."""
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial for trial in ended if trial.state != TrialState.FAIL])
    return study


def report_folder(workspace: Workspace, held_out_fold: int | None = None) -> Path:
    """Where a study's reports lie; those that judge the tuning itself below those of the study that chooses."""
    folder = workspace.reports / "tune"
    return folder if held_out_fold is None else folder / "nested" / f"without-fold-{held_out_fold}"
