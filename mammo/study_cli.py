"""`mammo seeds`, `ledger`, `ablate` and `study`: many fits, one table. Each is resumable."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mammo.core.files import Workspace
from mammo.options import HERE, WorkspaceOption

if TYPE_CHECKING:
    from mammo.core.config import Config

app = typer.Typer()

JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Fits at a time (default: one for each CPU; on a GPU one)."),
]


@app.command()
def seeds(
    n_seeds: Annotated[int, typer.Argument(min=2, help="How many training seeds.")] = 10,
    jobs: JobsOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Train every system over several seeds; write the mean and spread of the test results. Resumable."""
    from mammo.report.studies import write_seeds
    from mammo.report.terminal import show_markdown
    from mammo.studies.ledger import run_seeds

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    show_markdown(console, write_seeds(opened, run_seeds(opened, config, n_seeds, n_jobs, console)))


@app.command()
def ledger(jobs: JobsOption = None, workspace: WorkspaceOption = HERE) -> None:
    """Test every system under the published and the honest protocol, beside floor and paper. Resumable."""
    from mammo.report.studies import write_ledger
    from mammo.report.terminal import show_markdown
    from mammo.studies.ledger import run_ledger

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    show_markdown(console, write_ledger(opened, run_ledger(opened, config, n_jobs, console)))


@app.command()
def ablate(jobs: JobsOption = None, workspace: WorkspaceOption = HERE) -> None:
    """Toggle each defect of the paper's recipe alone; write its effect with its interval. Resumable."""
    from mammo.report.studies import write_ablation
    from mammo.report.terminal import show_markdown
    from mammo.studies.ablation import run_ablation

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    show_markdown(console, write_ablation(opened, run_ablation(opened, config, n_jobs, console)))


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(help="YAML file of variants, such as pipelines/studies/choices.yaml.")
    ],
    jobs: JobsOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Compare named variants of the settings within train and val, to choose by. Resumable."""
    from mammo.report.studies import write_variants
    from mammo.report.terminal import show_markdown
    from mammo.studies.variants import run_study

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    show_markdown(console, write_variants(opened, run_study(opened, config, file, n_jobs, console)))


def _open(workspace: Path, jobs: int | None) -> "tuple[Workspace, Config, int]":
    """The workspace with its data up to the split, made where they are missing; settings; how many jobs."""
    from mammo.core.config import Config
    from mammo.core.provenance import ensure_split
    from mammo.studies.fits import default_jobs

    opened = Workspace(workspace)
    config = Config.load(opened.params)
    ensure_split(opened)
    return opened, config, jobs or default_jobs(config)
