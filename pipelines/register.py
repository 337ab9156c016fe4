"""Stage `register`: the best system by its validation result → a version in the registry."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json
from mammo.track.record import register_best


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    write_json(space.reports / "champion.json", register_best(space, Config.load(space.params)))


if __name__ == "__main__":
    guarded(main)
