"""One fit shared by processes, as torchrun starts them (gloo on CPUs)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mammo.core.errors import ConfigError
from mammo.models.build import Classifier
from mammo.systems.augment import augment
from mammo.systems.fit import epoch_order, fit
from mammo.systems.parallel import Team, joined
from tests.disc_rois import disc_rois
from tests.tiny_fits import CPU, SETTINGS, SGD, data_of, differing, new_classifier, recipe, weights_of

PROJECT = Path(__file__).parents[1]
ONE_EPOCH = {
    **SGD,
    "epochs": 1,
    "batch_size": 11,
    "patches_per_epoch": 44,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "clip_norm": 0.5,
}


def torchrun(n_processes: int, asked: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(PROJECT / "tests" / "parallel_fit.py"), json.dumps(asked), str(folder)]
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(n_processes), *script],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def shared_by_hand(classifier: Classifier, asked: dict[str, Any]) -> Iterator[float]:
    """One epoch of plain SGD in which each batch falls into two shares that BatchNorm sees apart; yields the losses.

    The running statistics are those of the first share, as every process starts a step with the first one's.
    """
    data, settings = data_of(disc_rois(6, 5)), recipe(**asked)
    generator = torch.Generator().manual_seed(SETTINGS.seed * 1_000_003)
    for part in epoch_order(data.labels, settings, generator).split(settings.batch_size):
        pixels = augment(data.images, data.patches.take(part), SETTINGS.size_px, settings.augment, generator)
        buffers, total = [], torch.zeros(())
        for half in (slice(0, len(part) // 2), slice(len(part) // 2, None)):
            buffers.append({name: value.clone() for name, value in classifier.named_buffers()})
            logits = functional_call(classifier, buffers[-1], pixels[half])
            total = total + F.cross_entropy(
                logits, data.labels[part[half]], label_smoothing=settings.label_smoothing, reduction="sum"
            )
        for name, value in classifier.named_buffers():
            value.copy_(buffers[0][name])
        classifier.zero_grad()
        (total / len(part)).backward()
        gradients = [p.grad for p in classifier.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        with torch.no_grad():
            for p in classifier.parameters():
                if p.grad is not None:
                    p.sub_(settings.head_lr * p.grad * (0.5 / (norm + 1e-6)).clamp(max=1))
        yield total.item()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["baseline", "model1", "model2"])
def test_two_processes_take_the_steps_of_the_whole_batch(fusion: str, tmp_path: Path) -> None:
    done = torchrun(2, {"fusion": fusion, "n_processes": 2, "recipe": ONE_EPOCH}, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    by_hand = new_classifier(fusion=fusion).train()
    losses = list(shared_by_hand(by_hand, ONE_EPOCH))
    histories = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]

    assert differing(first, second) == []
    expected = weights_of(by_hand)
    for name, value in first.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert histories[0][0]["train_loss"] == pytest.approx(sum(losses) / 44, rel=1e-5)
    assert histories[0][0]["val_loss"] == histories[1][0]["val_loss"]


@pytest.mark.slow
def test_a_frozen_backbone_stays_as_it_is_in_every_process(tmp_path: Path) -> None:
    asked = {**ONE_EPOCH, "backbone_lr": 0.0}
    done = torchrun(2, {"fusion": "model1", "n_processes": 2, "recipe": asked}, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))

    assert differing(first, second) == []
    moved = differing(first, weights_of(new_classifier(fusion="model1")))
    assert moved
    assert [name for name in moved if name.startswith("backbone")] == []


def test_a_batch_without_two_patches_for_each_process_is_refused() -> None:
    data = data_of(disc_rois(4, 4))
    with pytest.raises(
        ConfigError, match=r"at least 10, two patches .* got 8; raise it, or lower train\.processes"
    ):
        fit(new_classifier(), data, data, recipe(batch_size=8), SETTINGS, team=Team(0, 5))


@pytest.mark.slow
def test_another_number_of_processes_than_the_settings_say_is_refused(tmp_path: Path) -> None:
    done = torchrun(1, {"fusion": "model1", "n_processes": 2, "recipe": ONE_EPOCH}, tmp_path)
    assert done.returncode != 0
    assert "train.processes must be the number of processes that train, got 2 with 1 running" in done.stderr


def test_without_torchrun_more_than_one_process_is_refused() -> None:
    with pytest.raises(ConfigError, match="start torchrun with --nproc-per-node 3"), joined(3, CPU):
        pass


@pytest.mark.parametrize(("n", "size"), [(64, 1), (64, 2), (65, 4), (3, 4), (0, 2), (7, 3)])
def test_the_shares_of_a_team_are_the_whole_in_order_and_nearly_equal(n: int, size: int) -> None:
    things = list(range(n))
    shares = [things[Team(rank, size).share(n)] for rank in range(size)]

    assert [thing for share in shares for thing in share] == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_of_a_batch_is_turned_as_in_the_whole_batch() -> None:
    data, settings = data_of(disc_rois(6, 5)), recipe().augment
    whole = augment(data.images, data.patches, 40, settings, torch.Generator().manual_seed(1))

    def of(share: slice) -> Tensor:
        return augment(data.images, data.patches, 40, settings, torch.Generator().manual_seed(1), share)

    assert torch.equal(torch.cat([of(slice(0, 9)), of(slice(9, None))]), whole)
