"""Stage `ablate`: each defect of the paper's recipe toggled alone → its effect."""

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.studies.ablation import run_ablation
from mammo.studies.fits import default_jobs


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_ablation(space, config, default_jobs(config), Console())


if __name__ == "__main__":
    guarded(main)
