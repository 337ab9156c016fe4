"""Stage `ingest`: the raw archive or films → ROI table and images."""

from mammo.config import Config
from mammo.data.sources import load_rois, write_rois
from mammo.entry import guarded
from mammo.layout import Workspace


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    write_rois(load_rois(config.ingest, space.root), space.rois)


if __name__ == "__main__":
    guarded(main)
