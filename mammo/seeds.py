"""The spread over training seeds: no single run is a result."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from mammo.assessment import auc_difference, describe_data, judge, score_floor
from mammo.config import Config
from mammo.evaluation.intervals import nan_to_none, over_seeds
from mammo.evaluation.metrics import TITLES
from mammo.layout import Workspace
from mammo.progress import training_progress
from mammo.promotion import best_system
from mammo.reporting.seeds import seeds_markdown
from mammo.storage import read_json, read_table, write_bytes, write_json
from mammo.systems import read_part, run_fingerprint, score_part, train_system

Outcome = dict[str, Any]


def run_seeds(space: Workspace, config: Config, n_seeds: int, console: Console) -> None:
    """Train every system with seeds 0 to `n_seeds` − 1, test each, and report mean and spread.

    Each finished fit is kept under `reports/seeds/runs/` and an unfinished one under `models/`, so the same
    command goes on where it stopped.
    """
    folder = space.reports / "seeds"
    outcomes: dict[str, list[Outcome]] = {system: [] for system in config.systems}
    for seed in range(n_seeds):
        for system in config.systems:
            outcome = one_outcome(space, config, system, seed, folder / "runs")
            outcomes[system].append(outcome)
            console.print(
                f"seed {seed} {system}: val loss {outcome['val_loss']:.4f}, "
                f"test AUC {outcome['test']['auc_score']:.3f}, accuracy {outcome['test']['accuracy']:.3f}",
                highlight=False,
            )
    summary = summarise_seeds(space, config, outcomes)
    write_json(folder / "seeds.json", summary)
    write_bytes(folder / "seeds.md", seeds_markdown(summary).encode())
    console.print(seeds_markdown(summary), highlight=False, markup=False)


def one_outcome(space: Workspace, config: Config, system: str, seed: int, folder: Path) -> Outcome:
    """Train and test one system with one seed, or read what an earlier call found under the same settings."""
    parts = {name: read_part(space, name) for name in ("train", "val", "test")}
    patch_sets = {name: read_table(space.patches(name)) for name in ("train", "val")}
    mark = run_fingerprint(system, config, seed, parts["train"], parts["val"], patch_sets)
    path = folder / f"{system}-seed{seed}.json"
    if path.is_file() and (kept := read_json(path))["fingerprint"] == mark:
        return dict(kept)
    checkpoint = space.checkpoint(f"{system}-seed{seed}")
    with training_progress(f"seed {seed} {system}", config.recipe.epochs) as on_step:
        trained = train_system(
            system, config, parts["train"], parts["val"], patch_sets, seed, checkpoint, on_step=on_step
        )
    scored = score_part(trained.bundle, parts["test"], config)
    judged = judge(scored, config.evaluate, patches=False)
    floor = score_floor(parts["train"], parts["test"])
    outcome = {
        "fingerprint": mark,
        "system": system,
        "seed": seed,
        "best_epoch": trained.bundle.results["epoch"],
        "val_loss": trained.bundle.results["val_loss"],
        "val_auc": trained.bundle.results["val_auc"],
        "test": {name: estimate["value"] for name, estimate in judged["roi"].items()},
        "confusion": judged["confusion"],
        "minus_floor_auc": auc_difference(scored, floor, config.evaluate).to_dict(),
    }
    write_json(path, outcome)
    checkpoint.unlink(missing_ok=True)
    return outcome


def summarise_seeds(space: Workspace, config: Config, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Mean, standard deviation and t interval of each metric over the seeds, and the choice on validation."""
    train, test = read_part(space, "train"), read_part(space, "test")
    mean_validation = {
        system: {key: sum(o[key] for o in runs) / len(runs) for key in ("val_loss", "val_auc")}
        for system, runs in outcomes.items()
    }
    return {
        "data": describe_data(config, test),
        "n_seeds": len(next(iter(outcomes.values()))),
        "selected": best_system(mean_validation, config.register_.select_by),
        "selected_by": f"mean {config.register_.select_by} over the seeds",
        "systems": {
            system: {
                "validation": mean_validation[system],
                "test": {name: _over(runs, lambda o, name=name: o["test"][name]) for name in TITLES},
                "minus_floor_auc": _over(runs, lambda o: o["minus_floor_auc"]["value"]),
            }
            for system, runs in outcomes.items()
        },
        "floor": judge(score_floor(train, test), config.evaluate, patches=False),
    }


def _over(runs: list[Outcome], pick: Any) -> dict[str, Any]:
    values = [float("nan") if (value := pick(run)) is None else float(value) for run in runs]
    return nan_to_none(asdict(over_seeds(values)))
