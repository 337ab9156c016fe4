"""The state of a fit in one safetensors file, replaced as a whole after each epoch. No pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mammo.storage import atomic_path


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by dotted name, one plain record for each epoch, and which epoch was the best."""

    tensors: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name.`, without that prefix."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)
        }


def save_checkpoint(path: Path, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Replace the checkpoint at `path`; a kill while writing leaves the older one."""
    note = {"history": checkpoint.history, "best_epoch": checkpoint.best_epoch, "fingerprint": fingerprint}
    # Cloning separates tensors that share memory (best and current weights may), which the format refuses.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in checkpoint.tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"mammo": json.dumps(note)})


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Read a checkpoint, or None if there is none, it is unreadable, or belongs to other settings or data."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("mammo", "{}"))
            if note.get("fingerprint") != fingerprint:
                return None
            names = list(file.keys())
            return Checkpoint(
                {name: file.get_tensor(name) for name in names}, note["history"], note["best_epoch"]
            )
    except (FileNotFoundError, SafetensorError):
        return None
