"""What DVC knows of studies that were made by their commands."""

import os
from pathlib import Path
from typing import Final

import yaml

from mammo.core.files import Workspace
from mammo.core.provenance import run_dvc

GRAPH: Final = Path("pipelines", "studies", "dvc.yaml")


def note_made(workspace: Workspace, stage: str, file: Path | None = None) -> None:
    """Write down what a study rested on when its command ended, so that `dvc status` lists it only after a change.

    A study of another file than those of the graph, or of a workspace without it, is unknown to DVC. Within
    `dvc repro` DVC writes it down itself.
    """
    graph = workspace.root / GRAPH
    if "DVC_STAGE" in os.environ or not graph.is_file() or not (workspace.root / ".dvc").is_dir():
        return
    name = stage if file is None else f"{stage}@{file.stem}"
    stages = yaml.safe_load(graph.read_text())["stages"]
    if stage in stages and (file is None or file.stem in stages[stage]["matrix"]["file"]):
        run_dvc(workspace.root, "commit", "--quiet", "--force", f"{GRAPH}:{name}")
