"""Stage `split`: leakage audit → groups of ROIs that belong together → train, val, test."""

from mammo.config import Config
from mammo.data.audit import audit_table, group_ids
from mammo.data.sources import read_rois
from mammo.data.splits import make_split
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.storage import write_table


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    rois = read_rois(space.rois)
    table, pairs = rois.table, audit_table(rois.table, rois.images)
    groups = group_ids(table, pairs)
    write_table(space.overlaps, pairs)
    write_table(space.split, make_split(table, groups, Config.load(space.params).split))


if __name__ == "__main__":
    guarded(main)
