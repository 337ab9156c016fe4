"""Stage `split`: groups of ROIs that belong together, by the audit and by patients → train, val, test."""

from mammo.config import Config
from mammo.data.audit import group_ids
from mammo.data.leakage import read_pairs
from mammo.data.located import known_owners
from mammo.data.sources import read_rois
from mammo.data.splits import make_split
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.storage import write_table


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    table = known_owners(read_rois(space.rois).table, space.located)
    groups = group_ids(table, read_pairs(space))
    write_table(space.split, make_split(table, groups, Config.load(space.params).split))


if __name__ == "__main__":
    guarded(main)
