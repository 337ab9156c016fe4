"""MLflow's side of a study: a parent run, and a nested run for each try. Written from the storage, never beside it.

Every call brings MLflow to what the storage says; a call that was cut off is completed by the next one, and nothing is
written twice: runs are found by their tags, and metrics carry the storage's own times.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from optuna.trial import FrozenTrial

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.core.provenance import fingerprint, git_commit
from mammo.track.record import experiment_name
from mammo.track.store import experiment_id, flat_params, using_store, without_addresses
from mammo.tuning import objective
from mammo.tuning.objective import FOLDS, INDEX, state_of
from mammo.tuning.record import report_folder
from mammo.tuning.study import BEYOND_RESULTS, SAMPLER_NOTE, OpenStudy

STATUS: Final = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "retried": "FAILED"}
"""How MLflow shows the states that end a try; `mammo.state` names them exactly."""
HEADLINES: Final = ("auc_score", "accuracy", "recall", "specificity")
"""What of a judgement is metrics; its note has all of it, with intervals."""
NESTED_TAG: Final = "mammo.nested"
STUDY_TAG: Final = "mammo.study"
TRIAL_TAG: Final = "mammo.trial"
STATE_TAG: Final = "mammo.state"
PARENT_TAG: Final = "mlflow.parentRunId"
MOST_RUNS: Final = 50_000
"""As many as MLflow gives at once."""
NOTES: Final = (objective.PRUNED_BY, objective.ERROR, objective.DEVICE, objective.WORKER)
MEASURED: Final = (objective.PATCHES, objective.FIT_S, objective.JUDGE_S, objective.TRIAL_S)


@contextmanager
def _experiment(workspace: Workspace, config: Config) -> Iterator[tuple[MlflowClient, str]]:
    with using_store(workspace) as client, without_addresses():
        yield client, experiment_id(client, workspace, experiment_name(config))


def write_runs(opened: OpenStudy, record: dict[str, Any]) -> str:
    """Write a study's runs: one for each try that has ended, below one with the `record` and all files.

    Returns:
        The id of the parent run.
    """
    with _experiment(opened.workspace, opened.config) as (client, experiment):
        query = f"tags.`{STUDY_TAG}` = '{opened.id}' and tags.`{TRIAL_TAG}` = 'study'"
        found = client.search_runs([experiment], query, max_results=1)
        parent = str((found[0] if found else _make_parent(client, experiment, opened)).info.run_id)
        below = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'", max_results=MOST_RUNS)
        known = {int(run.data.tags[TRIAL_TAG]): run for run in below}
        for trial in opened.trials:
            run = known.get(trial.number)
            if state_of(trial) in STATUS and (run is None or STATE_TAG not in run.data.tags):
                run = run or client.create_run(
                    experiment,
                    start_time=_ms(trial.datetime_start),
                    run_name=f"trial {trial.user_attrs.get(INDEX, '?')}",
                    tags={PARENT_TAG: parent, STUDY_TAG: opened.id, TRIAL_TAG: str(trial.number)},
                )
                _write(client, str(run.info.run_id), trial)
        _finish(client, parent, opened, record)
    return parent


def _make_parent(client: MlflowClient, experiment: str, opened: OpenStudy) -> Any:
    fold = opened.config.tune.held_out_fold
    return client.create_run(
        experiment,
        start_time=min(_ms(trial.datetime_start) for trial in opened.ended),
        run_name=f"tune {opened.id}" + ("" if fold is None else f" without fold {fold}"),
        tags={
            STUDY_TAG: opened.id,
            TRIAL_TAG: "study",
            "mammo.sampler": SAMPLER_NOTE,
            "mammo.synthetic": str(opened.study.user_attrs["synthetic"]).lower(),
            "mammo.git_commit": git_commit(opened.workspace.root) or "not in git",
            "mlflow.note.content": "Optuna study on folds inside train and val. Research software.",
        },
    )


def _write(client: MlflowClient, run_id: str, trial: FrozenTrial) -> None:
    """The state comes last: a run without it is written again, with the same values and times."""
    attrs, state, when = trial.user_attrs, state_of(trial), _ms(trial.datetime_complete)
    series: dict[str, Mapping[int, Any]] = {
        "val_auc_so_far": trial.intermediate_values,
        "fold_value": dict(enumerate(attrs.get(FOLDS, []))),
        **{name: {0: attrs[name]} for name in MEASURED if name in attrs},
        **({"value": {0: trial.value}} if state == "complete" else {}),
    }
    notes = {f"mammo.{name}": attrs[name] for name in NOTES if name in attrs}
    _log(client, run_id, when, series, {**trial.params, "index": attrs.get(INDEX)}, notes)
    client.set_terminated(run_id, STATUS[state], when)
    client.set_tag(run_id, STATE_TAG, state)


def _finish(client: MlflowClient, parent: str, opened: OpenStudy, record: dict[str, Any]) -> None:
    """Settings, result and files of the parent run, and its end."""
    when = max(_ms(trial.datetime_complete) for trial in opened.ended)
    best, trials, tune = record["best"], record["trials"], opened.config.tune
    values = {
        "best_value": best["value"],
        "saved_share": record["pruning"]["saved_share"],
        **{f"trials_{state}": n for state, n in trials.items()},
    }
    series = {name: {trials["ended"]: value} for name, value in values.items()}
    params = flat_params(tune.model_dump(mode="json", exclude=BEYOND_RESULTS))
    notes = {"mammo.best_trial": best["trial"], "mammo.n_workers": record["study"]["n_workers"]}
    client.log_dict(parent, dict(opened.study.user_attrs), "study.json")
    _log(client, parent, when, series, params, notes)
    for file in sorted(report_folder(opened.workspace, tune.held_out_fold).iterdir()):
        if file.is_file():
            client.log_artifact(parent, str(file), "tune")
    client.set_terminated(parent, "FINISHED", when)


def log_nested(workspace: Workspace, config: Config, summary: dict[str, Any], folder: Path) -> None:
    """Write the judgement of the tuning itself as a run of its own; the same judgement is written once.

    `summary` is that of `tuning.nested`; `folder` holds `nested.json` and `nested.md`.
    """
    with _experiment(workspace, config) as (client, experiment):
        mark = fingerprint(summary)
        found = client.search_runs([experiment], f"tags.`{NESTED_TAG}` = '{mark}'", max_results=1)
        if found and found[0].info.status == "FINISHED":
            return
        tags = {
            NESTED_TAG: mark,
            "mammo.studies": ",".join(str(entry["study"]) for entry in summary["folds"]),
            "mammo.synthetic": str(summary["data"]["synthetic"]).lower(),
            "mammo.git_commit": git_commit(workspace.root) or "not in git",
            "mammo.verdict": summary["effect"]["verdict"],
            "mlflow.note.content": (folder / "nested.md").read_text()[:5000],
        }
        run = found[0] if found else client.create_run(experiment, run_name="tune nested", tags=tags)
        run_id = str(run.info.run_id)
        values = {
            f"{name}/{metric}": {0: summary[side]["cells"][metric]["value"]}
            for name, side in (("tuned", "tuned"), ("settings", "reference"), ("effect", "effect"))
            for metric in HEADLINES
            if summary[side]["cells"][metric]["value"] is not None
        }
        # Its own start as the time of every metric: what a killed call has written is not written twice.
        _log(client, run_id, int(run.info.start_time), values)
        for file in ("nested.json", "nested.md"):
            client.log_artifact(run_id, str(folder / file), "tune")
        client.set_terminated(run_id, "FINISHED")


def _log(
    client: MlflowClient,
    run_id: str,
    when: int,
    series: Mapping[str, Mapping[int, Any]],
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Write metrics (step → value, all at one time), parameters and tags, cut to the lengths that MLflow takes."""
    client.log_batch(
        run_id,
        [Metric(name, float(v), when, step) for name, values in series.items() for step, v in values.items()],
        [Param(name, str(value)[:6000]) for name, value in (params or {}).items()],
        [RunTag(name, str(value)[:5000]) for name, value in (tags or {}).items()],
    )


def _ms(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment else 0
