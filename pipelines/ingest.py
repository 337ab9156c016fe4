"""Stage `ingest`: the raw archive or films → ROI table and images."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.data.rois import load_rois, write_rois


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    write_rois(load_rois(config.ingest, space.root), space.rois)


if __name__ == "__main__":
    guarded(main)
