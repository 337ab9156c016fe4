"""Stage `tune`: an Optuna study on folds inside train and val → reports/tune."""

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.tuning.coordinator import Plan, run_tuning
from mammo.tuning.sharing import workers_that_pay_off


def main() -> None:
    """Make or continue the study of the current folder."""
    space = Workspace()
    config = Config.load_own(space.params)
    console = Console()
    n_workers = workers_that_pay_off(space, config, console.print)
    run_tuning(space, config, Plan(config.tune.trials, n_workers), console)


if __name__ == "__main__":
    guarded(main)
