"""How stages write themselves into MLflow, and how MLflow's side is rebuilt from DVC's.

The bundles and reports that DVC versions are the truth. A run is found by the hash of the bundle; where a
store does not know it, as in a fresh clone, the run is written again from the files.
"""

from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.files import Workspace, atomic_path, read_json, read_table, sha256_of, write_json
from mammo.core.processes import training_progress
from mammo.core.provenance import data_hashes, fingerprint, git_commit, library_versions
from mammo.core.settings import study_tags
from mammo.data.rois import Rois
from mammo.data.splits import read_parts
from mammo.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE, save_bundle
from mammo.systems.assess import operation_estimates
from mammo.systems.fit import EpochRecord
from mammo.systems.train import Trained, run_fingerprint, train_system, validation_results
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


def train_recorded(space: Workspace, config: Config, system: str) -> None:
    """Train a system under an MLflow run; write its bundle, its history and its validation results.

    A run that was killed goes on: from its last epoch, in the same MLflow run.
    """
    parts = _fitted_parts(space)
    patch_sets = {name: read_table(space.patches(name)) for name in parts}
    mark = run_fingerprint(system, config, config.train.seed, parts["train"], parts["val"], patch_sets)
    note = space.run_note(system)
    context = training_context(space, config, system, parts)
    with open_run(space, context, unfinished_run(note, mark)) as run:
        note_run(note, run.run_id, mark, weights_sha256=None)
        trained = _train_with_progress(space, config, system, parts, patch_sets, run)
        digest = _write(space, config, trained)
        _log_files(space, system, run)
        results = validation_results(trained.bundle)
        run.log_metrics({f"best_{name}": float(value) for name, value in results.items()})
        run.set_tags(_bundle_tags(space, system))
        note_run(note, run.run_id, mark, digest)
    space.checkpoint(system).unlink(missing_ok=True)


def _fitted_parts(space: Workspace) -> dict[str, Rois]:
    rois = read_parts(space)
    return {name: rois.part(name) for name in ("train", "val")}


def _train_with_progress(
    space: Workspace,
    config: Config,
    system: str,
    parts: dict[str, Rois],
    patch_sets: dict[str, pd.DataFrame],
    run: Run,
) -> Trained:
    console = Console(stderr=True)
    n_epochs = config.recipe.epochs

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
            checkpoint=space.checkpoint(system),
            on_epoch=report,
            on_step=on_step,
        )
    _complete_history(space, run, trained.history)
    return trained


def epoch_line(system: str, record: EpochRecord, n_epochs: int) -> str:
    """One line for an epoch: `compact-model1 epoch 3/40 …`."""
    return (
        f"{system} epoch {record.epoch + 1}/{n_epochs}  train loss {record.train_loss:.4f}  "
        f"val loss {record.val_loss:.4f}  val AUC {record.val_auc:.3f}  {record.patches_per_second:,.0f} patches/s"
    )


def _metrics(record: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in record.items() if name != "epoch"}


def _complete_history(space: Workspace, run: Run, history: pd.DataFrame) -> None:
    """Log the epochs that a kill between checkpoint and logging left out."""
    logged = {metric.step for metric in connect(space).get_metric_history(run.run_id, "val_loss")}
    for record in history.to_dict("records"):
        if record["epoch"] not in logged:
            run.log_metrics(_metrics({str(k): v for k, v in record.items()}), step=int(record["epoch"]))


def _write(space: Workspace, config: Config, trained: Trained) -> str:
    """Write bundle, history and validation results; returns the weights' SHA-256.

    What changes from machine to machine (speed, commit) stays out of these files: DVC must find them
    unchanged when the same settings train the same weights.
    """
    system = trained.bundle.system
    provenance = {
        "data_md5": data_hashes(space.root),
        "seed": config.train.seed,
        "recipe": config.recipe.model_dump(),
    }
    save_bundle(replace(trained.bundle, provenance=provenance), space.bundle(system))
    history = trained.history.drop(columns=["patches_per_second"])
    with atomic_path(space.reports / "train" / f"{system}.csv") as temporary:
        history.round(6).to_csv(temporary, index=False)
    write_json(space.reports / "train" / f"{system}.json", validation_results(trained.bundle))
    return sha256_of(space.bundle(system) / WEIGHTS_FILE)


def _log_files(space: Workspace, system: str, run: Run) -> None:
    for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
        run.log_file(space.bundle(system) / name, "bundle")
    run.log_file(space.reports / "train" / f"{system}.csv")


def training_context(space: Workspace, config: Config, system: str, parts: dict[str, Rois]) -> RunContext:
    """What a run logs at its start: settings, identity, data sets with their DVC hashes."""
    hashes = data_hashes(space.root)
    use = {"train": "training", "val": "validation"}
    synthetic = any(part.synthetic for part in parts.values())
    tags = {
        "mammo.system": system,
        "mammo.source": config.ingest.source,
        "mammo.synthetic": str(synthetic).lower(),
        "mammo.params": fingerprint(config.model_dump()),
        "mammo.git_commit": git_commit(space.root) or "not in git",
        "mlflow.note.content": "Phantom (synthetic) data. Research software."
        if synthetic
        else "Research software.",
    }
    if config.settings_from != OWN_SETTINGS:
        tags |= study_tags(space.root / config.settings_from)
    tags |= {f"mammo.version.{name}": value for name, value in library_versions().items()}
    params = flat_params(
        config.model_dump(include={"ingest", "split", "patches", "model", "train", "vote", "referral"})
        | {"recipe": config.recipe.model_dump(), "system": system}
    )
    datasets = tuple(
        (f"{config.ingest.source}-{name}", part.table, hashes.get("data/rois", ""), use[name])
        for name, part in parts.items()
    )
    return RunContext(experiment_name(config), system, params, tags, datasets)


def experiment_name(config: Config) -> str:
    """Runs of one source and one protocol are comparable and share an experiment."""
    return f"{config.ingest.source}-{config.split.protocol}"


def ensure_run(space: Workspace, config: Config, system: str) -> str:
    """Id of the run that made a system's bundle; written again from the files if this store has none."""
    tags = _bundle_tags(space, system)
    found = find_run(connect(space), tags[BUNDLE_TAG])
    if found is not None:
        return found
    context = training_context(space, config, system, _fitted_parts(space))
    with open_run(space, replace(context, tags=context.tags | {"mammo.rebuilt": "from DVC outputs"})) as run:
        _complete_history(space, run, pd.read_csv(space.reports / "train" / f"{system}.csv"))
        _log_files(space, system, run)
        results = read_json(space.reports / "train" / f"{system}.json")
        run.log_metrics({f"best_{name}": float(value) for name, value in results.items()})
        run.set_tags(tags)
        return run.run_id


def _bundle_tags(space: Workspace, system: str) -> dict[str, str]:
    description = space.bundle(system) / DESCRIPTION_FILE
    return {
        WEIGHTS_TAG: str(read_json(description)["weights_sha256"]),
        BUNDLE_TAG: sha256_of(description),
    }


def fill_store(space: Workspace, config: Config) -> Version:
    """Bring MLflow's store up to date with the workspace's files; what it holds already stays as it is.

    The run of each system gets its test results, and the chosen system becomes a version: champion, where there is
    none. Runs and versions that the store lacks are written from the files.

    Raises:
        TrackingError: the store cannot be used.
    """
    for system in read_json(space.reports / "evaluate" / "results.json")["systems"]:
        record_evaluation(space, config, system)
    choice = read_json(space.reports / "champion.json")
    system = choice["system"]
    return register(space, choice["model_name"], ensure_run(space, config, system), space.bundle(system))


def record_evaluation(space: Workspace, config: Config, system: str) -> None:
    """Add test results, their intervals and the pictures to a system's run, unless it holds them."""
    folder = space.reports / "evaluate"
    run_id, digest = ensure_run(space, config, system), sha256_of(folder / "results.json")
    if connect(space).get_run(run_id).data.tags.get(EVALUATION_TAG) == digest:
        return
    judged = read_json(folder / "results.json")["systems"][system]
    with open_run(space, RunContext(experiment_name(config), system, {}, {}), unfinished=run_id) as run:
        for name, estimate in {**judged["roi"], **operation_estimates(judged)}.items():
            ends = {"": estimate["value"], "_ci_low": estimate["ci_low"], "_ci_high": estimate["ci_high"]}
            run.log_metrics({f"test_{name}{end}": v for end, v in ends.items() if v is not None})
        run.log_metrics({"test_n_rois": float(judged["n_rois"])})
        for path in sorted(folder.iterdir()):
            run.log_file(path, "evaluate")
        run.set_tags({EVALUATION_TAG: digest})
