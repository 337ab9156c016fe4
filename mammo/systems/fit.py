"""Training of one classifier on one device, epoch by epoch, from which a killed fit goes on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from mammo.core.config import RecipeConfig
from mammo.core.errors import ConfigError
from mammo.core.files import write_bytes
from mammo.core.processes import StepObserver
from mammo.core.records import Label
from mammo.evaluation.metrics import auc
from mammo.models.build import Classifier
from mammo.systems.devices import keep_freed_memory
from mammo.systems.inputs import FitData, FitSettings
from mammo.systems.score import tumor_scores


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave. Losses are mean cross-entropies, `val_auc` is at ROI level (mean patch score)."""

    epoch: int
    train_loss: float
    val_loss: float
    val_auc: float
    val_patch_accuracy: float
    lr: float
    patches_per_second: float


@dataclass
class FitState:
    """Everything that changes during a fit."""

    classifier: Classifier
    optimizer: Optimizer
    history: list[EpochRecord]
    best_epoch: int
    best_weights: dict[str, Tensor]


def fit(
    classifier: Classifier,
    train: FitData,
    val: FitData,
    recipe: RecipeConfig,
    settings: FitSettings,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
) -> list[EpochRecord]:
    """Train `classifier`, on the data's device, in place and leave it with the weights of the best validation loss.

    `val` chooses the epoch and stops early. `checkpoint` keeps the state after each epoch; a fit that finds one, of its
    own fingerprint, goes on from it. `on_epoch` is told of each new epoch, `on_step` after each batch of epoch, patches
    done and patches in the epoch. The records are those of all epochs, resumed ones included; `ConfigError` where
    training diverged.
    """
    keep_freed_memory()
    state = start(classifier, recipe, train.labels.device)
    if checkpoint is not None:
        load_checkpoint(checkpoint, state, fingerprint)
    patience = recipe.patience or recipe.epochs
    while (done := len(state.history)) < recipe.epochs and done - 1 - state.best_epoch < patience:
        started = perf_counter()
        train_loss, n_seen, rate = _train_epoch(state, train, recipe, settings, on_step)
        seconds = perf_counter() - started
        validation = _validate(classifier, val, recipe, settings)
        record = EpochRecord(done, train_loss, *validation, rate, n_seen / seconds)
        if record.val_loss < min((r.val_loss for r in state.history), default=float("inf")):
            state.best_epoch = record.epoch
            state.best_weights = {k: v.detach().clone() for k, v in classifier.state_dict().items()}
        state.history.append(record)
        if checkpoint is not None:
            save_checkpoint(checkpoint, state, fingerprint)
        if on_epoch is not None:
            on_epoch(record)
    classifier.load_state_dict(state.best_weights)
    classifier.eval()
    return state.history


def start(classifier: Classifier, recipe: RecipeConfig, device: torch.device) -> FitState:
    """A fit before its first epoch: the classifier on the device, and an optimizer of what learns."""
    classifier.to(device).to(memory_format=torch.channels_last)
    classifier.backbone.requires_grad_(recipe.backbone_lr > 0)
    head = [*classifier.fusion.parameters(), *classifier.head.parameters()]
    groups = [{"params": head, "scale": recipe.head_lr}]
    if recipe.backbone_lr > 0:
        groups.append({"params": list(classifier.backbone.parameters()), "scale": recipe.backbone_lr})
    sgd = recipe.optimizer == "sgd"
    how: dict[str, Any] = {"lr": recipe.head_lr, "weight_decay": recipe.weight_decay}
    # One kernel passes over the memory once: on a CPU, a tenth of a step of the paper's head. Beside convolutions
    # AdamW's time is nothing there, and PyTorch chooses.
    how["fused"] = True if sgd or device.type == "cuda" else None
    optimizer = SGD(groups, momentum=recipe.momentum, **how) if sgd else AdamW(groups, **how)
    return FitState(classifier, optimizer, history=[], best_epoch=-1, best_weights={})


def _train_epoch(
    state: FitState,
    data: FitData,
    recipe: RecipeConfig,
    settings: FitSettings,
    on_step: StepObserver | None,
) -> tuple[float, int, float]:
    """Mean loss, number of patches and last head rate of one pass over the epoch's draw of patches."""
    epoch = len(state.history)
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    # Dropout draws from the global generator; seeding it makes a resumed run draw the same.
    torch.manual_seed(settings.seed * 1_000_003 + epoch)
    order = epoch_order(data.labels.cpu(), recipe, generator).to(data.labels.device)
    # One patch cannot pass BatchNorm: a last batch of one is left to another epoch's draw.
    batches = [part for part in order.split(recipe.batch_size) if len(part) >= 2]
    n_patches = sum(len(part) for part in batches)
    classifier = state.classifier.train()
    if recipe.backbone_lr == 0:
        classifier.backbone.eval()
    total, done, factor = torch.zeros((), device=order.device), 0, 1.0
    for step, part in enumerate(batches):
        factor = _lr_factor(recipe, epoch * len(batches) + step, recipe.epochs * len(batches))
        for group in state.optimizer.param_groups:
            group["lr"] = group["scale"] * factor
        logits = data.train_logits(classifier, part, settings, recipe.augment, generator)
        loss = F.cross_entropy(logits.float(), data.labels[part], label_smoothing=recipe.label_smoothing)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(classifier.parameters(), recipe.clip_norm)
        state.optimizer.step()
        total += loss.detach() * len(part)
        done += len(part)
        if on_step is not None:
            on_step(epoch, done, n_patches)
    return total.item() / n_patches, n_patches, recipe.head_lr * factor


def epoch_order(labels: Tensor, recipe: RecipeConfig, generator: torch.Generator) -> Tensor:
    """Indices (int64) of the patches that an epoch sees, in their order, drawn from the labels of the patch set.

    No patch comes twice before all of its class have come once.
    """
    n_wanted = recipe.patches_per_epoch or len(labels)
    if not recipe.class_balance:
        return _draw(torch.arange(len(labels)), n_wanted, generator)
    tumor, normal = (torch.nonzero(labels == value).flatten() for value in (Label.TUMOR, Label.NORMAL))
    n_tumor = n_wanted // 2
    both = torch.cat([_draw(tumor, n_tumor, generator), _draw(normal, n_wanted - n_tumor, generator)])
    return both[torch.randperm(len(both), generator=generator)]


def _draw(pool: Tensor, n_wanted: int, generator: torch.Generator) -> Tensor:
    n_rounds = -(-n_wanted // len(pool))
    shuffled = [pool[torch.randperm(len(pool), generator=generator)] for _ in range(n_rounds)]
    return torch.cat(shuffled)[:n_wanted]


def _lr_factor(recipe: RecipeConfig, step: int, n_steps: int) -> float:
    """Factor of the learning rates: 1, or one cycle (linear warm-up over 15%, cosine to zero)."""
    if recipe.schedule == "constant":
        return 1.0
    warm_up = max(1, round(0.15 * n_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return float(0.5 * (1 + np.cos(np.pi * (step - warm_up) / max(1, n_steps - warm_up))))


def _validate(
    classifier: Classifier, val: FitData, recipe: RecipeConfig, settings: FitSettings
) -> tuple[float, float, float]:
    """Validation loss, ROI-level AUC of the mean patch score, patch accuracy (the last two on the grid)."""
    classifier.eval()
    by_roi = val.grid_logits(classifier, settings)
    logits = by_roi.flatten(0, 1)
    if not logits.isfinite().all():
        raise ConfigError(
            "params.yaml: training diverged: the network's logits must be numbers, got NaN or infinity; lower "
            "train.head_lr or train.backbone_lr"
        )
    labels = val.roi_labels.cpu()
    patch_labels = labels.repeat_interleave(by_roi.shape[1])
    scores = tumor_scores(by_roi).mean(axis=1)
    accuracy = (logits.argmax(dim=1) == patch_labels).double().mean().item()
    roi_auc = auc(labels.numpy(), scores)
    if recipe.validate_on == "draws":
        logits = val.drawn_logits(classifier, settings)
        patch_labels = val.labels.cpu()
    return F.cross_entropy(logits.double(), patch_labels).item(), roi_auc, accuracy


def save_checkpoint(path: Path, state: FitState, fingerprint: str) -> None:
    """Write the checkpoint at `path`; a kill meanwhile leaves the older one."""
    content = BytesIO()
    saved = {
        "fingerprint": fingerprint,
        "classifier": state.classifier.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "history": [asdict(record) for record in state.history],
        "best_epoch": state.best_epoch,
        "best_weights": state.best_weights,
    }
    torch.save(saved, content)
    write_bytes(path, content.getvalue())


def load_checkpoint(path: Path, state: FitState, fingerprint: str) -> None:
    """Put a fit where its checkpoint left it; a missing or broken one, or another fit's, changes nothing."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, UnpicklingError):
        return
    if not isinstance(saved, dict) or saved.get("fingerprint") != fingerprint:
        return
    state.classifier.load_state_dict(saved["classifier"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.history = [EpochRecord(**record) for record in saved["history"]]
    state.best_epoch, state.best_weights = saved["best_epoch"], saved["best_weights"]
