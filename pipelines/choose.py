"""Stage `choose`: the best system by its validation result → reports/champion.json."""

from mammo.core.choice import chosen
from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    write_json(workspace.reports / "champion.json", chosen(workspace, Config.load(workspace.params)))


if __name__ == "__main__":
    guarded(main)
