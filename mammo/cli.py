"""The `mammo` command. Rooms are imported inside the commands, so that `mammo --help` answers at once."""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from shlex import quote
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer import Argument, Exit, Option, echo

from mammo.core.errors import NOTICE, MammoError, guarded
from mammo.core.files import HERE, Workspace

if TYPE_CHECKING:
    from mammo.core.config import Config
    from mammo.track.registry import Version
    from mammo.tuning.workers import Plan

app = typer.Typer(
    help=f"Classify mammographic ROIs as Normal or Tumor by deep fusion learning and patch voting. {NOTICE}",
    epilog="Exit codes: 0 done; 2 refused or found wanting, with the reason; 130 and 143 stopped, the same command "
    "goes on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
tune_app = typer.Typer(
    help="Search settings with Optuna on folds inside train and val. The same command goes on after a stop.",
    epilog="Example: mammo tune --trials 60 --workers 2",
    invoke_without_command=True,
)
DATA, USE, REGISTRY, STUDIES = "Data", "Use", "Registry", "Studies"


def _command(group: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command, under the group that `mammo --help` shows it in."""
    return app.command(rich_help_panel=group, epilog=f"Example: {example}")


def _workspace(given: str | Workspace) -> Workspace:
    # Typer parses defaults too.
    return given if isinstance(given, Workspace) else Workspace(Path(given))


WorkspaceOption = Annotated[
    Workspace,
    Option(
        "--workspace",
        "-w",
        parser=_workspace,
        metavar="FOLDER",
        show_default=False,
        help="Folder with params.yaml, data/ and mlruns/ (default: the current one; of `demo`, demo/).",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="One JSON object for each row.")]
ReasonOption = Annotated[str, Option(metavar="TEXT", help="Why, for the history.")]
JobsOption = Annotated[
    int | None,
    Option("--jobs", "-j", min=1, help="Fits at a time (default: one for each CPU; on a GPU one)."),
]
DryRunOption = Annotated[bool, Option("--dry-run", help="Say how much there is to do, and stop.")]
StorageOption = Annotated[
    str | None,
    Option(
        envvar="MAMMO_TUNE_STORAGE",
        help="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (default: the workspace's journal; `worker` needs one).",
    ),
]
TrialsOption = Annotated[int | None, Option(min=1, help="Trials of a study in all (default: tune.trials).")]
WorkersOption = Annotated[
    int | None,
    Option(
        min=0,
        help="Processes of one thread each (default: one for each CPU; on a GPU one, which several can share).",
    ),
]
SourceOption = Annotated[Literal["phantom"] | None, Option(help="Search on synthetic ROIs, in a workspace of its own.")]
FreshOption = Annotated[bool, Option("--fresh", help="Forget the trials that are there.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"mammo {metadata.version('mammo')}")
        raise Exit


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _settings(workspace: Workspace) -> "Config":
    """The workspace's own settings."""
    from mammo.core.config import Config

    return Config.load_own(workspace.params)


def _show(as_json: bool, lines: Iterable[str], table: Callable[..., Any], *of: Any) -> None:
    """Print the lines of `--json`, or else the table that `table` makes of `of`."""
    if as_json:
        for line in lines:
            echo(line)
    else:
        Console().print(table(*of))


@_command(DATA, "mammo fetch --archive MIAS_ROIs.zip")
def fetch(
    archive: Annotated[
        Path | None,
        Option(help="A copy on this machine: MIAS_ROIs.zip, films of mini-MIAS, the CSV of own ROIs, or weights."),
    ] = None,
    source: Annotated[str | None, Option(help="Whose data (default: ingest.source).")] = None,
    weights: Annotated[
        Literal["hed"] | None, Option(help="Pretrained weights instead of data; see docs/weights.md.")
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Bring the raw data of a source into data/raw/SOURCE and check them."""
    from mammo.core.config import IngestConfig
    from mammo.core.provenance import version_file
    from mammo.core.settings import explained
    from mammo.data.fetch import fetch_hed, fetch_raw

    if weights:
        if source:
            raise MammoError("--weights and --source: one is brought at a time, got both; leave one out")
        fetch_hed(workspace.hed, archive, os.environ)
        echo(f"{workspace.hed}: in place and checked\nnext: model.weights: hed in params.yaml, for vgg16 systems")
        return
    config = _settings(workspace).ingest
    if source:
        with explained("--source"):
            config = IngestConfig.model_validate(config.model_dump() | {"source": source})
    for path in fetch_raw(config, workspace, archive):
        version_file(path)
        echo(f"{path}: in place and checked")
    echo("next: dvc repro" + (f" (with ingest.source: {source} in params.yaml)" if source else ""))


@_command(DATA, "mammo check rois/rois.csv")
def check(
    table: Annotated[Path, Argument(help="CSV with the columns path and label; see docs/own-data.md.")],
    workspace: WorkspaceOption = HERE,
) -> None:
    """Say row by row what is wrong with the CSV of own ROIs; nothing is written."""
    from mammo.data.own import read_own
    from mammo.data.splits import require_groups
    from mammo.report.terminal import problems_table

    config = _settings(workspace)
    read = read_own(table, config.ingest)
    if isinstance(read, list):
        Console().print(problems_table(table, read))
        raise Exit(2)
    patients = read.table["patient_id"].fillna(read.table["roi_id"])
    require_groups(read.labels, patients.to_numpy(dtype=str), config.split.n_folds)
    there = "" if workspace == HERE else f" --workspace {quote(str(workspace.root))}"
    echo(f"{table}: {read.counts}\nnext: mammo fetch --source own --archive {quote(str(table))}{there}")


@_command(DATA, "mammo phantom --out films")
def phantom(
    out: Annotated[Path, Option(help="Folder for the films and Info.txt.")] = Path("data/raw/phantom"),
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write synthetic films in mini-MIAS format."""
    from mammo.data.phantom import write_phantom

    config = _settings(workspace).phantom
    target = out if out.is_absolute() else workspace.root / out
    write_phantom(config, target)
    echo(f"{target}: films of {config.n_patients} phantom patients")


@_command(USE, "mammo demo")
def demo(workspace: WorkspaceOption = Workspace(Path("demo"))) -> None:
    """Run the whole pipeline on phantoms, in a workspace of its own, and show what it made."""
    from mammo.demo import run_demo

    run_demo(workspace.root)


@_command(USE, "mammo predict roi.png rois/ --csv")
def predict(
    files: Annotated[
        list[Path],
        Argument(
            help="Pictures of ROIs, 120 × 120, and folders, archives and CSVs of them; with --at a film. PNG, PGM, "
            "TIFF or DICOM. A CSV inside a folder or archive is passed over."
        ),
    ],
    at: Annotated[
        list[str] | None,
        Option(metavar="X,Y", help="Centre of a ROI in the film, in pixels from its top-left corner; repeatable."),
    ] = None,
    model: Annotated[
        Path | None,
        Option(help="Folder of a trained system, such as models/compact-model2, in the champion's place."),
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, Option("--csv", help="A header and one line for each row.")] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Let the registered champion vote on pictures of ROIs, or on places of a film, which is cut as in training."""
    if as_json and as_csv:
        raise MammoError("--json and --csv: one form is wanted, got both; leave one out")
    from mammo.serve.predict import predict_files, predict_film, write_csv

    if model is None:
        _register_results(workspace)
    rows = predict_film(workspace, files, at, model) if at else predict_files(workspace, files, model)
    if as_csv:
        write_csv(rows, sys.stdout)
        return
    from mammo.report.terminal import votes_table

    _show(as_json, map(json.dumps, rows), votes_table, rows)


@_command(USE, "mammo score rois/ more.zip own.csv --out scores.parquet")
def score(
    inputs: Annotated[
        list[Path],
        Argument(
            metavar="INPUT...",
            help="Folders and zip or tar archives (all files in them, but CSVs), CSVs with a column path, and pictures "
            "of ROIs.",
        ),
    ],
    out: Annotated[Path, Option(dir_okay=False, help="The table, a row for each ROI (parquet).")],
    version: Annotated[str | None, Option(help="Another version than the champion.")] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Let a version vote on any number of pictures of ROIs. Resumable; what is no ROI gets a row with the error."""
    from mammo.core.processes import steps_progress
    from mammo.serve.score import score

    _register_results(workspace)
    with steps_progress("scoring") as progress:
        found = score(workspace, inputs, out, version, progress)
    echo(f"{out}: {found.n_rows} rows by version {found.model_version}, {found.n_errors} of them with an error")
    if found.n_errors:
        raise Exit(2)


@_command(USE, "mammo explain 'test/Tumor (3)'")
def explain(
    rois: Annotated[list[str], Argument(help="Pictures of ROIs, or roi_ids such as 'test/Tumor (3)'.")],
    out: Annotated[Path | None, Option(help="Folder for the pictures (default: reports/explanations).")] = None,
    block: Annotated[
        str | None,
        Option(help="Block of Grad-CAM: block1 … block5 or all (default: what the system's head sees)."),
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Draw why the champion decides so: the map of its votes and Grad-CAM, one picture for each ROI."""
    from mammo.report.rois import write_explanations
    from mammo.serve.predict import explain_rois

    _register_results(workspace)
    explained = explain_rois(workspace, rois, block)
    pictures = write_explanations(explained, workspace.reports / "explanations" if out is None else out)
    for (row, _), picture in zip(explained, pictures, strict=True):
        if as_json:
            echo(json.dumps({"roi": row["roi"], "picture": str(picture), **row}))
            continue
        decided = f"{row['label']}, {sum(row['votes'])} of {len(row['votes'])} votes, score {row['score']:.3f}"
        strange = "" if row["in_domain"] else f" (refer to a reader: it {row['domain_reason']})"
        echo(f"{row['roi']}: {decided}{strange} → {picture}")
    if not as_json:
        echo(NOTICE)


@_command(DATA, "mammo audit --json")
def audit(
    as_json: Annotated[bool, Option("--json", help="A list with one object for each pair.")] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show the ROIs that share tissue or patients, and in which parts of the split they are.

    Without the stages' results it searches the raw data at once (about a minute) and writes nothing.
    """
    from mammo.core.config import Config
    from mammo.core.processes import steps_progress
    from mammo.data.audit import SHOWN_COLUMNS, leakage_summary, read_audit, run_audit
    from mammo.report.terminal import overlaps_table

    config = Config.load(workspace.params)
    if workspace.overlaps.is_file() and workspace.split.is_file():
        found = read_audit(workspace)
    else:
        with steps_progress("searching for shared tissue") as progress:
            found = run_audit(workspace, config, progress)
    rows = json.loads(found.pairs[list(SHOWN_COLUMNS)].to_json(orient="records"))
    summary = leakage_summary(found.pairs, found.rois.table)
    of = (found.pairs.to_dict("records"), summary, config.split.protocol)
    _show(as_json, [json.dumps(rows, indent=2)], overlaps_table, *of)


@_command(DATA, "mammo locate all-mias.tar.gz")
def locate(
    films: Annotated[
        Path | None,
        Argument(help="all-mias.tar.gz or its folder (default: what is in place, or MAMMO_MINI_MIAS)."),
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Find film, patient and place of each ROI of the archive in the films of mini-MIAS (the stage `locate`)."""
    from mammo.core.files import read_table
    from mammo.core.provenance import run_dvc
    from mammo.data.fetch import fetch_films
    from mammo.data.locate import located_line

    fetch_films(workspace.films, films, os.environ)
    run_dvc(workspace.root, "repro", "locate")
    found = located_line(read_table(workspace.located)) or "no ROI shows a place of these films"
    echo(f"{found}\nnext: dvc repro (groups ROIs by patient)")


@_command(REGISTRY, "mammo promote 2 --dry-run")
def promote(
    version: str,
    force: Annotated[bool, Option("--force", help="Whatever the gates say, if only it loads and votes.")] = False,
    reason: ReasonOption = "",
    dry_run: Annotated[bool, Option("--dry-run", help="Show the gates and move nothing.")] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make a registered version champion, if its gates (params.yaml: promote) hold."""
    from mammo.promotion import moves
    from mammo.report.terminal import gates_table
    from mammo.track.registry import announced

    config = _settings(workspace)
    with nullcontext() if dry_run else announced(workspace, config.register_.model_name, version):
        verdict = moves.judge(workspace, config, version)
        Console().print(gates_table(verdict))
        if not dry_run:
            _say_version(moves.promote(workspace, config, verdict, force=force, reason=reason))


@_command(REGISTRY, "mammo rollback --reason 'recall fell'")
def rollback(
    steps: Annotated[int, Argument(min=1, help="How many champions to go back.")] = 1,
    reason: ReasonOption = "",
    workspace: WorkspaceOption = HERE,
) -> None:
    """Give the champion alias back to the version that held it before, once it has been seen to vote."""
    from mammo.promotion import moves

    _say_version(moves.rollback(workspace, _model_name(workspace), steps, reason))


@_command(REGISTRY, "mammo history --verify")
def history(
    verify: Annotated[
        bool, Option("--verify", help="Walk the chain of hashes, compare the aliases; exit code 2 if broken.")
    ] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show every move of champion and challenger: when, who, why."""
    from mammo.report.terminal import history_table
    from mammo.track.history import history_of

    entries = history_of(workspace, name := _model_name(workspace), verify).entries
    title = f"{name}{': the chain is whole' if verify else ''}"
    _show(as_json, (entry.model_dump_json() for entry in entries), history_table, entries, title)


@_command(REGISTRY, "mammo trace 2")
def trace(
    what: Annotated[str, Argument(help="A version such as 2, or the prediction_id of an answer.")],
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Say where a version, or an answer, comes from: run, commit, data, settings, training ROIs."""
    from mammo.promotion.trace import trace as traced
    from mammo.report.terminal import trace_table

    found = traced(workspace, _model_name(workspace), what)
    _show(as_json, [json.dumps(asdict(found))], trace_table, found)


@_command(REGISTRY, "mammo rebuild 2")
def rebuild(version: str, workspace: WorkspaceOption = HERE) -> None:
    """Make a version again from its commit and the raw data, in a clean worktree, and compare (minutes)."""
    from mammo.promotion.trace import rebuild as made_again
    from mammo.report.terminal import rebuilt_table

    compared = made_again(workspace, _model_name(workspace), version, echo)
    Console().print(rebuilt_table(compared))
    if not all(one.agrees for one in compared):
        raise Exit(2)


@_command(REGISTRY, "mammo runs")
def runs(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Compare the runs of this workspace, and show the registered versions."""
    from mammo.track.registry import versions
    from mammo.track.store import comparison_rows

    model = _model_name(workspace)  # before a store is made
    _register_results(workspace)
    rows, registered = comparison_rows(workspace), versions(workspace, model)
    if as_json:
        for row in rows:
            echo(json.dumps(row | {"started": row["started"].isoformat()}))
        return
    from mammo.report.terminal import runs_table, versions_table
    from mammo.track.page import compare_pages

    Console().print(runs_table(rows), versions_table(registered))
    for name, address in compare_pages(workspace, rows).items():
        echo(f"compare the newest of {name} (while `mammo ui` runs): {address}")


@_command(USE, "mammo ui --port 5001")
def ui(port: int = 5000, host: str = "127.0.0.1", workspace: WorkspaceOption = HERE) -> None:
    """Start the MLflow UI, and open the table of this workspace's runs (one lean worker)."""
    from mammo.track.page import serve_page

    _check_port(host, port)
    raise Exit(serve_page(workspace, host, port, partial(echo, err=True)))


@_command(USE, "mammo serve --port 8001")
def serve(
    port: int = 8000,
    host: str = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None, Option(help="Name under which the service may be asked; repeatable.")
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Serve the champion, whichever it is: a page for people, JSON for programs."""
    _check_port(host, port)
    from mammo.serve.app import serve, warning_for
    from mammo.serve.door import checked_hosts

    hosts = checked_hosts(allowed_host or [])
    if warning := warning_for(host):
        echo(warning, err=True)
    _register_results(workspace)
    serve(workspace, host, port, hosts, partial(echo, err=True))


@_command(REGISTRY, "mammo shadow --json")
def shadow(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Say how far challengers that answered unseen (serve.shadow_share) agree with the champion."""
    from mammo.promotion.monitoring import agreements
    from mammo.report.terminal import agreements_table

    found = agreements(workspace)
    _show(as_json, (json.dumps(one.to_dict()) for one in found), agreements_table, found)


@_command(REGISTRY, "mammo drift --days 7 --fail")
def drift(
    days: Annotated[float, Option(min=0, max=36500, help="Look at what was served in so many days.")] = 30,
    fail: Annotated[bool, Option("--fail", help="End with exit code 2 where drift is large.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Compare what was served with what the champion was trained on; write Data Docs to reports/drift."""
    from mammo.promotion.monitoring import MIN_ANSWERS, drift
    from mammo.report.terminal import drifts_table

    found, checked = drift(workspace, days)
    _show(as_json, (json.dumps(one.to_dict()) for one in found), drifts_table, found)
    if not as_json:
        docs = f"fewer than {MIN_ANSWERS} different ROIs were served: nothing is judged"
        if checked is not None:
            broken = ", ".join(name for name, one in checked["expectations"].items() if not one["kept"])
            docs = f"expectations that failed: {broken or 'none'}; Data Docs: {workspace.reports / 'drift'}"
        echo(docs)
    if fail and any(one.word == "large" for one in found):
        raise Exit(2)


@_command(USE, "mammo doctor --json")
def doctor(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Check versions, devices, data, weights and the store; say what is missing and how to get it."""
    from mammo.doctor import examine
    from mammo.report.terminal import findings_table

    findings = examine(workspace)
    _show(as_json, (json.dumps(asdict(one)) for one in findings), findings_table, findings)
    if any(finding.level == "error" for finding in findings):
        raise Exit(2)


@_command(STUDIES, "mammo seeds 10")
def seeds(
    n_seeds: Annotated[int, Argument(min=2, help="How many training seeds.")] = 10,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Train every system over several seeds; write the mean and spread of the test results. Resumable."""
    from mammo.studies.ledger import run_seeds

    _study(workspace, jobs, dry_run, partial(run_seeds, n_seeds=n_seeds), "seeds")


@_command(STUDIES, "mammo ledger --dry-run")
def ledger(jobs: JobsOption = None, dry_run: DryRunOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Test every system under the published and the honest protocol, beside floor and paper. Resumable."""
    from mammo.studies.ledger import run_ledger

    _study(workspace, jobs, dry_run, run_ledger, "ledger")


@_command(STUDIES, "mammo ablate --jobs 2")
def ablate(jobs: JobsOption = None, dry_run: DryRunOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Toggle each defect of the paper's recipe alone; write its effect with its interval. Resumable."""
    from mammo.studies.ablation import run_ablation

    _study(workspace, jobs, dry_run, run_ablation, "ablate")


@_command(STUDIES, "mammo study pipelines/studies/choices.yaml")
def study(
    file: Annotated[Path, Argument(help="YAML file of variants, such as pipelines/studies/choices.yaml.")],
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Compare named variants of the settings within train and val, to choose by. Resumable."""
    from mammo.studies.variants import run_study

    _study(workspace, jobs, dry_run, partial(run_study, path=file), "study", file)


def _study(
    workspace: Workspace,
    jobs: int | None,
    dry_run: bool,
    run: Callable[..., dict[str, Any]],
    kind: str,
    file: Path | None = None,
) -> None:
    """Make the data up to the split where they are missing, run a study, write and show its tables."""
    from mammo.core.config import Config
    from mammo.core.provenance import note_made
    from mammo.report.studies import write_ledger, write_study
    from mammo.studies.fits import DryRunError, default_jobs

    config = Config.load(workspace.params)
    _with_split(workspace, dry_run)
    try:
        n_jobs = 0 if dry_run else jobs or default_jobs(config)
        summary = run(workspace, config, n_jobs=n_jobs, console=Console())
    except DryRunError as plan:
        echo(str(plan))
        return
    text = write_ledger(workspace, summary) if kind == "ledger" else write_study(workspace, kind, summary)
    note_made(workspace, kind, file)
    echo(text)


def _with_split(workspace: Workspace, dry_run: bool) -> None:
    """Make the data up to the split where they are missing; a dry run makes nothing."""
    from mammo.core.provenance import ensure_split

    if dry_run and not workspace.split.is_file():
        raise MammoError(
            f"{workspace.split}: --dry-run counts what there is to do on a split, got none; leave --dry-run out, "
            "or run `dvc repro split` first (minutes)"
        )
    ensure_split(workspace)


@tune_app.callback()
def tune(
    context: typer.Context,
    trials: TrialsOption = None,
    workers: WorkersOption = None,
    source: SourceOption = None,
    fresh: FreshOption = False,
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Search the settings of params.yaml's section `tune`; write reports/tune/best.yaml."""
    if command := context.invoked_subcommand:
        for name in context.params:
            given = context.get_parameter_source(name)
            if given is not None and given.name == "COMMANDLINE":  # nobody would read it
                option = f"--{name.replace('_', '-')}"
                raise MammoError(
                    f"mammo tune {command}: its options must stand after its name, but {option} stands before it; "
                    f"write `mammo tune {command} {option} …`"
                )
        return
    from mammo.core.provenance import note_made
    from mammo.report.terminal import best_in_words
    from mammo.tuning.workers import run_tuning, to_do

    workspace, config, plan = _ready(workspace, source, trials, workers, storage, fresh, dry_run)
    if dry_run:
        echo(to_do(workspace, [config], plan))
        return
    record = run_tuning(workspace, config, plan, Console())
    note_made(workspace, "tune")
    echo(best_in_words(workspace, record))


@tune_app.command(epilog="Example: mammo tune nested --trials 20")
def nested(
    trials: TrialsOption = None,
    workers: WorkersOption = None,
    source: SourceOption = None,
    fresh: FreshOption = False,
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Judge the tuning itself: studies that each leave out a fold, and what they chose on the fold they never saw."""
    from mammo.core.provenance import note_made
    from mammo.report.studies import write_study
    from mammo.tuning.mlflow import log_nested
    from mammo.tuning.nested import run_nested, studies_to_do
    from mammo.tuning.record import report_folder

    workspace, config, plan = _ready(workspace, source, trials, workers, storage, fresh, dry_run)
    if dry_run:
        echo(studies_to_do(workspace, config, plan))
        return
    summary = run_nested(workspace, config, plan, Console())
    echo(write_study(workspace, "nested", summary))
    note_made(workspace, "nested")
    log_nested(workspace, config, summary, report_folder(workspace))


@tune_app.command(epilog="Example: mammo tune worker --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")
def worker(
    storage: StorageOption = None,
    trials: TrialsOption = None,
    held_out_fold: Annotated[
        int | None, Option(min=0, help="Join the study of `mammo tune nested` that leaves out this fold.")
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Take trials of a study that `mammo tune` has made, on this or another machine, until none is left."""
    from mammo.tuning.space import without_fold
    from mammo.tuning.workers import work

    if storage is None:
        raise MammoError(
            "mammo tune worker needs --storage (the database that `mammo tune` was given), got none; on one machine "
            "use `mammo tune --workers N`"
        )
    config = _settings(workspace)
    if held_out_fold is not None:
        config = without_fold(config, held_out_fold)
    echo(f"{work(workspace, config, storage, trials, say=echo)} trials ended here; none is left")


@tune_app.command(epilog="Example: mammo tune dashboard")
def dashboard(
    storage: StorageOption = None,
    port: int = 8080,
    host: str = "127.0.0.1",
    workspace: WorkspaceOption = HERE,
) -> None:
    """Open optuna-dashboard on the study's storage."""
    _check_port(host, port)
    from optuna_dashboard import run_server

    from mammo.tuning.storage import journal_path, using_storage

    journal = journal_path(workspace)
    if storage is None and not journal.is_file():
        raise MammoError(f"{journal}: does not exist; run `mammo tune` to make a study")
    with using_storage(workspace, storage, heartbeat_s=None) as opened:
        echo(f"optuna-dashboard: http://{host}:{port} (stop with Ctrl-C)", err=True)
        # In a thread: its server swallows a Ctrl-C that comes while it answers.
        page = Thread(target=run_server, args=(opened, host, port), daemon=True)
        page.start()
        page.join()


def _ready(
    workspace: Workspace,
    source: str | None,
    trials: int | None,
    workers: int | None,
    storage: str | None,
    fresh: bool,
    dry_run: bool,
) -> "tuple[Workspace, Config, Plan]":
    """Where to search, and what is to be done; what is wrong with the request is refused before a phantom is made.

    A dry run makes no phantom: it takes the workspace as it is.
    """
    from mammo.demo import TUNE_SETTINGS, reproduce
    from mammo.studies.fits import default_jobs
    from mammo.tuning.space import check_trials
    from mammo.tuning.workers import Plan

    config = _settings(HERE if source else workspace)
    check_trials(config)
    n_workers = default_jobs(config) if workers is None else workers
    plan = Plan(config.tune.trials if trials is None else trials, n_workers, storage, fresh)
    if source and workspace == HERE:
        workspace = Workspace(Path("tune-demo"))
    if source and not dry_run:
        reproduce(workspace.root, TUNE_SETTINGS, "mammo tune --source phantom", "split")
    _with_split(workspace, dry_run)
    return workspace, _settings(workspace), plan


def _check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on (`MammoError`), before a server's libraries are loaded."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise MammoError(
            f"{host}:{port}: cannot be listened on ({error}); choose another with --host or --port"
        ) from error


def _register_results(workspace: Workspace) -> None:
    """Register the trained systems that `dvc pull` brought, where the store has no champion."""
    from mammo.track.check import lacks_champion

    if lacks_champion(workspace):
        from mammo.core.config import Config
        from mammo.track.record import fill_store

        echo("no champion yet: the systems in models/ are registered (once)", err=True)
        fill_store(workspace, Config.load(workspace.params))


def _model_name(workspace: Workspace) -> str:
    return _settings(workspace).register_.model_name


def _say_version(version: "Version") -> None:
    Console().print(
        f"version {version.number} ({version.system}): {', '.join(version.aliases) or 'no alias'}; {version.reason}",
        highlight=False,
    )


app.add_typer(tune_app, name="tune", rich_help_panel=STUDIES)


def main() -> None:
    """The console script."""
    guarded(app)


if __name__ == "__main__":
    main()
