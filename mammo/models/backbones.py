"""Backbones with five named blocks, and the preprocessing that their weights expect."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from mammo.core.config import PreprocessingName

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
FIXED_CENTER: Final = 128.0
FIXED_SCALE: Final = 64.0
CONTRAST_FLOOR: Final = 5.0
"""Grey levels added to a patch's standard deviation, so that the noise of flat tissue is not blown up."""


class Preprocessing(nn.Module):
    """Grey patches `(n, 1, p, p)`, 0 to 255 → the backbone's input `(n, in_channels, p, p)`.

    - `samplewise_center`: subtract the mean of each patch and channel, no scaling (the paper).
      It removes the brightness of the patch, which alone tells many lesions (`evaluation.floor`).
    - `samplewise_standardize`: the same, divided by the patch's standard deviation (and a floor), so that films
      of different contrast look alike.
    - `imagenet`: what torchvision's weights were trained with; of one channel, `fixed_scale`.
    - `fixed_scale`: one shift and scale for all, so that brightness survives.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: PreprocessingName, in_channels: int) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        rgb = name == "imagenet" and in_channels == 3
        for buffer, of_rgb, grey in (("mean", IMAGENET_MEAN, 0.5), ("std", IMAGENET_STD, 0.25)):
            values = torch.tensor(of_rgb if rgb else (grey,) * in_channels)
            self.register_buffer(buffer, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Grey levels → centred values, repeated over the backbone's channels."""
        if self.name.startswith("samplewise"):
            values = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
            if self.name == "samplewise_standardize":
                deviation = values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
                values = values / (deviation + CONTRAST_FLOOR)
        elif self.name == "imagenet":
            return (patches.expand(-1, self.in_channels, -1, -1) / 255 - self.mean) / self.std
        else:
            values = (patches - FIXED_CENTER) / FIXED_SCALE
        return values.expand(-1, self.in_channels, -1, -1)


BLOCKS: Final = ("block1", "block2", "block3", "block4", "block5")


@dataclass(frozen=True)
class Backbone:
    """A feature extractor, the channels of its blocks, and how many channels its input has."""

    module: nn.Module
    channels: tuple[int, ...]
    in_channels: int


def _features(*names: int | str) -> tuple[str, ...]:
    return tuple(f"features.{name}" for name in names)


_VGG_CHANNELS: Final = (64, 128, 256, 512, 512)

_TORCHVISION: Final[dict[str, tuple[tuple[str, ...], tuple[int, ...]]]] = {
    "vgg16": (_features(4, 9, 16, 23, 30), _VGG_CHANNELS),
    "vgg19": (_features(4, 9, 18, 27, 36), _VGG_CHANNELS),
    "vgg16_bn": (_features(6, 13, 23, 33, 43), _VGG_CHANNELS),
    "vgg19_bn": (_features(6, 13, 26, 39, 52), _VGG_CHANNELS),
    "densenet121": (
        (*_features("relu0", "denseblock1", "denseblock2", "denseblock3"), "relu"),
        (64, 256, 512, 1024, 1024),
    ),
    "resnet50": (("relu", "layer1", "layer2", "layer3", "layer4"), (64, 256, 512, 1024, 2048)),
    "mobilenet_v2": (_features(1, 3, 6, 13, 18), (16, 24, 32, 96, 1280)),
}
"""Graph nodes and channels of each block."""


def full_network(name: str) -> nn.Module:
    """The whole torchvision network of a backbone, untrained: its state dict is what files hold."""
    from torchvision.models import get_model  # takes a second to import, and `compact` needs none of it

    network: nn.Module = get_model(name, weights=None)
    return network


def build_backbone(name: str, compact_channels: Sequence[int], network: nn.Module | None = None) -> Backbone:
    """The backbone `name`: `compact` with these channels, or a torchvision architecture.

    It keeps the weights of `network`, a whole torchvision network; a new one if None.
    """
    if name == "compact":
        return Backbone(compact(compact_channels), tuple(compact_channels), in_channels=1)
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes, channels = _TORCHVISION[name]
    whole = full_network(name) if network is None else network
    if name.startswith("vgg"):
        _pool_first(cast("nn.Sequential", whole.features))
    of_node, as_they_are = dict(zip(nodes, BLOCKS, strict=True)), {"leaf_modules": [Halving]}
    extractor = create_feature_extractor(whole, of_node, tracer_kwargs=as_they_are)
    return Backbone(extractor, channels, in_channels=3)


def _pool_first(layers: nn.Sequential) -> None:
    """Swap each max pooling with the ReLU before it: the same values, of a quarter of the pixels."""
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            layers[place - 1], layers[place] = Halving(2), layers[place - 1]


class BlockSequence(nn.Module):
    """Blocks one after the other; returns the output of each by name."""

    def __init__(self, blocks: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)

    def forward(self, patches: Tensor) -> dict[str, Tensor]:
        """`(n, c, p, p)` → `blockK`: `(n, channels[K − 1], p // 2^K, p // 2^K)`."""
        features = {}
        for name, block in self.blocks.items():
            patches = block(patches)
            features[name] = patches
        return features


class Halving(nn.MaxPool2d):
    """Max pooling of 2 × 2; where nothing trains on a CPU by two comparisons, five times as fast for few channels.

    The values are the same. In training PyTorch's own kernel says which of equal values the gradient goes to.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """`(n, c, h, w)` → `(n, c, h // 2, w // 2)`."""
        if torch.is_grad_enabled() or maps.device.type != "cpu":
            halved: Tensor = super().forward(maps)
            return halved
        height, width = (side // 2 * 2 for side in maps.shape[-2:])
        down = torch.maximum(maps[..., 0:height:2, :], maps[..., 1:height:2, :])
        return torch.maximum(down[..., 0:width:2], down[..., 1:width:2])


def compact(channels: Sequence[int]) -> BlockSequence:
    """A small five-block VGG with BatchNorm, for machines without a GPU or ImageNet weights.

    A block is one 3×3 convolution, pooling, BatchNorm and ReLU. Pooling comes first because the two after it
    then have a quarter of the pixels to do, which on a CPU is where the time goes.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for name, before, width in zip(BLOCKS, (1, *channels[:-1]), channels, strict=True):
        convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        parts = (convolution, Halving(2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        blocks[name] = nn.Sequential(*parts)
    return BlockSequence(blocks)
