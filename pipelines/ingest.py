"""Stage `ingest`: the raw data of a source → ROI table and images."""

import logging
import sys

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.data.rois import load_rois, write_rois


def main() -> None:
    """Run the stage in the current folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workspace = Workspace()
    rois = load_rois(Config.load(workspace.params).ingest, workspace.root)
    write_rois(rois, workspace.rois)
    sys.stdout.write(f"{rois.counts}\n")


if __name__ == "__main__":
    guarded(main)
