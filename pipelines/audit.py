"""Stage `audit`: ROIs → pairs that share tissue, by their pixels alone and before any split."""

from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_table
from mammo.data.audit import find_pairs
from mammo.data.rois import read_rois


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    rois = read_rois(workspace.rois)
    write_table(workspace.overlaps, find_pairs(rois.table, rois.images))


if __name__ == "__main__":
    guarded(main)
