"""How stages write themselves into MLflow, and how MLflow's side is rebuilt from DVC's.

The bundles and reports that DVC versions are the truth. A run is found by the hash of the bundle; where a
store does not know it, as in a fresh clone, the run is written again from the files.
"""

from dataclasses import replace
from typing import Any

import mlflow
import pandas as pd
from rich.console import Console

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.files import Workspace, atomic_path, read_json, read_table, sha256_of, write_json
from mammo.core.processes import training_progress
from mammo.core.provenance import data_hashes, fingerprint, git_commit, library_versions
from mammo.core.settings import study_tags
from mammo.core.systems import title_of
from mammo.data.rois import Rois
from mammo.data.splits import read_parts
from mammo.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE, save_bundle
from mammo.systems.assess import operation_estimates
from mammo.systems.fit import EpochRecord
from mammo.systems.train import (
    Trained,
    decide_on_validation,
    run_fingerprint,
    train_system,
    validation_results,
)
from mammo.track.check import BUNDLE_TAG, EVALUATION_TAG
from mammo.track.registry import Version, register
from mammo.track.store import (
    WEIGHTS_TAG,
    Run,
    RunContext,
    connect,
    find_run,
    flat_params,
    note_run,
    open_run,
    unfinished_run,
)


def train_recorded(workspace: Workspace, config: Config, system: str) -> None:
    """Train a system under an MLflow run; write its bundle, its history and its validation results.

    A run that was killed goes on: from its last epoch, in the same MLflow run.
    """
    parts = _fitted_parts(workspace)
    patch_sets = {name: read_table(workspace.patches(name)) for name in parts}
    n_epochs, console = config.recipe.epochs, Console(stderr=True)
    mark = run_fingerprint(system, config, config.train.seed, parts["train"], parts["val"], patch_sets)
    note = workspace.run_note(system)
    context = training_context(workspace, config, system, parts)
    with open_run(workspace, context, unfinished_run(note, mark)) as run:
        note_run(note, run.run_id, mark, weights_sha256=None)

        def report(record: EpochRecord) -> None:
            console.print(epoch_line(system, record, n_epochs), highlight=False, soft_wrap=True)
            run.log_metrics(_metrics(vars(record)), step=record.epoch)

        with training_progress(system, n_epochs, console) as on_step:
            trained = train_system(
                system,
                config,
                parts["train"],
                parts["val"],
                patch_sets,
                checkpoint=workspace.checkpoint(system),
                workspace=workspace,
                on_epoch=report,
                on_step=on_step,
            )
        decided = decide_on_validation(trained.bundle, parts["train"], parts["val"], config)
        _write(workspace, config, replace(trained, bundle=decided))
        _log_bundle(workspace, system, run, trained.history)
        note_run(note, run.run_id, mark, sha256_of(workspace.bundle(system) / WEIGHTS_FILE))
    workspace.checkpoint(system).unlink(missing_ok=True)


def _fitted_parts(workspace: Workspace) -> dict[str, Rois]:
    rois = read_parts(workspace)
    return {name: rois.part(name) for name in ("train", "val")}


def epoch_line(system: str, record: EpochRecord, n_epochs: int) -> str:
    """One line for an epoch: `compact-model1 epoch 3/40 …`."""
    return (
        f"{system} epoch {record.epoch + 1}/{n_epochs}  train loss {record.train_loss:.4f}  "
        f"val loss {record.val_loss:.4f}  val AUC {record.val_auc:.3f}  {record.patches_per_second:,.0f} patches/s"
    )


def _metrics(record: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in record.items() if name != "epoch"}


def _log_bundle(workspace: Workspace, system: str, run: Run, history: pd.DataFrame) -> None:
    """Log what the files of a trained system hold, and the epochs that a kill after their checkpoint left out."""
    logged = {metric.step for metric in connect(workspace).get_metric_history(run.run_id, "val_loss")}
    for record in history.to_dict("records"):
        if record["epoch"] not in logged:
            run.log_metrics(_metrics({str(k): v for k, v in record.items()}), step=int(record["epoch"]))
    for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
        run.log_file(workspace.bundle(system) / name, "bundle")
    run.log_file(workspace.reports / "train" / f"{system}.csv")
    results = read_json(workspace.reports / "train" / f"{system}.json")
    run.log_metrics({f"best_{name}": float(value) for name, value in results.items()})
    description = workspace.description(system)
    weights = str(read_json(description)["weights_sha256"])
    mlflow.set_tags({WEIGHTS_TAG: weights, BUNDLE_TAG: sha256_of(description)})


def _write(workspace: Workspace, config: Config, trained: Trained) -> None:
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


def training_context(workspace: Workspace, config: Config, system: str, parts: dict[str, Rois]) -> RunContext:
    """What a run logs at its start: settings, identity, data sets with their DVC hashes."""
    hashes = data_hashes(workspace.root)
    use = {"train": "training", "val": "validation"}
    synthetic = any(part.synthetic for part in parts.values())
    tags = {
        "mammo.system": system,
        "mammo.source": config.ingest.source,
        "mammo.weights": config.model.weights,
        "mammo.synthetic": str(synthetic).lower(),
        "mammo.params": fingerprint(config.model_dump()),
        "mammo.git_commit": git_commit(workspace.root) or "not in git",
        "mlflow.note.content": f"{'Phantom (synthetic) data. ' * synthetic}Research software.",
    }
    if config.settings_from != OWN_SETTINGS:
        tags |= study_tags(workspace.root / config.settings_from)
    tags |= {f"mammo.version.{name}": value for name, value in library_versions().items()}
    params = flat_params(
        config.model_dump(include={"ingest", "split", "patches", "model", "train", "vote", "referral"})
        | {"recipe": config.recipe.model_dump(), "system": system}
    )
    datasets = tuple(
        (f"{config.ingest.source}-{name}", part.table, hashes.get("data/rois", ""), use[name])
        for name, part in parts.items()
    )
    return RunContext(experiment_name(config), title_of(system, config.model.weights), params, tags, datasets)


def experiment_name(config: Config) -> str:
    """Runs of one source and one protocol are comparable and share an experiment."""
    return f"{config.ingest.source}-{config.split.protocol}"


def ensure_run(workspace: Workspace, config: Config, system: str) -> str:
    """Id of the run that made a system's bundle; written again from the files if this store has none."""
    found = find_run(connect(workspace), sha256_of(workspace.description(system)))
    if found is not None:
        return found
    context = training_context(workspace, config, system, _fitted_parts(workspace))
    tags = context.tags | {"mammo.rebuilt": "from DVC outputs"}
    with open_run(workspace, replace(context, tags=tags)) as run:
        _log_bundle(workspace, system, run, pd.read_csv(workspace.reports / "train" / f"{system}.csv"))
        return run.run_id


def fill_store(workspace: Workspace, config: Config) -> Version:
    """Bring MLflow's store up to date with the workspace's files; what it holds already stays as it is.

    The run of each system gets its test results, and the chosen system becomes a version: champion, where there is
    none. Runs and versions that the store lacks are written from the files.

    Raises:
        TrackingError: the store cannot be used.
    """
    for system in read_json(workspace.reports / "evaluate" / "results.json")["systems"]:
        record_evaluation(workspace, config, system)
    choice = read_json(workspace.reports / "champion.json")
    run_id = ensure_run(workspace, config, choice["system"])
    return register(workspace, choice["model_name"], run_id, workspace.bundle(choice["system"]))


def record_evaluation(workspace: Workspace, config: Config, system: str) -> None:
    """Add test results, their intervals and the pictures to a system's run, unless it holds them."""
    folder = workspace.reports / "evaluate"
    run_id, digest = ensure_run(workspace, config, system), sha256_of(folder / "results.json")
    if connect(workspace).get_run(run_id).data.tags.get(EVALUATION_TAG) == digest:
        return
    judged = read_json(folder / "results.json")["systems"][system]
    with open_run(workspace, RunContext(experiment_name(config), system, {}, {}), unfinished=run_id) as run:
        for name, estimate in {**judged["roi"], **operation_estimates(judged)}.items():
            ends = {"": estimate["value"], "_ci_low": estimate["ci_low"], "_ci_high": estimate["ci_high"]}
            run.log_metrics({f"test_{name}{end}": v for end, v in ends.items() if v is not None})
        run.log_metrics({"test_n_rois": float(judged["n_rois"])})
        for path in sorted(folder.iterdir()):
            run.log_file(path, "evaluate")
        mlflow.set_tags({EVALUATION_TAG: digest})
