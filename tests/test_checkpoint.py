"""A checkpoint comes back whole, or not at all."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mammo.core.errors import DataError
from mammo.systems.fit import Checkpoint, load_checkpoint, save_checkpoint

HISTORY = [
    {"epoch": 0, "val_loss": 0.1 + 0.2, "val_auc": 2 / 3},
    {"epoch": 1, "val_loss": 0.25, "val_auc": 1.0},
]


def checkpoint() -> Checkpoint:
    shared = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return Checkpoint(
        {
            "model.conv.weight": shared,
            "best.conv.weight": shared,
            "model.bn.num_batches_tracked": torch.tensor(7),
            "model.kernel": torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last),
            "optimizer.0.step": torch.tensor(12.0),
        },
        HISTORY,
        best_epoch=1,
    )


def test_tensors_history_and_best_epoch_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "unfinished" / "vgg16-model2.safetensors"
    saved = checkpoint()

    save_checkpoint(path, saved, "abc")
    loaded = load_checkpoint(path, "abc")

    assert loaded is not None
    assert loaded.history == HISTORY
    assert loaded.best_epoch == 1
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, value in saved.tensors.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)


def test_a_part_is_what_lies_under_its_name() -> None:
    parts = Checkpoint({"best.a": torch.ones(1), "best.b.c": torch.ones(2), "best_of": torch.ones(3)}, [], 0)

    assert {name: len(value) for name, value in parts.part("best").items()} == {"a": 1, "b.c": 2}


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", checkpoint(), "abc")

    assert load_checkpoint(tmp_path / "x.safetensors", "abd") is None


def test_without_a_file_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none.safetensors", "abc") is None


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.99])
def test_a_truncated_checkpoint_is_not_used(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint(), "abc")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    assert load_checkpoint(path, "abc") is None


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"mammo": "{}"}])
def test_a_file_of_another_program_is_not_used(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata=metadata)

    assert load_checkpoint(path, "abc") is None


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint(), "abc")
    monkeypatch.setattr("mammo.systems.fit.save_file", disk_full)

    with pytest.raises(DataError, match="No space left on device"):
        save_checkpoint(path, Checkpoint({"a": torch.ones(1)}, [], 0), "abc")

    loaded = load_checkpoint(path, "abc")
    assert loaded is not None
    assert loaded.history == HISTORY
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
