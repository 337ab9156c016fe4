"""Patches per second of training the compact systems: `python benchmarks/train_speed.py [STEPS]`, on noise.

Each system is timed twice in processes of their own, with freed memory given back to the system and kept
(`devices.keep_freed_memory`), at the settings of `params.yaml` and one CPU thread.
"""

import multiprocessing
import sys
from time import perf_counter

import torch
from rich.console import Console
from torch.nn import functional as F
from torch.optim import AdamW

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.models.build import build_classifier
from mammo.systems.devices import autocast, choose_device, keep_freed_memory

WARM_UP_STEPS = 5


def patches_per_second(system: str, keeps: bool, n_steps: int) -> float:
    """Forward, backward and optimiser's step on batches of noise."""
    config = Config.load(Workspace().params)
    torch.set_num_threads(1)
    if keeps:
        keep_freed_memory()
    device, recipe, size_px = choose_device(config.train.device), config.recipe, config.patches.size_px
    classifier = build_classifier(system, config.model, seed=0).to(device)
    classifier.to(memory_format=torch.channels_last).train()
    optimizer = AdamW(classifier.parameters(), lr=recipe.head_lr)
    patches = torch.rand(recipe.batch_size, 1, size_px, size_px, device=device) * 255
    labels = torch.arange(recipe.batch_size, device=device) % 2
    started = perf_counter()
    for step in range(WARM_UP_STEPS + n_steps):
        if step == WARM_UP_STEPS:
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = perf_counter()
        optimizer.zero_grad()
        with autocast(device, config.train.precision):
            logits = classifier(patches)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return n_steps * recipe.batch_size / (perf_counter() - started)


def main() -> None:
    """Measure and print."""
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    context, console = multiprocessing.get_context("spawn"), Console()
    for system in Config.load(Workspace().params).systems:
        for keeps in (False, True):
            with context.Pool(1) as pool:
                speed = pool.apply(patches_per_second, (system, keeps, n_steps))
            memory = "kept" if keeps else "given back"
            console.print(f"{system}: {speed:.0f} patches/s, freed memory {memory}", highlight=False)


if __name__ == "__main__":
    guarded(main)
