"""Stage `nested`: studies that each leave out a fold → is tuning worth it? (reports/tune/nested.*)."""

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.tuning.coordinator import Plan
from mammo.tuning.nested import run_nested
from mammo.tuning.sharing import workers_that_pay_off


def main() -> None:
    """Make or continue the studies of the current folder, and judge their choices."""
    space, console = Workspace(), Console()
    config = Config.load_own(space.params)
    n_workers = workers_that_pay_off(space, config, console.print)
    run_nested(space, config, Plan(config.tune.trials, n_workers), console)


if __name__ == "__main__":
    guarded(main)
