"""How stages write themselves into MLflow, and how MLflow's side is rebuilt from DVC's.

The bundles and reports that DVC versions are the truth. A run is found by the hash of the bundle; where a
store does not know it, as in a fresh clone, the run is written again from the files.
"""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

import pandas as pd
from filelock import FileLock
from rich.console import Console

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.files import Workspace, atomic_path, read_json, read_table, sha256_of, write_json
from mammo.core.processes import training_progress
from mammo.core.provenance import data_hashes, fingerprint, git_commit, library_versions
from mammo.core.settings import study_tags
from mammo.core.systems import fits_of, members_of, title_of
from mammo.data.rois import Rois
from mammo.data.splits import read_parts
from mammo.evaluation.intervals import percent
from mammo.models.bundle import save_bundle
from mammo.systems.assess import operation_estimates
from mammo.systems.decide import TrainedSystem, checkpoint_name, train_system, validation_results
from mammo.systems.fit import EpochRecord
from mammo.systems.train import run_fingerprint
from mammo.track.check import BUNDLE_TAG, CARD, EVALUATION_TAG, EXPERIMENT, evidence, evidence_sha256
from mammo.track.registry import Version, register, voter_of
from mammo.track.store import (
    FITTED,
    WEIGHTS_TAG,
    Run,
    experiment_id,
    find_run,
    flat_params,
    open_run,
    using_store,
)

CURVES: Final = ("train_loss", "val_loss", "val_auc", "patches_per_second")
ESTIMATES: Final = "test_estimates.json"
HEADLINES: Final = {
    "auc": "auc_score",
    **{name: name for name in ("accuracy", "recall", "specificity", "precision", "balanced_accuracy")},
    "brier": "brier_calibrated",
    **{name: name for name in ("recall_at_specificity_0.90", "coverage", "referral_rate")},
}
"""The few test results that are metrics, with the estimates they show; all estimates stand in the table `ESTIMATES`."""

RELATIVE_LINK: Final = re.compile(r"\[([^\]]*)\](?:\[[^\]]*\]|\((?!https?://)[^)]*\))|^\[[^\]]*\]: .*\n?", re.MULTILINE)
"""A link of Markdown in its line (the text is the first group), or the line that says where one leads."""


def train_recorded(workspace: Workspace, config: Config, system: str) -> None:
    """Train a system under an MLflow run; write its bundle, its history and its validation results.

    A run that was killed goes on: from its last epoch, in the same MLflow run. The fit of a network is kept until all
    systems are judged: `compact-model2-floor` takes that of `compact-model2` over. Trained again, a system fits anew.
    """
    parts = _fitted_parts(workspace)
    patch_sets = {name: read_table(workspace.patches(name)) for name in parts}
    n_epochs, console = config.recipe.epochs * len(members_of(system)), Console(stderr=True)
    mark = run_fingerprint(system, config, config.train.seed, parts["train"], parts["val"], patch_sets)
    note, n_new = workspace.run_note(system), 0
    before = read_json(note) if note.is_file() else {}
    same, finished = before.get("fingerprint") == mark, before.get("finished")
    if same and finished:
        for network, seed in fits_of(system, config.train.seed):
            state = workspace.checkpoints / checkpoint_name(network, seed)
            if state.is_file() and state.stat().st_mtime <= note.stat().st_mtime:
                state.unlink()  # of the fit that this system had then
    unfinished = before["run_id"] if same and not finished else None
    with _training_run(workspace, config, system, parts, unfinished) as run:
        made = {"run_id": run.run_id, "fingerprint": mark}
        write_json(note, made | {"finished": False})

        def report(record: EpochRecord) -> None:
            nonlocal n_new
            n_new += 1
            console.print(epoch_line(system, record, n_epochs), highlight=False, soft_wrap=True)
            run.log_metrics(_curves(vars(record)), record.epoch)

        with training_progress(system, n_epochs, console) as on_step:
            trained = train_system(
                system,
                config,
                parts["train"],
                parts["val"],
                patch_sets,
                checkpoints=workspace.checkpoints,
                workspace=workspace,
                on_epoch=report,
                on_step=on_step,
            )
        _write(workspace, config, trained)
        _log_bundle(workspace, system, run, trained.history, parts)
        write_json(note, made | {"finished": True})
    if taken_over := len(trained.history) - n_new:
        console.print(f"{system}: {taken_over} epochs taken over from before", highlight=False)


def _fitted_parts(workspace: Workspace) -> dict[str, Rois]:
    rois = read_parts(workspace)
    return {name: rois.part(name) for name in ("train", "val")}


def epoch_line(system: str, record: EpochRecord, n_epochs: int) -> str:
    """One line for an epoch: `compact-model1 epoch 3/40 …`."""
    return (
        f"{system} epoch {record.epoch + 1}/{n_epochs}  train loss {record.train_loss:.4f}  "
        f"val loss {record.val_loss:.4f}  val AUC {record.val_auc:.3f}  {record.patches_per_second:,.0f} patches/s"
    )


def _curves(record: Mapping[Any, Any]) -> dict[str, float]:
    return {name: float(record[name]) for name in CURVES if name in record}


def _log_bundle(workspace: Workspace, system: str, run: Run, history: pd.DataFrame, parts: dict[str, Rois]) -> None:
    """Log what the files of a trained system hold, and the epochs that a kill after their checkpoint left out.

    The bundle goes into the run's logged model. What is no result of a test or of an epoch is a tag.
    """
    logged = {metric.step for metric in run.client.get_metric_history(run.run_id, "val_loss")}
    for record in history.to_dict("records"):
        if record["epoch"] not in logged:
            run.log_metrics(_curves(record), int(record["epoch"]))
    description, trained = workspace.description(system), workspace.reports / "train"
    fitted = [part.table[["roi_id", "sha256"]].assign(part=name) for name, part in parts.items()]
    run.client.log_text(run.run_id, pd.concat(fitted).to_csv(index=False), FITTED)
    for path in (trained / f"{system}.csv", workspace.params):
        run.log_file(path)
    facts = read_json(trained / f"{system}.json")
    voter = voter_of(run.client, run.run_id, workspace.bundle(system))
    chosen = {f"val/{name}": round(facts.pop(f"val_{name}"), 4) for name in ("auc", "loss")}
    run.log_metrics(chosen, voter=voter, use="validation")
    weights = str(read_json(description)["weights_sha256"])
    run.tag({f"mammo.{name}": str(round(value, 6)) for name, value in facts.items() if "_ci_" not in name})
    run.tag({WEIGHTS_TAG: weights, BUNDLE_TAG: sha256_of(description)})


def _write(workspace: Workspace, config: Config, trained: TrainedSystem) -> None:
    """Write bundle, history and validation results.

    What changes from machine to machine (speed, commit) stays out of these files: DVC must find them
    unchanged when the same settings train the same weights.
    """
    system = trained.bundle.system
    provenance = {
        "data_md5": data_hashes(workspace.root),
        "seed": config.train.seed,
        "recipe": config.recipe.model_dump(),
        "weights": config.model.weights,
    }
    save_bundle(replace(trained.bundle, provenance=provenance), workspace.bundle(system))
    history = trained.history.drop(columns=["patches_per_second"])
    with atomic_path(workspace.reports / "train" / f"{system}.csv") as temporary:
        history.round(6).to_csv(temporary, index=False)
    write_json(workspace.reports / "train" / f"{system}.json", validation_results(trained.bundle))


def _training_run(
    workspace: Workspace,
    config: Config,
    system: str,
    parts: dict[str, Rois],
    unfinished: str | None = None,
) -> AbstractContextManager[Run]:
    """Open the run of a system, which logs at its start settings, identity, and data sets with their DVC hashes."""
    use = {"train": "training", "val": "validation"}
    synthetic, data = any(part.synthetic for part in parts.values()), parts["train"].name_of_data
    tags = {
        "mammo.system": system,
        "mammo.source": config.ingest.source,
        "mammo.weights": config.model.weights,
        "mammo.synthetic": str(synthetic).lower(),
        "mammo.params": fingerprint(config.model_dump()),
        "mammo.git_commit": git_commit(workspace.root) or "not in git",
        "mlflow.note.content": f"not tested yet; {system} on {data}. Research software.",
    }
    if config.settings_from != OWN_SETTINGS:
        tags |= study_tags(workspace.root / config.settings_from)
    if name := os.environ.get(EXPERIMENT):
        tags["mammo.dvc_experiment"] = name
    tags["mammo.versions"] = ", ".join(map(" ".join, library_versions().items()))
    params = flat_params(
        config.model_dump(include={"ingest", "split", "patches", "model", "train", "vote", "referral"})
        | {"recipe": config.recipe.model_dump(), "system": system}
    )
    datasets = tuple(_data_set(workspace, config, part, use[name]) for name, part in parts.items())
    title = title_of(system, config.model.weights)
    return open_run(workspace, experiment_name(config), title, params, tags, datasets, unfinished)


def _data_set(workspace: Workspace, config: Config, part: Rois, use: str) -> tuple[str, pd.DataFrame, str, str]:
    digest = data_hashes(workspace.root).get("data/rois", "")
    return f"{config.ingest.source}-{part.name}", part.table, digest, use


def experiment_name(config: Config) -> str:
    """Runs of one source and one protocol are comparable and share an experiment."""
    return f"{config.ingest.source}-{config.split.protocol}"


def ensure_run(workspace: Workspace, config: Config, system: str) -> str:
    """Id of the run that made a system's bundle; written again from the files if this store has none."""
    with using_store(workspace) as client:
        experiment_id(client, workspace, experiment_name(config))  # a deleted one comes back with its runs
        found = find_run(client, sha256_of(workspace.description(system)))
    if found is not None:
        return found
    parts, history = _fitted_parts(workspace), pd.read_csv(workspace.reports / "train" / f"{system}.csv")
    with _training_run(workspace, config, system, parts) as run:
        run.tag({"mammo.rebuilt": "from DVC outputs"})
        _log_bundle(workspace, system, run, history, parts)
        return run.run_id


def fill_store(workspace: Workspace, config: Config) -> Version:
    """Bring MLflow's store up to date with the workspace's files; what it holds already stays as it is.

    The run of each system gets its test results, and the chosen system becomes a version: champion, where there is
    none. Runs and versions that the store lacks are written from the files, by one process of this workspace at a
    time: the first two commands in a fresh clone would else write each of them twice.
    """
    with FileLock(workspace.mlruns / ".registering.lock"):
        record_evaluations(workspace, config)
        choice = read_json(workspace.reports / "champion.json")
        run_id = ensure_run(workspace, config, choice["system"])
        return register(workspace, choice["model_name"], run_id, workspace.bundle(choice["system"]))


def record_evaluations(workspace: Workspace, config: Config) -> None:
    """`record_evaluation` of every system that was tested."""
    for system in read_json(workspace.reports / "evaluate" / "results.json")["systems"]:
        record_evaluation(workspace, config, system)


def record_evaluation(workspace: Workspace, config: Config, system: str) -> None:
    """Add test results, pictures and what speaks for the data to a system's run and its voter, unless they are in."""
    folder = workspace.reports / "evaluate"
    run_id, digest = ensure_run(workspace, config, system), evidence_sha256(workspace)
    with using_store(workspace) as client:
        run = Run(client, run_id)
        if run.client.get_run(run_id).data.tags.get(EVALUATION_TAG) == digest:
            return
        results = read_json(folder / "results.json")
        judged = results["systems"][system]
        estimates = {**judged["roi"], **operation_estimates(judged)}
        patches = {f"patch_{name}": estimate for name, estimate in judged["patch"].items()}
        table = pd.DataFrame({"metric": name, **one} for name, one in (estimates | patches).items())
        run.log_table(table, ESTIMATES)
        run.log_data(*_data_set(workspace, config, read_parts(workspace).part("test"), "testing"))
        headlines = {f"test/{name}": estimates[of]["value"] for name, of in HEADLINES.items()}
        found = {name: round(value, 4) for name, value in headlines.items() if value is not None}
        voter = voter_of(run.client, run_id, workspace.bundle(system))
        run.log_metrics(found, voter=voter, use="testing")
        for path in (*sorted(folder.iterdir()), workspace.root / "dvc.lock"):
            if path.is_file() and path.stem.partition("-")[2] in ("", system):  # no picture of another system
                run.log_file(path, "evaluate")
        chosen = read_json(workspace.reports / "champion.json")["system"]
        for path in evidence(workspace)[1:]:
            if path.name != CARD:
                run.log_file(path, path.parent.name)
            elif system == chosen:
                run.client.log_text(run.run_id, without_relative_links(path.read_text("utf-8")), CARD)
        title = title_of(system, config.model.weights)
        ships = next(one for one in judged["thresholds"] if one["ships"])
        note = {"mlflow.note.content": story(title, results["data"], estimates, ships)}
        run.client.set_logged_model_tags(voter, note)
        run.tag(note | {EVALUATION_TAG: digest})


def without_relative_links(markdown: str) -> str:
    """Markdown whose links to files beside it are plain text: MLflow shows an artifact without its neighbours."""
    return RELATIVE_LINK.sub(lambda link: link[1] or "", markdown)


def story(system: str, data: dict[str, Any], estimates: dict[str, dict[str, Any]], ships: dict[str, Any]) -> str:
    """Markdown: main results; system, data and split, in the first line, which lists cut off. Then all headlines."""

    def shown(name: str) -> str:
        one = estimates[HEADLINES[name]]
        ends = "" if one["ci_low"] is None else f" ({one['ci_low']:.3f} to {one['ci_high']:.3f})"
        return "n/a" if one["value"] is None else f"{one['value']:.3f}{ends}"

    first = f"AUC {shown('auc')}, accuracy {shown('accuracy')}; {system} on {data['note']}."
    rows = [f"| test/{name} | {shown(name)} | {estimates[of]['n']} |" for name, of in HEADLINES.items()]
    confidence = percent(estimates["auc_score"]["confidence"])
    table = "\n".join([f"| metric | value ({confidence} interval) | n |", "|---|---|---|", *rows])
    rule = f"The {ships['rule']} rule decides, at a threshold of {ships['threshold']:g} ({ships['name']})."
    return f"{'PHANTOM: ' * data['synthetic']}{first}\n\n{table}\n\n{rule} Research software, no medical device."
