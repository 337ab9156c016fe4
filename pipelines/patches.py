"""Stage `patches`: split → patch sets (an index of squares), and the expectations of them."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_json, write_table
from mammo.core.records import SPLIT_SCHEMA
from mammo.data.expectations import check
from mammo.data.patches import drawn_patches, grid_patches
from mammo.data.rules import of_patches
from mammo.data.splits import read_parts


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    config, rois = Config.load(workspace.params).patches, read_parts(workspace)
    patch_sets = {name: drawn_patches(rois.part(name).table, config) for name in ("train", "val")}
    # The test part only gets the voting grid; its ROIs are not looked at before `evaluate`.
    patch_sets["test"] = grid_patches(rois.part("test").table, config)
    folder = workspace.reports / "expectations"
    suites = of_patches(patch_sets, rois.table, rois.table[list(SPLIT_SCHEMA)])
    write_json(folder / "patches.json", check(suites, folder / "patches"))
    for name, table in patch_sets.items():
        write_table(workspace.patches(name), table)


if __name__ == "__main__":
    guarded(main)
