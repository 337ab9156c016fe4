"""The three ways to turn a backbone's blocks into one vector: baseline, Model1, Model2.

Source: Yu et al. 2020, Figs. 3 and 4. All end in the same head: BatchNorm, two dense layers, two logits.
"""

from typing import Final

import torch
from torch import Tensor, nn

from mammo.models.backbones import BLOCKS

MODEL2_POOLS: Final = (16, 8, 4, 2, 1)
"""Average pooling before each block's 1×1 convolution; 1 is none."""
MODEL2_CHANNELS: Final = (32, 32, 32, 64, 64)


def global_average(features: Tensor) -> Tensor:
    """`(n, c, h, w)` → `(n, c)`."""
    return features.mean(dim=(2, 3))


class Averages(nn.Module):
    """Global averages of the last blocks, concatenated: one in the baseline, all five in Model1 (1,472 for VGG)."""

    means_only = True

    def __init__(self, channels: tuple[int, ...], n_blocks: int = len(BLOCKS)) -> None:
        super().__init__()
        self.names = BLOCKS[-n_blocks:]
        self.out_features = sum(channels[-n_blocks:])

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Blocks → `(n, out_features)`."""
        return torch.cat([global_average(features[name]) for name in self.names], dim=1)

    def of_pooled(self, parts: list[Tensor]) -> Tensor:
        """The same from `models.pooling`'s parts of the blocks, each `(n, 2 + cells, c)`."""
        return torch.cat([part[:, 0] for part in parts[-len(self.names) :]], dim=1)


class Model2(nn.Module):
    """Each block through BatchNorm, pooling, a 1×1 convolution with ReLU and global averaging: 224 features.

    Needs patches of at least 32 pixels, or the pooling of a block has nothing to pool.
    """

    names = BLOCKS
    means_only = False

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.out_features = sum(MODEL2_CHANNELS)
        self.branches = nn.ModuleDict()
        for name, width, pool, out in zip(BLOCKS, channels, MODEL2_POOLS, MODEL2_CHANNELS, strict=True):
            pooling = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
            convolution = nn.Conv2d(width, out, 1)
            self.branches[name] = nn.Sequential(nn.BatchNorm2d(width), pooling, convolution, nn.ReLU(inplace=True))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Blocks → `(n, 224)`."""
        return torch.cat([global_average(self.branches[name](features[name])) for name in BLOCKS], dim=1)

    def of_pooled(self, parts: list[Tensor]) -> Tensor:
        """The same from `models.pooling`'s parts of the blocks, each `(n, 2 + cells, c)`.

        BatchNorm is affine for each channel, so it may come after the pooling; its statistics are those of the maps.
        """
        branches = (self.branches[name] for name in BLOCKS)
        return torch.cat([_branch_of_pooled(*both) for both in zip(branches, parts, strict=True)], dim=1)


def _branch_of_pooled(branch: nn.Module, part: Tensor) -> Tensor:
    norm, _, convolution, relu = branch.children()
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(convolution, nn.Conv2d)
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    if norm.training:
        batch_mean = part[:, 0].mean(dim=0)
        batch_variance = part[:, 1].mean(dim=0) - batch_mean.square()
        with torch.no_grad():
            mean.lerp_(batch_mean, norm.momentum or 0.0)
            variance.lerp_(batch_variance, norm.momentum or 0.0)
        mean, variance = batch_mean, batch_variance
    cells = (part[:, 2:] - mean) * (norm.weight / (variance.clamp(min=0) + norm.eps).sqrt()) + norm.bias
    kernels = convolution.weight.flatten(1)
    averaged: Tensor = relu(nn.functional.linear(cells, kernels, convolution.bias)).mean(dim=1)
    return averaged


def build_fusion(name: str, channels: tuple[int, ...]) -> Averages | Model2:
    """The fusion called `baseline`, `model1` or `model2` for a backbone with these channels."""
    if name == "model2":
        return Model2(channels)
    return Averages(channels, n_blocks=1 if name == "baseline" else len(BLOCKS))


def build_head(in_features: int, units: int, dropout: float) -> nn.Sequential:
    """BatchNorm, Dense ReLU, Dense ReLU, two logits (Normal, Tumor)."""
    return nn.Sequential(
        nn.BatchNorm1d(in_features),
        nn.Linear(in_features, units),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(units, units),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(units, 2),
    )
