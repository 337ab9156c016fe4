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
    config = Config.load(space.params).split
    rois = read_rois(space.rois)
    overlaps = audit_table(rois.table, rois.images)
    split = make_split(rois.table, group_ids(rois.table, overlaps), config)
    write_table(space.overlaps, overlaps)
    write_table(space.split, split)


if __name__ == "__main__":
    guarded(main)
