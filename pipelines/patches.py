"""Stage `patches`: split → patch sets (an index of squares), and the expectations of them."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, read_table, write_json, write_table
from mammo.data.expectations import check_patches
from mammo.data.patches import drawn_patches, grid_patches
from mammo.data.rois import read_rois
from mammo.systems.train import read_part


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params).patches
    parts = {name: read_part(space, name) for name in ("train", "val")}
    patch_sets = {name: drawn_patches(part.table, config) for name, part in parts.items()}
    # The test part only gets the voting grid; its ROIs are not looked at before `evaluate`.
    patch_sets["test"] = grid_patches(read_part(space, "test").table, config)
    folder = space.reports / "expectations"
    rois, split = read_rois(space.rois).table, read_table(space.split)
    write_json(folder / "patches.json", check_patches(patch_sets, rois, split, folder / "patches"))
    for name, table in patch_sets.items():
        write_table(space.patches(name), table)


if __name__ == "__main__":
    guarded(main)
