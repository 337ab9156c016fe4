"""`mammo tune` and the commands under it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from mammo.core.files import Workspace
from mammo.options import HERE, WorkspaceOption, check_port

if TYPE_CHECKING:
    from mammo.core.config import Config
    from mammo.tuning.coordinator import Plan

app = typer.Typer(
    help="Search settings with Optuna on folds inside train and val. The same command goes on after a stop.",
    invoke_without_command=True,
)

StorageOption = Annotated[
    str | None,
    typer.Option(
        envvar="MAMMO_TUNE_STORAGE",
        help="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (default: the workspace's journal).",
    ),
]
TrialsOption = Annotated[int | None, typer.Option(help="Trials of a study in all (default: tune.trials).")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Processes of one thread each (default: one for each CPU; on a GPU as many as pay off)."
    ),
]
SourceOption = Annotated[
    str | None, typer.Option(help="phantom: search on synthetic ROIs, in a workspace of its own.")
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Forget the trials that are there.")]
PHANTOM: Final = Path("tune-demo")
"""Workspace of `--source phantom`, unless `--workspace` names another."""


@app.callback()
def tune(
    context: typer.Context,
    trials: TrialsOption = None,
    workers: WorkersOption = None,
    source: SourceOption = None,
    fresh: FreshOption = False,
    storage: StorageOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Search the settings of params.yaml's section `tune`; write reports/tune/best.yaml."""
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context, context.invoked_subcommand)
        return
    from mammo.tuning.coordinator import run_tuning

    console = Console()
    space, config, plan = _ready(workspace, source, trials, workers, storage, fresh, console)
    _show(space, run_tuning(space, config, plan, console), console)


@app.command()
def nested(
    trials: TrialsOption = None,
    workers: WorkersOption = None,
    source: SourceOption = None,
    fresh: FreshOption = False,
    storage: StorageOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Judge the tuning itself: studies that each leave out a fold, and what they chose on the fold they never saw."""
    from mammo.tuning.nested import run_nested

    console = Console()
    space, config, plan = _ready(workspace, source, trials, workers, storage, fresh, console)
    run_nested(space, config, plan, console)


@app.command()
def measure(
    most: Annotated[int | None, typer.Option(min=1, help="Most workers to try (default: one a CPU).")] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Measure how many workers pay off on this machine's device; on a GPU `mammo tune` goes by it."""
    from mammo.core.config import Config
    from mammo.core.provenance import ensure_split
    from mammo.tuning.sharing import Rate, measure_sharing

    console = Console()
    space = Workspace(workspace)
    config = Config.load_own(space.params)
    ensure_split(space)

    def say(rate: Rate) -> None:
        each = rate.patches_per_s / rate.n_workers
        console.print(
            f"{rate.n_workers:3d} workers: {rate.patches_per_s:8.0f} training patches a second, {each:.0f} each",
            highlight=False,
        )

    found = measure_sharing(space, config, most, say=say)
    console.print(f"{found.n_workers} workers pay off on {found.device}", highlight=False)


@app.command()
def worker(
    storage: StorageOption = None,
    trials: TrialsOption = None,
    held_out_fold: Annotated[
        int | None,
        typer.Option(min=0, help="Join the study of `mammo tune nested` that leaves out this fold."),
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Take trials of a study that `mammo tune` has made, on this or another machine, until none is left."""
    from mammo.core.config import Config
    from mammo.core.errors import MammoError
    from mammo.tuning.space import without_fold
    from mammo.tuning.worker import work

    if storage is None:
        raise MammoError(
            "mammo tune worker needs --storage (the database that `mammo tune` was given), got none; on one machine "
            "use `mammo tune --workers N`"
        )
    console = Console()
    config = Config.load_own(Workspace(workspace).params)
    if held_out_fold is not None:
        config = without_fold(config, held_out_fold)
    n_ended = work(
        workspace,
        config,
        storage,
        config.tune.trials if trials is None else trials,
        lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    console.print(f"{n_ended} trials ended here; none is left", highlight=False)


@app.command()
def dashboard(
    storage: StorageOption = None,
    port: int = 8080,
    host: str = "127.0.0.1",
    workspace: WorkspaceOption = HERE,
) -> None:
    """Open optuna-dashboard on the study's storage."""
    check_port(host, port)
    from optuna_dashboard import run_server

    from mammo.core.errors import MammoError
    from mammo.tuning.storage import journal_path, using_storage

    journal = journal_path(Workspace(workspace))
    if storage is None and not journal.is_file():
        raise MammoError(f"{journal}: does not exist; run `mammo tune` to make a study")
    with using_storage(Workspace(workspace), storage, heartbeat_s=None) as opened:
        typer.echo(f"optuna-dashboard: http://{host}:{port} (stop with Ctrl-C)", err=True)
        run_server(opened, host=host, port=port)


@app.command()
def apply(workspace: WorkspaceOption = HERE) -> None:
    """Let params.yaml take its settings from reports/tune/best.yaml (settings_from); `dvc repro` does the rest."""
    from mammo.tuning.apply import apply_best

    space = Workspace(workspace)
    changes = apply_best(space)
    console = Console()
    for line in changes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    said = (
        "Next: dvc repro. The way back: settings_from: params.yaml"
        if changes
        else "params.yaml takes its settings from there already"
    )
    console.print(said, highlight=False)


def _refuse_misplaced(context: typer.Context, command: str) -> None:
    """Options before a command's name would be read by nobody."""
    from mammo.core.errors import MammoError

    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise MammoError(
                f"mammo tune {command}: its options must stand after its name, but --{name} stands before it; write "
                f"`mammo tune {command} --{name} …`"
            )


def _ready(
    workspace: Path,
    source: str | None,
    trials: int | None,
    workers: int | None,
    storage: str | None,
    fresh: bool,
    console: Console,
) -> "tuple[Workspace, Config, Plan]":
    """Where to search, and what is to be done; what is wrong with the request is refused before a phantom is made."""
    from mammo.core.config import Config
    from mammo.tuning.coordinator import Plan, check_plan
    from mammo.tuning.sharing import workers_that_pay_off

    config = Config.load_own(Workspace(workspace).params)
    n_trials = config.tune.trials if trials is None else trials
    check_plan(Plan(n_trials, 1 if workers is None else workers, storage))
    space, config = _material(workspace, source, config)
    if workers is None:
        workers = workers_that_pay_off(space, config, lambda line: console.print(line, highlight=False))
    return space, config, Plan(n_trials, workers, storage, fresh)


def _material(workspace: Path, source: str | None, config: "Config") -> "tuple[Workspace, Config]":
    """The workspace with its ROIs split, and its settings."""
    from mammo.core.config import Config
    from mammo.core.errors import MammoError
    from mammo.core.provenance import ensure_split

    if source is None:
        ensure_split(Workspace(workspace))
        return Workspace(workspace), config
    if source != "phantom":
        raise MammoError(
            f"--source must be phantom, or left out for the source of params.yaml ({config.ingest.source}), got "
            f"{source!r}"
        )
    from mammo.demo import prepare_tuning

    space = prepare_tuning(HERE, PHANTOM if workspace == HERE else workspace)
    return space, Config.load_own(space.params)


def _show(space: Workspace, record: dict, console: Console) -> None:  # type: ignore[type-arg]
    from mammo.tuning.record import BEST_FILE, JUDGE_FILE, report_folder

    best, pruning, trials = record["best"], record["pruning"], record["trials"]
    there = "" if space.root == Path() else f" --workspace {space.root}"
    console.print(
        f"best: trial {best['trial']}, {best['metric']} of the {best['evidence']} {best['value']:.4f} ± "
        f"{best['fold_standard_error']:.4f} (standard error over {len(best['folds'])} folds)\n"
        + "\n".join(f"  {name}: {value}" for name, value in best["params"].items())
        + f"\n{_own_line(record['settings_of_params'], best['metric'])}\n"
        f"{trials['complete']} complete, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['retried']} retried; pruning saved {pruning['saved_share']:.0%} of the training "
        f"({pruning['saved_s'] / 60:.1f} minutes)\n"
        f"record: {report_folder(space) / BEST_FILE}\n"
        f"next: mammo study {report_folder(space) / JUDGE_FILE}{there} (judge the choice on folds of another seed), "
        f"or mammo tune apply{there} (train with it) and dvc repro",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _own_line(own: dict | str, metric: str) -> str:  # type: ignore[type-arg]
    if isinstance(own, str):
        return f"the settings of params.yaml: {own}"
    ended = (
        f"{metric} of the {own['evidence']} {own['value']:.4f}" if own["value"] is not None else own["state"]
    )
    return f"the settings of params.yaml, as trial {own['trial']} of the same budget: {ended}"
