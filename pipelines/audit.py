"""Stage `audit`: ROIs → pairs that share tissue, by their pixels alone and before any split."""

from mammo.data.audit import find_pairs
from mammo.data.sources import read_rois
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.storage import write_table


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    rois = read_rois(space.rois)
    write_table(space.overlaps, find_pairs(rois.table, rois.images))


if __name__ == "__main__":
    guarded(main)
