"""Stage `split`: groups of ROIs that belong together, by the audit and by patients → train, val, test."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_table
from mammo.data.audit import group_ids, read_pairs
from mammo.data.locate import with_films
from mammo.data.rois import read_rois
from mammo.data.splits import make_split


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    table = with_films(read_rois(workspace.rois).table, workspace.located)
    groups = group_ids(table, read_pairs(workspace))
    write_table(workspace.split, make_split(table, groups, Config.load(workspace.params).split))


if __name__ == "__main__":
    guarded(main)
