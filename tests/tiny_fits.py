"""Fits that take a fraction of a second: a small network, patches of 40 pixels, a few batches an epoch."""

from dataclasses import asdict
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from mammo.core.config import AugmentConfig, Config, PatchesConfig, RecipeConfig
from mammo.data.patches import drawn_patches
from mammo.data.rois import Rois
from mammo.models.build import Classifier, build_classifier
from mammo.systems.decide import TrainedSystem, train_system
from mammo.systems.fit import EpochRecord
from mammo.systems.inputs import FitSettings, PatchData, patch_data
from tests.disc_rois import disc_rois
from tests.settings import params, section, tiny_model

CPU = torch.device("cpu")
SETTINGS = FitSettings(size_px=40, stride_px=40, seed=3, precision="float32")

SGD = {"optimizer": "sgd", "head_lr": 0.01, "backbone_lr": 0.01, "schedule": "constant"}
FROZEN = {**SGD, "backbone_lr": 0.0}


def recipe(**changes: Any) -> RecipeConfig:
    values: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 16,
        "patches_per_epoch": 48,
        "optimizer": "adamw",
        "head_lr": 0.003,
        "backbone_lr": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "schedule": "one_cycle",
        "label_smoothing": 0.05,
        "class_balance": True,
        "patience": None,
        "clip_norm": None,
        "validate_on": "grid",
        "augment": section(AugmentConfig, flip_vertical=True, fill="roi"),
    }
    return RecipeConfig.model_validate(values | changes)


def tiny_config(**changes: Any) -> Config:
    """Settings under which a system trains in a second; keys of `changes` are `section__key`."""
    tiny = recipe(epochs=2, patches_per_epoch=32, backbone_lr=0.003, schedule="constant")
    values = params(
        patches={"size_px": 40, "stride_px": 40, "tumor_draws": 4, "normal_draws": 4},
        model=tiny_model().model_dump(),
        train={"recipe": "tiny", "device": "cpu", "precision": "float32"},
        recipes={"tiny": tiny.model_dump()},
        vote={"rule": "mean_score", "tie": "normal", "threshold": "fixed"},
    )
    for dotted, value in changes.items():
        name, key = dotted.split("__")
        values[name][key] = value
    return Config.parse(values)


def new_classifier(dropout: float = 0.0, seed: int = 0, fusion: str = "model2") -> Classifier:
    return build_classifier(f"compact-{fusion}", tiny_model(head_dropout=dropout), seed)


def train_tiny(
    parts: dict[str, Rois],
    patch_sets: dict[str, pd.DataFrame],
    system: str = "compact-model2",
    **changes: Any,
) -> TrainedSystem:
    """A system of these parts under `tiny_config(**changes)`."""
    return train_system(system, tiny_config(**changes), parts["train"], parts["val"], patch_sets)


def data_of(rois: Rois, draws: int = 6, whole_roi: bool = False, device: torch.device = CPU) -> PatchData:
    patches = section(PatchesConfig, size_px=40, tumor_draws=draws, normal_draws=draws, whole_roi=whole_roi)
    return patch_data(rois, drawn_patches(rois.table, patches), device)


def without_speed(history: list[EpochRecord]) -> list[dict[str, Any]]:
    return [{**asdict(record), "patches_per_second": None} for record in history]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal to the bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


TRAIN, VAL = data_of(disc_rois(6, 5)), data_of(disc_rois(4, 4, seed=1))
"""66 patches of 11 ROIs, and 48 of 8 others."""
