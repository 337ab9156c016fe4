"""`mammo seeds`, `ledger`, `ablate` and `study`: many fits, one table. Each is resumable."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mammo.core.files import Workspace, write_bytes, write_json
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
    from mammo.report.seeds import seeds_markdown
    from mammo.studies.ledger import run_seeds

    opened, config, n_jobs = _open(workspace, jobs)
    console, folder = Console(), opened.reports / "seeds"
    summary = run_seeds(opened, config, n_seeds, n_jobs, console)
    write_json(folder / "seeds.json", summary)
    write_bytes(folder / "seeds.md", seeds_markdown(summary).encode())
    console.print(seeds_markdown(summary), highlight=False, markup=False, soft_wrap=True)


@app.command()
def ledger(jobs: JobsOption = None, workspace: WorkspaceOption = HERE) -> None:
    """Test every system under the published and the honest protocol, beside floor and paper. Resumable."""
    from mammo.evaluation.conformal import FoldReferral
    from mammo.report.ledger import write_ledger
    from mammo.studies.ledger import run_ledger

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    summary = run_ledger(opened, config, n_jobs, console)
    folds = [FoldReferral.from_dict(fold) for fold in summary["referral"]]
    write_ledger(opened.reports / "ledger", summary, folds, console)


@app.command()
def ablate(jobs: JobsOption = None, workspace: WorkspaceOption = HERE) -> None:
    """Toggle each defect of the paper's recipe alone; write its effect with its interval. Resumable."""
    from mammo.report.variants import write_ablation
    from mammo.studies.ablation import run_ablation

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    write_ablation(opened.reports / "ablate", run_ablation(opened, config, n_jobs, console), console)


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(help="YAML file of variants, such as pipelines/studies/choices.yaml.")
    ],
    jobs: JobsOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Compare named variants of the settings within train and val, to choose by. Resumable."""
    from mammo.report.variants import write_study
    from mammo.studies.variants import run_study

    opened, config, n_jobs = _open(workspace, jobs)
    console = Console()
    write_study(opened.reports / "study", run_study(opened, config, file, n_jobs, console), console)


def _open(workspace: Path, jobs: int | None) -> "tuple[Workspace, Config, int]":
    """The workspace with its data up to the split, made where they are missing; settings; how many jobs."""
    from mammo.core.config import Config
    from mammo.core.provenance import ensure_split
    from mammo.studies.fits import default_jobs

    opened = Workspace(workspace)
    config = Config.load(opened.params)
    ensure_split(opened)
    return opened, config, jobs or default_jobs(config)
