"""Stage `locate`: ROIs and the films of mini-MIAS, where there are some → film, patient and place of each ROI."""

from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_table
from mammo.data.locate import locate_where_films
from mammo.data.rois import read_rois


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    write_table(workspace.located, locate_where_films(read_rois(workspace.rois), workspace))


if __name__ == "__main__":
    guarded(main)
