"""MLflow's side of a study: a parent run, and a nested run for each try. Written from the storage, never beside it.

Every call brings MLflow to what the storage says; a call that was killed is completed by the next one, and nothing is
written twice: runs are found by their tags, and metrics carry the storage's own times.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import FrozenTrial

from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.core.provenance import fingerprint, git_commit
from mammo.track.record import experiment_name
from mammo.track.store import (
    connect,
    experiment_id,
    few_retries,
    flat_params,
    store_errors,
    without_addresses,
)
from mammo.tuning.record import report_folder
from mammo.tuning.sampler import SAMPLER_NOTE
from mammo.tuning.study import REPLACES, OpenStudy
from mammo.tuning.trials import (
    DEVICE,
    ERROR,
    FIT_S,
    FOLDS,
    INDEX,
    JUDGE_S,
    PATCHES,
    PRUNED_BY,
    RETRY_OF,
    TRIAL_S,
    retried_numbers,
    state_of,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric

STATUS: Final = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "retried": "FAILED"}
"""How MLflow shows the states that end a try; `mammo.state` names them exactly."""
NESTED_TAG: Final = "mammo.nested"
STUDY_TAG: Final = "mammo.study"
TRIAL_TAG: Final = "mammo.trial"
STATE_TAG: Final = "mammo.state"
PARENT_TAG: Final = "mlflow.parentRunId"
PAGE: Final = 1000


class StudyRuns:
    """The runs of one study in one MLflow store."""

    def __init__(self, opened: OpenStudy, n_trials: int) -> None:
        self._opened = opened
        self._is_away = False
        self._folder = report_folder(opened.space, opened.config.tune.held_out_fold)
        self._client = connect(opened.space)
        with store_errors(opened.space):
            self._experiment = experiment_id(self._client, opened.space, experiment_name(opened.config))
            self._end_replaced()
            self.parent = self._find_parent() or self._make_parent()
            self._client.update_run(self.parent, status="RUNNING")
            self._client.set_tag(self.parent, "mammo.n_trials", str(n_trials))
            self._known = self._nested_runs()

    def sync(self) -> None:
        """Bring the nested runs to what the storage says.

        Raises:
            TrackingError: MLflow's store cannot be used.
        """
        self._write_news(self._opened.trials)

    def keep_up(self, say: Callable[[str], None]) -> None:
        """As `sync`, but a store that is away stops no trial: it is said once, and made up for later."""
        trials = self._opened.trials
        try:
            with few_retries():
                self._write_news(trials)
        except TrackingError as error:
            if not self._is_away:
                say(f"{error}. The trials go on; their runs are written as soon as MLflow answers")
            self._is_away = True
        else:
            if self._is_away:
                say("MLflow answers again; every run is written")
            self._is_away = False

    def _write_news(self, trials: list[FrozenTrial]) -> None:
        retried = retried_numbers(trials)
        with store_errors(self._opened.space), without_addresses():
            if self._is_away:  # it may have made a run without having said so
                self._known = self._nested_runs()
            for trial in trials:
                state = state_of(trial, retried)
                if state != "waiting" and (run := self._known.get(trial.number, ("", "")))[1] != state:
                    run_id = run[0] or self._make_nested(trial)
                    self._write(run_id, trial, state)
                    self._known[trial.number] = (run_id, state)

    def finish(self, record: dict[str, Any], say: Callable[[str], None]) -> None:
        """Add the result, the files of `reports/tune/` and the end to the parent run.

        Args:
            record: see `tuning.record`.
            say: told if MLflow has to be waited for.

        Raises:
            TrackingError: MLflow's store cannot be used. The reports are there; the same command goes on.
        """
        if self._is_away:
            say("record and plots are written; MLflow is waited for, up to some minutes")
        self.sync()
        with store_errors(self._opened.space):
            self._finish(record)

    def _finish(self, record: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        pruning, best = record["pruning"], record["best"]
        when = max(_ended_ms(trial) for trial in self._opened.ended)
        values = {
            "best_value": best["value"],
            "saved_share": pruning["saved_share"],
            **{f"trials_{state}": float(n) for state, n in record["trials"].items()},
        }
        self._client.log_batch(
            self.parent,
            metrics=[
                Metric(name, value, when, step)
                for name, value in values.items()
                for step in [record["trials"]["ended"]]
            ],
            tags=_tags(
                {"mammo.best_trial": str(best["trial"]), "mammo.n_workers": str(record["study"]["n_workers"])}
            ),
        )
        for file in sorted(self._folder.iterdir()):
            if file.is_file():
                self._client.log_artifact(self.parent, str(file), "tune")
        self._client.set_terminated(self.parent, "FINISHED", when)

    def stop(self, *, failed: bool) -> None:
        """End the parent run before its time; the next call of the command takes it up again.

        Raises:
            TrackingError: MLflow's store cannot be used.
        """
        with store_errors(self._opened.space):
            self._client.set_terminated(self.parent, "FAILED" if failed else "KILLED")

    def _end_replaced(self) -> None:
        """A study that was forgotten goes on nowhere."""
        replaced = self._opened.study.user_attrs.get(REPLACES)
        query = f"tags.`{STUDY_TAG}` = '{replaced}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], query, max_results=PAGE) if replaced else []:
            with without_addresses():
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _find_parent(self) -> str | None:
        query = f"tags.`{STUDY_TAG}` = '{self._opened.id}' and tags.`{TRIAL_TAG}` = 'study'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _make_parent(self) -> str:
        opened = self._opened
        tune = opened.config.tune
        held_out = tune.held_out_fold
        run = self._client.create_run(
            self._experiment,
            run_name=f"tune {opened.id}" + ("" if held_out is None else f" without fold {held_out}"),
            tags={
                STUDY_TAG: opened.id,
                TRIAL_TAG: "study",
                "mammo.sampler": SAMPLER_NOTE,
                "mammo.synthetic": str(opened.study.user_attrs["synthetic"]).lower(),
                "mammo.git_commit": git_commit(opened.space.root) or "not in git",
                "mlflow.note.content": "Optuna study on folds inside train and val. Research software.",
            },
        )
        run_id = str(run.info.run_id)
        self._client.log_dict(run_id, dict(opened.study.user_attrs), "study.json")
        self._client.log_batch(
            run_id, params=_params(flat_params(tune.model_dump(mode="json", exclude={"trials"})))
        )
        return run_id

    def _nested_runs(self) -> dict[int, tuple[str, str]]:
        """Number of a try → its run and the state that MLflow knows; a half-written run has no state yet."""
        known: dict[int, tuple[str, str]] = {}
        token: str | None = None
        query = f"tags.`{PARENT_TAG}` = '{self.parent}'"
        while True:
            page = self._client.search_runs([self._experiment], query, max_results=PAGE, page_token=token)
            for run in page:
                tags = run.data.tags
                known[int(tags[TRIAL_TAG])] = (str(run.info.run_id), tags.get(STATE_TAG, ""))
            token = page.token
            if not token:
                return known

    def _make_nested(self, trial: FrozenTrial) -> str:
        run = self._client.create_run(
            self._experiment,
            start_time=_started_ms(trial),
            run_name=f"trial {trial.user_attrs.get(INDEX, '?')}{' again' if RETRY_OF in trial.user_attrs else ''}",
            tags={PARENT_TAG: self.parent, STUDY_TAG: self._opened.id, TRIAL_TAG: str(trial.number)},
        )
        return str(run.info.run_id)

    def _write(self, run_id: str, trial: FrozenTrial, state: str) -> None:
        """The state comes last: a run without it is written again, with the same values and times."""
        attrs = trial.user_attrs
        if state in STATUS:
            notes = {f"mammo.{name}": str(attrs[name]) for name in _NOTES if name in attrs}
            self._client.log_batch(
                run_id,
                metrics=_metrics(trial, state),
                params=_params({**trial.params, "index": attrs.get(INDEX)}),
                tags=_tags(notes),
            )
            self._client.set_terminated(run_id, STATUS[state], _ended_ms(trial))
        self._client.set_tag(run_id, STATE_TAG, state)


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
    with store_errors(space):
        _log_nested(space, config, summary, folder)


def _log_nested(space: Workspace, config: Config, summary: dict[str, Any], folder: Path) -> None:
    client = connect(space)
    experiment = experiment_id(client, space, experiment_name(config))
    mark = fingerprint(summary)
    found = client.search_runs([experiment], f"tags.`{NESTED_TAG}` = '{mark}'", max_results=1)
    if found and found[0].info.status == "FINISHED":
        return
    run = (
        found[0]
        if found
        else client.create_run(experiment, run_name="tune nested", tags=_nested_tags(space, summary, mark))
    )
    # Its own start as the time of every metric: what a killed call has written is not written twice.
    run_id, when = str(run.info.run_id), int(run.info.start_time)
    sides = {
        "tuned": summary["tuned"]["cells"],
        "settings": summary["reference"]["cells"],
        "tuned_minus_settings": summary["effect"]["cells"],
    }
    for name, cells in sides.items():
        client.log_batch(run_id, metrics=_estimates(name, cells, when))
    for name in ("nested.json", "nested.md"):
        client.log_artifact(run_id, str(folder / name), "tune")
    client.set_terminated(run_id, "FINISHED")


def _nested_tags(space: Workspace, summary: dict[str, Any], mark: str) -> dict[str, str]:
    return {
        NESTED_TAG: mark,
        "mammo.studies": ",".join(str(entry["study"]) for entry in summary["folds"]),
        "mammo.synthetic": str(summary["data"]["synthetic"]).lower(),
        "mammo.git_commit": git_commit(space.root) or "not in git",
        "mammo.verdict": summary["effect"]["verdict"],
        "mlflow.note.content": f"{summary['question']} Research software.",
    }


def _estimates(name: str, cells: dict[str, dict[str, Any]], when: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [
        Metric(f"{name}_{metric}{suffix}", float(estimate[key]), when, 0)
        for metric, estimate in cells.items()
        for key, suffix in (("value", ""), ("ci_low", "_ci_low"), ("ci_high", "_ci_high"))
        if estimate[key] is not None
    ]


_NOTES: Final = (RETRY_OF, PRUNED_BY, ERROR, DEVICE, "worker")


def _metrics(trial: FrozenTrial, state: str) -> "list[Metric]":
    from mlflow.entities import Metric

    when = _ended_ms(trial)
    metrics = [
        Metric("val_auc_so_far", value, when, step) for step, value in trial.intermediate_values.items()
    ]
    metrics += [
        Metric("fold_value", value, when, k) for k, value in enumerate(trial.user_attrs.get(FOLDS, []))
    ]
    for name in (PATCHES, FIT_S, JUDGE_S, TRIAL_S):
        if name in trial.user_attrs:
            metrics.append(Metric(name, float(trial.user_attrs[name]), when, 0))
    if state == "complete" and trial.value is not None:
        metrics.append(Metric("value", trial.value, when, 0))
    return metrics


def _params(values: dict[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)[:6000]) for name, value in values.items()]


def _tags(values: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, value[:5000]) for name, value in values.items()]


def _started_ms(trial: FrozenTrial) -> int:
    return int(trial.datetime_start.timestamp() * 1000) if trial.datetime_start else 0


def _ended_ms(trial: FrozenTrial) -> int:
    return int(trial.datetime_complete.timestamp() * 1000) if trial.datetime_complete else _started_ms(trial)
