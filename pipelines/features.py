"""Stage `features`: split → the block features of frozen backbones, where the settings keep some."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace, write_bytes
from mammo.core.processes import steps_progress
from mammo.core.records import SPLITS
from mammo.core.systems import members_of, split_system
from mammo.data.splits import read_parts
from mammo.systems.features import keep_features

README = b"Block features of frozen backbones (train.features: kept), a file of half floats and an index for each.\n"


def main() -> None:
    """Run the stage in the current folder; a killed one goes on."""
    workspace = Workspace()
    config, rois = Config.load(workspace.params), read_parts(workspace)
    write_bytes(workspace.features / "README.md", README)
    of_backbone = {split_system(name)[0]: name for system in config.systems for name in members_of(system)}
    used = {"README"}
    for backbone, system in of_backbone.items() if config.train.features == "kept" else ():
        for part in map(rois.part, SPLITS):
            with steps_progress(f"features of {backbone}, {part.name} ROIs") as on_step:
                kept = keep_features(
                    system,
                    config,
                    part.images,
                    workspace,
                    to_train=part.name == "train",
                    versioned=True,
                    on_step=on_step,
                )
            used.add(kept.file.stem)
    for file in workspace.features.iterdir():  # persist leaves what other settings made: DVC would push it
        if file.stem not in used:
            file.unlink()


if __name__ == "__main__":
    guarded(main)
