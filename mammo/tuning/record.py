"""The result of a study as files: `best.yaml` with the choice, `trials.csv` and `study.json` with the whole record."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import PatchesConfig, VoteConfig
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, atomic_path, write_bytes, write_json
from mammo.core.provenance import data_hashes
from mammo.core.tune_config import sure_centre_px
from mammo.data.patches import grid_offsets
from mammo.tuning.claims import N_WORKERS
from mammo.tuning.differences import differences
from mammo.tuning.importance import importances
from mammo.tuning.pruning import saved_work
from mammo.tuning.sampler import SAMPLER_NOTE
from mammo.tuning.space import TUNED, chosen_settings
from mammo.tuning.study import OpenStudy
from mammo.tuning.trials import (
    ERROR,
    FIT_S,
    FOLDS,
    INDEX,
    JUDGE_S,
    OWN,
    PATCHES,
    PRUNED_BY,
    RETRY_OF,
    TRIAL_S,
    WORKER,
    finished,
    retried_numbers,
    state_of,
)

BEST_FILE: Final = "best.yaml"
STUDY_FILE: Final = "study.json"
JUDGE_FILE: Final = "tuned.yaml"
JUDGE_HEAD: Final = (
    "# For `mammo study`: the choice of `mammo tune` against params.yaml, on folds of another seed.\n"
)
STATES: Final = ("complete", "pruned", "failed", "retried")
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
    retried = retried_numbers(trials)
    counts = {state: sum(state_of(t, retried) == state for t in trials) for state in STATES}
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
            "note": "the best of several noisy trials looks better than it is; judge it on folds of another seed",
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
                "state": state_of(trial, set()),
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


def judging_study(opened: OpenStudy) -> dict[str, Any]:
    """A file for `mammo study`: the choice at the recipe's full budget against the settings, on folds it never saw.

    The folds are shuffled by another seed, but their ROIs are those of train and val, which the search has seen; only
    the test part is new to it.
    """
    config = opened.config
    system, chosen = chosen_settings(config, best_trial(opened).params)
    base = config.recipes[config.tune.recipe].model_dump(mode="json")
    found = differences(base, chosen.recipes[TUNED].model_dump(mode="json"), f"recipes.{config.tune.recipe}.")
    for section in ("patches", "train", "vote"):
        new, old = getattr(chosen, section).model_dump(), getattr(config, section).model_dump()
        if section == "train":
            new["recipe"] = config.tune.recipe
        found |= differences(old, new, f"{section}.")
    variant = {"system": system, **{key: becomes for key, (_, becomes) in found.items()}}
    return {
        "question": "Are the tuned settings better than those of params.yaml on folds that the study never saw?",
        "seed": config.tune.seed + 1,
        "n_seeds": 2,
        "variants": {"tuned": variant},
    }


def trials_table(opened: OpenStudy) -> pd.DataFrame:
    """One row for each try, in the order of their numbers; the columns of the space start with `param_`."""
    trials = opened.trials
    retried = retried_numbers(trials)
    ended = {t.number for t in finished(trials)}
    rows = [
        {
            "number": t.number,
            "index": t.user_attrs.get(INDEX),
            "counts": t.number in ended,
            "state": state_of(t, retried),
            "settings_of_params": bool(t.user_attrs.get(OWN)),
            "retry_of": t.user_attrs.get(RETRY_OF),
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
        for t in trials
    ]
    return pd.DataFrame(rows).astype({"index": "Int64", "retry_of": "Int64", "patches_trained": "Int64"})


def write_record(opened: OpenStudy, record: dict[str, Any]) -> None:
    """Write the study's folder: the choice and every try; where `train` may take the choice, all the rest as well.

    The rest is a file for `mammo study`, the intermediate values, and the plots.
    """
    from mammo.tuning.plots import write_plots

    held_out_fold = opened.config.tune.held_out_fold
    folder = report_folder(opened.space, held_out_fold)
    write_bytes(
        folder / BEST_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100).encode()
    )
    with atomic_path(folder / "trials.csv") as temporary:
        trials_table(opened).to_csv(temporary, index=False)
    if held_out_fold is not None:
        return
    judge = JUDGE_HEAD + yaml.safe_dump(judging_study(opened), sort_keys=False, allow_unicode=True, width=100)
    write_bytes(folder / JUDGE_FILE, judge.encode())
    write_json(folder / STUDY_FILE, _whole(opened, record))
    write_plots(opened, record["importance"], folder)


def _whole(opened: OpenStudy, record: dict[str, Any]) -> dict[str, Any]:
    """What is stored of the study, ready for JSON: record, identity, and the epochs and folds of every try."""
    trials = opened.trials
    retried = retried_numbers(trials)
    return {
        "record": record,
        "study": dict(opened.study.user_attrs),
        "trials": [
            {
                "number": t.number,
                "state": state_of(t, retried),
                "value": t.value if t.state == TrialState.COMPLETE else None,
                "params": t.params,
                "intermediate_values": {str(step): value for step, value in t.intermediate_values.items()},
                # Who did the work is the storage's and MLflow's business: names of machines do not belong in a report.
                **{key: value for key, value in t.user_attrs.items() if key != WORKER},
            }
            for t in trials
        ],
    }


def report_folder(space: Workspace, held_out_fold: int | None = None) -> Path:
    """Where a study's reports lie; those that judge the tuning itself below those of the study that chooses."""
    folder = space.reports / "tune"
    return folder if held_out_fold is None else folder / "nested" / f"without-fold-{held_out_fold}"
