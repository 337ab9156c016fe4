"""`mammo tune` and the commands under it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from mammo.core.files import Workspace
from mammo.options import HERE, WorkspaceOption, check_port

if TYPE_CHECKING:
    from mammo.core.config import Config
    from mammo.tuning.workers import Plan

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
        help="Processes of one thread each (default: one for each CPU; on a GPU one: 10 to 14 share an H100 well)."
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
    from mammo.tuning.workers import run_tuning

    console = Console()
    space, config, plan = _ready(workspace, source, trials, workers, storage, fresh)
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
    from mammo.report.studies import write_nested
    from mammo.report.terminal import show_markdown
    from mammo.tuning.mlflow import log_nested
    from mammo.tuning.nested import run_nested
    from mammo.tuning.record import report_folder

    console = Console()
    space, config, plan = _ready(workspace, source, trials, workers, storage, fresh)
    summary = run_nested(space, config, plan, console)
    show_markdown(console, write_nested(space, summary))
    log_nested(space, config, summary, report_folder(space))


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
    from mammo.tuning.workers import work

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
        say=lambda line: console.print(line, highlight=False, soft_wrap=True),
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
) -> "tuple[Workspace, Config, Plan]":
    """Where to search, and what is to be done; what is wrong with the request is refused before a phantom is made."""
    from mammo.core.config import Config
    from mammo.studies.fits import default_jobs
    from mammo.tuning.workers import Plan, check_plan

    config = Config.load_own(Workspace(workspace).params)
    n_trials = config.tune.trials if trials is None else trials
    check_plan(Plan(n_trials, 1 if workers is None else workers, storage))
    space, config = _material(workspace, source, config)
    return space, config, Plan(n_trials, default_jobs(config) if workers is None else workers, storage, fresh)


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
    from mammo.tuning.record import BEST_FILE, report_folder

    best, pruning, trials = record["best"], record["pruning"], record["trials"]
    chosen = report_folder(space) / BEST_FILE
    source = chosen.relative_to(space.root).as_posix()
    there = "" if space.root == Path() else f" --workspace {space.root}"
    console.print(
        f"best: trial {best['trial']}, {best['metric']} of the {best['evidence']} {best['value']:.4f} ± "
        f"{best['fold_standard_error']:.4f} (standard error over {len(best['folds'])} folds)\n"
        + "\n".join(f"  {name}: {value}" for name, value in best["params"].items())
        + f"\n{_own_line(record['settings_of_params'], best['metric'])}\n"
        f"{trials['complete']} complete, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['retried']} retried; pruning saved {pruning['saved_share']:.0%} of the training "
        f"({pruning['saved_s'] / 60:.1f} minutes)\n"
        f"record: {chosen}\n"
        f"to judge it: mammo tune nested{there} (folds that each study has never seen)\n"
        f"to train with it: write settings_from: {source} into {space.params}, see that its systems hold "
        f"{record['system']}, then dvc repro",
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
