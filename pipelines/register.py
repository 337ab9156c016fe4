"""Stage `register`: the best system by its validation result → a version in the registry."""

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.recording import register_best
from mammo.storage import write_json


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    write_json(space.reports / "champion.json", register_best(space, Config.load(space.params)))


if __name__ == "__main__":
    guarded(main)
