"""The `mammo` command. Rooms are imported inside the commands, so that `mammo --help` answers at once."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mammo.core.errors import NOTICE, MammoError, guarded
from mammo.core.files import Workspace
from mammo.options import HERE, WorkspaceOption, check_port
from mammo.study_cli import app as study_app
from mammo.tune_cli import app as tune_app

if TYPE_CHECKING:
    from mammo.track.registry import Version

app = typer.Typer(
    help=f"Classify mammographic ROIs as Normal or Tumor by deep fusion learning and patch voting. {NOTICE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object for each row.")]
app.add_typer(study_app)
app.add_typer(tune_app, name="tune")


@app.command()
def fetch(
    archive: Annotated[Path | None, typer.Option(help="A copy of MIAS_ROIs.zip on this machine.")] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Bring the raw data of params.yaml's source into data/raw/ and check them."""
    from mammo.core.config import Config
    from mammo.core.provenance import version_file
    from mammo.data.archive import fetch_raw

    space = Workspace(workspace)
    path = fetch_raw(Config.load_own(space.params).ingest, space.root, archive)
    version_file(path)
    Console().print(f"{path}: in place and checked. Next: dvc repro", highlight=False, soft_wrap=True)


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder for the films and Info.txt.")] = Path("data/raw/phantom"),
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write synthetic films in mini-MIAS format."""
    from mammo.core.config import Config
    from mammo.data.phantom import write_phantom

    space = Workspace(workspace)
    config = Config.load_own(space.params).phantom
    target = out if out.is_absolute() else space.root / out
    write_phantom(config, target)
    Console().print(
        f"{target}: films of {config.n_patients} phantom patients", highlight=False, soft_wrap=True
    )


@app.command()
def demo(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder for the demo's own workspace.")
    ] = Path("demo"),
) -> None:
    """Run the whole pipeline on phantoms, in a workspace of its own, and show what it made."""
    from mammo.demo import run_demo

    run_demo(Path(), workspace, Console())


@app.command()
def predict(
    files: Annotated[
        list[Path], typer.Argument(help="Pictures of ROIs: PNG, PGM, TIFF or DICOM, 120 × 120.")
    ],
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Let the registered champion vote on pictures of ROIs."""
    from mammo.serve.predict import predict_files

    rows = predict_files(Workspace(workspace), files)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    from mammo.report.terminal import votes_table

    Console().print(votes_table(rows))


@app.command()
def explain(
    rois: Annotated[list[str], typer.Argument(help="Pictures of ROIs, or roi_ids such as 'test/Tumor (3)'.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures (default: reports/explanations).")
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            help="Block of Grad-CAM: block1 … block5 or all (default: what the system's head sees)."
        ),
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Draw why the champion decides so: the map of its votes and Grad-CAM, one picture for each ROI."""
    from mammo.report.explanations import write_explanations
    from mammo.serve.predict import explain_rois

    space = Workspace(workspace)
    explained = explain_rois(space, rois, block)
    pictures = write_explanations(explained, space.reports / "explanations" if out is None else out)
    for (row, _), picture in zip(explained, pictures, strict=True):
        if as_json:
            typer.echo(json.dumps({"roi": row["roi"], "picture": str(picture), **row}))
            continue
        decided = (
            f"{row['label']}, {sum(row['votes'])} of {len(row['votes'])} votes, score {row['score']:.3f}"
        )
        typer.echo(f"{row['roi']}: {decided} → {picture}")
    if not as_json:
        typer.echo(NOTICE)


@app.command()
def audit(
    as_json: Annotated[bool, typer.Option("--json", help="A list with one object for each pair.")] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show the ROIs that share tissue or patients, and in which parts of the split they are.

    Without the stages' results it searches the raw data at once (about a minute) and writes nothing.
    """
    from mammo.core.config import Config
    from mammo.core.processes import steps_progress
    from mammo.data.audit import SHOWN_COLUMNS, leakage_summary, parts_of, read_audit, run_audit
    from mammo.report.terminal import overlaps_table

    space = Workspace(workspace)
    config = Config.load(space.params)
    if space.overlaps.is_file() and space.split.is_file():
        found = read_audit(space)
    else:
        with steps_progress("searching for shared tissue") as progress:
            found = run_audit(space, config, progress)
    if as_json:
        rows = json.loads(found.pairs[list(SHOWN_COLUMNS)].to_json(orient="records"))
        typer.echo(json.dumps(rows, indent=2))
        return
    summary = leakage_summary(found.pairs, found.rois.table, parts_of(found.split))
    Console().print(overlaps_table(found.pairs.to_dict("records"), summary, config.split.protocol))


@app.command()
def locate(
    films: Annotated[Path, typer.Argument(help="all-mias.tar.gz or its folder, with Info.txt.")],
    workspace: WorkspaceOption = HERE,
) -> None:
    """Find each ROI of the archive in the mini-MIAS films: its film, patient and place."""
    from mammo.core.processes import steps_progress
    from mammo.data.locate import locate_rois
    from mammo.data.rois import read_rois
    from mammo.report.audit import write_located
    from mammo.report.terminal import located_line

    space = Workspace(workspace)
    rois = read_rois(space.rois)
    with steps_progress("locating ROIs") as progress:
        located = locate_rois(rois, films, progress=progress)
    write_located(space, located)
    Console().print(located_line(located, space), highlight=False, soft_wrap=True)


@app.command()
def promote(version: str, workspace: WorkspaceOption = HERE) -> None:
    """Make a registered version champion."""
    from mammo.track import registry

    _say_version(registry.promote(Workspace(workspace), _model_name(workspace), version))


@app.command()
def rollback(workspace: WorkspaceOption = HERE) -> None:
    """Give the champion alias back to the version that held it before."""
    from mammo.track import registry

    _say_version(registry.rollback(Workspace(workspace), _model_name(workspace)))


@app.command()
def runs(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Compare the runs of this workspace, and show the registered versions."""
    from mammo.track.registry import versions
    from mammo.track.store import comparison_rows

    space = Workspace(workspace)
    rows, registered = comparison_rows(space), versions(space, _model_name(workspace))
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row | {"started": row["started"].isoformat()}))
        return
    from mammo.report.terminal import runs_table, versions_table

    Console().print(runs_table(rows), versions_table(registered))


@app.command()
def ui(port: int = 5000, host: str = "127.0.0.1", workspace: WorkspaceOption = HERE) -> None:
    """Start the MLflow UI on this workspace's runs (one lean worker)."""
    from mammo.track.check import tracking_uri
    from mammo.track.store import connect, without_password

    space = Workspace(workspace)
    store = tracking_uri(space)
    if store.startswith(("http://", "https://")):
        raise MammoError(
            f"MLFLOW_TRACKING_URI is the server {without_password(store)}, which has the page itself; open that address"
        )
    check_port(host, port)
    connect(space)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--workers", "1"]
    command += ["--backend-store-uri", store, "--host", host, "--port", str(port)]
    command += ["--artifacts-destination", str((space.mlruns / "artifacts").resolve())]
    typer.echo(f"MLflow UI: http://{host}:{port} (stop with Ctrl-C)", err=True)
    os.execv(command[0], command)


@app.command()
def serve(port: int = 8000, host: str = "127.0.0.1", workspace: WorkspaceOption = HERE) -> None:
    """Serve the champion: a page for people, JSON for programs."""
    check_port(host, port)
    import uvicorn

    from mammo.serve.app import create_app

    service = create_app(Workspace(workspace))
    typer.echo(f"voting service: http://{host}:{port} (stop with Ctrl-C)", err=True)
    uvicorn.run(service, host=host, port=port, log_level="warning")


@app.command()
def doctor(workspace: WorkspaceOption = HERE) -> None:
    """Check versions, devices, data, weights and the store; say what is missing and how to get it."""
    from mammo.doctor import examine
    from mammo.report.terminal import findings_table

    findings = examine(Workspace(workspace))
    Console().print(findings_table(findings))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(2)


def _model_name(workspace: Path) -> str:
    from mammo.core.config import Config

    return Config.load_own(Workspace(workspace).params).register_.model_name


def _say_version(version: "Version") -> None:
    Console().print(
        f"version {version.number} ({version.system}): {', '.join(version.aliases) or 'no alias'}; {version.reason}",
        highlight=False,
    )


def main() -> None:
    """The console script."""
    guarded(app)


if __name__ == "__main__":
    main()
