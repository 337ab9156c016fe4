"""MLflow's side of a study: a parent run, and a nested run for each try. Written from the storage, never beside it.

Every call brings MLflow to what the storage says; a call that was cut off is completed by the next one, and nothing is
written twice: runs are found by their tags, and metrics carry the storage's own times.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import FrozenTrial

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.core.provenance import fingerprint, git_commit
from mammo.track.record import experiment_name
from mammo.track.store import connect, experiment_id, flat_params, store_errors, without_addresses
from mammo.tuning.objective import (
    DEVICE,
    ERROR,
    FIT_S,
    FOLDS,
    INDEX,
    JUDGE_S,
    PATCHES,
    PRUNED_BY,
    TRIAL_S,
    WORKER,
    state_of,
)
from mammo.tuning.record import report_folder
from mammo.tuning.study import BEYOND_RESULTS, SAMPLER_NOTE, OpenStudy

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

STATUS: Final = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "retried": "FAILED"}
"""How MLflow shows the states that end a try; `mammo.state` names them exactly."""
NESTED_TAG: Final = "mammo.nested"
STUDY_TAG: Final = "mammo.study"
TRIAL_TAG: Final = "mammo.trial"
STATE_TAG: Final = "mammo.state"
PARENT_TAG: Final = "mlflow.parentRunId"
MOST_RUNS: Final = 50_000
"""As many as MLflow gives at once."""
NOTES: Final = (PRUNED_BY, ERROR, DEVICE, WORKER)
MEASURED: Final = (PATCHES, FIT_S, JUDGE_S, TRIAL_S)


def write_runs(opened: OpenStudy, record: dict[str, Any]) -> str:
    """Write a study's runs: one for each try that has ended, below one with the result and all files.

    Args:
        opened: the study.
        record: see `tuning.record`.

    Returns:
        The id of the parent run.

    Raises:
        TrackingError: MLflow's store cannot be used. The reports are there; the same command goes on.
    """
    space = opened.space
    client = connect(space)
    with store_errors(space), without_addresses():
        experiment = experiment_id(client, space, experiment_name(opened.config))
        query = f"tags.`{STUDY_TAG}` = '{opened.id}' and tags.`{TRIAL_TAG}` = 'study'"
        found = client.search_runs([experiment], query, max_results=1)
        parent = str(found[0].info.run_id) if found else _make_parent(client, experiment, opened)
        known = _nested_runs(client, experiment, parent)
        for trial in opened.trials:
            run_id, state = known.get(trial.number, (None, None))
            if state is None and state_of(trial) in STATUS:
                _write(client, run_id or _make_nested(client, experiment, parent, opened.id, trial), trial)
        _finish(client, parent, opened, record)
    return parent


def _make_parent(client: "MlflowClient", experiment: str, opened: OpenStudy) -> str:
    tune = opened.config.tune
    fold = "" if tune.held_out_fold is None else f" without fold {tune.held_out_fold}"
    run = client.create_run(
        experiment,
        start_time=min(_ms(trial.datetime_start) for trial in opened.ended),
        run_name=f"tune {opened.id}{fold}",
        tags={
            STUDY_TAG: opened.id,
            TRIAL_TAG: "study",
            "mammo.sampler": SAMPLER_NOTE,
            "mammo.synthetic": str(opened.study.user_attrs["synthetic"]).lower(),
            "mammo.git_commit": git_commit(opened.space.root) or "not in git",
            "mlflow.note.content": "Optuna study on folds inside train and val. Research software.",
        },
    )
    return str(run.info.run_id)


def _nested_runs(client: "MlflowClient", experiment: str, parent: str) -> dict[int, tuple[str, str | None]]:
    """Number of a try → its run and the state that MLflow knows; a half-written run has no state yet."""
    found = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'", max_results=MOST_RUNS)
    return {
        int(run.data.tags[TRIAL_TAG]): (str(run.info.run_id), run.data.tags.get(STATE_TAG)) for run in found
    }


def _make_nested(client: "MlflowClient", experiment: str, parent: str, study: str, trial: FrozenTrial) -> str:
    run = client.create_run(
        experiment,
        start_time=_ms(trial.datetime_start),
        run_name=f"trial {trial.user_attrs.get(INDEX, '?')}",
        tags={PARENT_TAG: parent, STUDY_TAG: study, TRIAL_TAG: str(trial.number)},
    )
    return str(run.info.run_id)


def _write(client: "MlflowClient", run_id: str, trial: FrozenTrial) -> None:
    """The state comes last: a run without it is written again, with the same values and times."""
    attrs, state, when = trial.user_attrs, state_of(trial), _ms(trial.datetime_complete)
    series: dict[str, Mapping[int, Any]] = {
        "val_auc_so_far": trial.intermediate_values,
        "fold_value": dict(enumerate(attrs.get(FOLDS, []))),
        **{name: {0: attrs[name]} for name in MEASURED if name in attrs},
        **({"value": {0: trial.value}} if state == "complete" else {}),
    }
    client.log_batch(
        run_id,
        metrics=[m for name, values in series.items() for m in _metrics(name, values, when)],
        params=_params({**trial.params, "index": attrs.get(INDEX)}),
        tags=_tags({f"mammo.{name}": str(attrs[name]) for name in NOTES if name in attrs}),
    )
    client.set_terminated(run_id, STATUS[state], when)
    client.set_tag(run_id, STATE_TAG, state)


def _finish(client: "MlflowClient", parent: str, opened: OpenStudy, record: dict[str, Any]) -> None:
    """Settings, result and files of the parent run, and its end."""
    when = max(_ms(trial.datetime_complete) for trial in opened.ended)
    values = {
        "best_value": record["best"]["value"],
        "saved_share": record["pruning"]["saved_share"],
        **{f"trials_{state}": n for state, n in record["trials"].items()},
    }
    settings = opened.config.tune.model_dump(mode="json", exclude=BEYOND_RESULTS)
    step = record["trials"]["ended"]
    client.log_dict(parent, dict(opened.study.user_attrs), "study.json")
    client.log_batch(
        parent,
        metrics=[m for name, value in values.items() for m in _metrics(name, {step: value}, when)],
        params=_params(flat_params(settings)),
        tags=_tags(
            {
                "mammo.best_trial": str(record["best"]["trial"]),
                "mammo.n_workers": str(record["study"]["n_workers"]),
            }
        ),
    )
    for file in sorted(report_folder(opened.space, opened.config.tune.held_out_fold).iterdir()):
        if file.is_file():
            client.log_artifact(parent, str(file), "tune")
    client.set_terminated(parent, "FINISHED", when)


def log_nested(space: Workspace, config: Config, summary: dict[str, Any], folder: Path) -> None:
    """Write the judgement of the tuning itself as a run of its own; the same judgement is written once.

    Args:
        space: whose store it is.
        config: names the experiment.
        summary: see `tuning.nested`.
        folder: holds `nested.json` and `nested.md`.

    Raises:
        TrackingError: MLflow's store cannot be used.
    """
    client = connect(space)
    with store_errors(space), without_addresses():
        experiment = experiment_id(client, space, experiment_name(config))
        mark = fingerprint(summary)
        found = client.search_runs([experiment], f"tags.`{NESTED_TAG}` = '{mark}'", max_results=1)
        if found and found[0].info.status == "FINISHED":
            return
        tags = {
            NESTED_TAG: mark,
            "mammo.studies": ",".join(str(entry["study"]) for entry in summary["folds"]),
            "mammo.synthetic": str(summary["data"]["synthetic"]).lower(),
            "mammo.git_commit": git_commit(space.root) or "not in git",
            "mammo.verdict": summary["effect"]["verdict"],
            "mlflow.note.content": f"{summary['question']} Research software.",
        }
        run = found[0] if found else client.create_run(experiment, run_name="tune nested", tags=tags)
        # Its own start as the time of every metric: what a killed call has written is not written twice.
        run_id, when = str(run.info.run_id), int(run.info.start_time)
        sides = {"tuned": "tuned", "settings": "reference", "tuned_minus_settings": "effect"}
        for name, side in sides.items():
            metrics = [
                m
                for metric, estimate in summary[side]["cells"].items()
                for key, suffix in (("value", ""), ("ci_low", "_ci_low"), ("ci_high", "_ci_high"))
                if estimate[key] is not None
                for m in _metrics(f"{name}_{metric}{suffix}", {0: estimate[key]}, when)
            ]
            client.log_batch(run_id, metrics=metrics)
        for name in ("nested.json", "nested.md"):
            client.log_artifact(run_id, str(folder / name), "tune")
        client.set_terminated(run_id, "FINISHED")


def _metrics(name: str, values: Mapping[int, Any], when: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(name, float(value), when, step) for step, value in values.items()]


def _params(values: dict[str, Any]) -> "list[Param]":
    from mlflow.entities import Param

    return [Param(name, str(value)[:6000]) for name, value in values.items()]


def _tags(values: dict[str, str]) -> "list[RunTag]":
    from mlflow.entities import RunTag

    return [RunTag(name, value[:5000]) for name, value in values.items()]


def _ms(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment else 0
