"""Stage `locate`: ROIs and the films of mini-MIAS, where there are some → film, patient and place of each ROI."""

import sys

from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_table
from mammo.data.locate import locate_where_films, located_line
from mammo.data.rois import read_rois


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    located = locate_where_films(read_rois(workspace.rois), workspace)
    write_table(workspace.located, located)
    if line := located_line(located):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    guarded(main)
