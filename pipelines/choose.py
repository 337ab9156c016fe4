"""Stage `choose`: the best system by its validation result → reports/champion.json."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json
from mammo.track.registry import chosen


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    write_json(space.reports / "champion.json", chosen(space, Config.load(space.params)))


if __name__ == "__main__":
    guarded(main)
