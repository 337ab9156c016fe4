"""A classifier from its description, and a description that travels with the weights."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mammo.config import ModelConfig, split_system
from mammo.errors import WeightsError
from mammo.models.backbones import build_backbone, full_network
from mammo.models.fusion import build_fusion, build_head
from mammo.models.preprocessing import Preprocessing, PreprocessingName
from mammo.models.weights import load_pretrained


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a classifier of the right shapes, without its weights."""

    system: str
    preprocessing: PreprocessingName
    head_units: int
    head_dropout: float
    compact_channels: tuple[int, ...]

    @classmethod
    def of(cls, system: str, config: ModelConfig) -> Self:
        """The architecture of a system under the settings.

        `preprocessing: auto` is what belongs to the weights: torchvision's own normalisation for pretrained ones,
        patches standardised one by one for weights from scratch. (The paper's ImageNet weights are Keras', which
        were trained without scaling; torchvision's were not.)
        """
        backbone, _ = split_system(system)
        preprocessing: PreprocessingName = (
            config.preprocessing
            if config.preprocessing != "auto"
            else ("samplewise_standardize" if config.weights == "none" else "imagenet")
        )
        if backbone == "compact" and config.weights != "none":
            raise WeightsError(
                f"model.weights: {config.weights} cannot be used for {system}: compact has no pretrained weights; "
                "set model.weights to none, or take a torchvision backbone"
            )
        return cls(
            system, preprocessing, config.head_units, config.head_dropout, tuple(config.compact_channels)
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**values, "compact_channels": tuple(values["compact_channels"])})


class Classifier(nn.Module):
    """Preprocessing → backbone → fusion → head."""

    def __init__(self, architecture: Architecture, network: nn.Module | None = None) -> None:
        super().__init__()
        name, fusion = split_system(architecture.system)
        backbone = build_backbone(name, architecture.compact_channels, network)
        self.architecture = architecture
        self.preprocessing = Preprocessing(architecture.preprocessing, backbone.in_channels)
        self.backbone = backbone.module
        self.fusion = build_fusion(fusion, backbone.channels)
        self.head = build_head(self.fusion.out_features, architecture.head_units, architecture.head_dropout)

    def blocks(self, patches: Tensor) -> dict[str, Tensor]:
        """Grey patches `(n, 1, p, p)`, 0 to 255 → the feature maps of the blocks."""
        features: dict[str, Tensor] = self.backbone(self.preprocessing(patches))
        return features

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps → logits `(n, 2)`: Normal, Tumor."""
        logits: Tensor = self.head(self.fusion(features))
        return logits

    def forward(self, patches: Tensor) -> Tensor:
        """Grey patches `(n, 1, p, p)`, 0 to 255 → logits `(n, 2)`."""
        return self.classify(self.blocks(patches))


def build_classifier(system: str, config: ModelConfig, seed: int) -> Classifier:
    """A new classifier with seeded initial weights, and pretrained ones in the backbone if asked for.

    Raises:
        WeightsError: the pretrained weights cannot be had or do not fit.
    """
    architecture = Architecture.of(system, config)
    backbone, _ = split_system(system)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = None if backbone == "compact" else full_network(backbone)
        if config.weights != "none" and network is not None:
            load_pretrained(backbone, config.weights, network)
        return Classifier(architecture, network)
