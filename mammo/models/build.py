"""A classifier from its settings, and the weights it starts from."""

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Final, Self, cast
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mammo.core.config import ModelConfig, PreprocessingName, Road
from mammo.core.errors import WeightsError
from mammo.core.files import HERE, Workspace, sha256_of
from mammo.core.settings import Section
from mammo.core.systems import HED_SHA256, members_of, split_system
from mammo.models.backbones import IMAGENET_STD, Preprocessing, build_backbone, full_network
from mammo.models.fusion import build_fusion, build_head
from mammo.models.pooling import pool_windows

_REMEDY: Final = (
    "set model.weights to none (with train.recipe scratch) to train from scratch, or to the path of a state dict"
)
_BELONGS: Final[dict[str, PreprocessingName]] = {
    "none": "samplewise_standardize",
    "hed": "samplewise_center",
}
_OLD_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names such as `denselayer1.norm.1.weight`, as torchvision's own DenseNet file still has them."""


def load_pretrained(backbone: str, weights: str, network: nn.Module, workspace: Workspace = HERE) -> None:
    """Fill `network`, a whole torchvision network called `backbone`, with pretrained weights.

    `weights` is `imagenet`, `hed` (the workspace's) or the path of a state dict (`.safetensors`, or `.pth` read as
    tensors only).

    Raises:
        WeightsError: the weights cannot be had, or do not fit the network.
    """
    if weights == "imagenet":
        state = _imagenet_state(backbone)
    else:
        state = _state_from_file(_checked_hed(workspace.hed) if weights == "hed" else Path(weights))
    expected = network.state_dict()
    given = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    # The classifier is thrown away; a file that lacks it, or has another number of classes, still fits.
    head = ("classifier.", "fc.")
    # BatchNorm's counter of batches is younger than some of torchvision's files, and no output depends on it.
    counter = "num_batches_tracked"
    needed = [name for name in expected if not name.startswith(head) and not name.endswith(counter)]
    wrong = [name for name in needed if name not in given or given[name].shape != expected[name].shape]
    if wrong:
        raise WeightsError(
            f"model.weights: {weights} does not fit {backbone}: {len(wrong)} tensors are missing or have another "
            f"shape, first {wrong[0]}; give a state dict of torchvision's {backbone}"
        )
    network.load_state_dict(
        {name: value if name.startswith(head) else given.get(name, value) for name, value in expected.items()}
    )


def _imagenet_state(backbone: str) -> dict[str, Tensor]:
    """Read torchvision's cache, or let torchvision download into it and check the hash in the file's name."""
    from torchvision.models import get_model_weights

    entry = get_model_weights(backbone).DEFAULT
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, EOFError, RuntimeError, UnpicklingError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise WeightsError(
            f"model.weights: ImageNet weights of {backbone} can be neither read from the cache nor downloaded "
            f"({_reason(error)}); download {entry.url} to {file}, or {_REMEDY}"
        ) from error
    return state


def _checked_hed(path: Path) -> Path:
    if not path.is_file() or sha256_of(path) != HED_SHA256:
        raise WeightsError(
            f"model.weights: hed needs {path} with the SHA-256 {HED_SHA256}, got "
            f"{'another' if path.exists() else 'no'} file; run `mammo fetch --weights hed` (with --archive FILE where "
            "there is no network)"
        )
    return path


def _state_from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"model.weights: must be none, imagenet, hed or the path of a state dict, got {path}; {_REMEDY}"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: is not a readable state dict ({_reason(error)}); {_REMEDY}") from error
    items = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise WeightsError(f"{path}: must hold a plain state dict of tensors; save `model.state_dict()`, or {_REMEDY}")
    return dict(items)


def _reason(error: Exception) -> str:
    # torch's own text here advises to load pickled objects after all.
    return "it holds other things than tensors" if isinstance(error, UnpicklingError) else str(error)


class Architecture(Section):
    """Everything needed to build a classifier of the right shapes, without its weights; plain values for JSON."""

    system: str
    road: Road
    preprocessing: PreprocessingName
    head_units: int
    head_dropout: float
    compact_channels: list[int]

    @classmethod
    def of(cls, system: str, config: ModelConfig) -> Self:
        """The architecture of a system under the settings.

        `preprocessing: auto` is what belongs to the weights: torchvision's own normalisation for pretrained ones,
        patches standardised one by one for weights from scratch. (The paper's ImageNet weights are Keras', which
        were trained without scaling, as those of `hed` were; torchvision's were not.)
        """
        if config.weights == "hed" and not system.startswith("vgg16-"):
            raise WeightsError(
                f"model.weights: hed holds the convolutions of vgg16 alone and cannot be used for {system}; take "
                "vgg16-baseline, vgg16-model1 or vgg16-model2, or set model.weights to none, or to imagenet or a path "
                "(compact: none)"
            )
        if system.startswith("compact-") and config.weights != "none":
            raise WeightsError(
                f"model.weights: {config.weights} cannot be used for {system}: compact has no pretrained weights; "
                "set model.weights to none, or take a torchvision backbone"
            )
        preprocessing = config.preprocessing
        if preprocessing == "auto":
            preprocessing = _BELONGS.get(config.weights, "imagenet")
        return cls(
            system=system,
            road=config.road,
            preprocessing=preprocessing,
            head_units=config.head_units,
            head_dropout=config.head_dropout,
            compact_channels=config.compact_channels,
        )


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

    def classify_pooled(self, parts: list[Tensor]) -> Tensor:
        """Parts of the blocks, each `(n, 2 + cells, c)` → logits `(n, 2)`."""
        logits: Tensor = self.head(self.fusion.of_pooled(parts))
        return logits

    def windows(self, images: Tensor, tops: Tensor, lefts: Tensor, size_px: int) -> Tensor:
        """The dense road: whole ROIs `(n, 1, S, S)` → logits `(n, t · l, 2)` of the patches at tops and lefts."""
        maps, fusion = self.blocks(images), self.fusion
        features = {name: maps[name] for name in fusion.names}
        parts = pool_windows(features, tops, lefts, size_px, means_only=fusion.means_only)
        logits = self.classify_pooled([part.flatten(0, 1) for part in parts])
        return logits.view(len(images), -1, 2)


class Ensemble(nn.Module):
    """Several classifiers as one: a patch's probabilities are the means of theirs (Lakshminarayanan et al. 2017).

    `forward` and `windows` take and give what a `Classifier`'s do. The architecture is that of the members but for the
    system, which names all of them; without `members` they are new ones.
    """

    def __init__(self, architecture: Architecture, members: Sequence[Classifier] = ()) -> None:
        super().__init__()
        names = members_of(architecture.system)
        empty = (Classifier(architecture.model_copy(update={"system": name})) for name in names)
        self.architecture = architecture
        self.members = nn.ModuleList(members or empty)

    def forward(self, patches: Tensor) -> Tensor:
        """Grey patches `(n, 1, p, p)`, 0 to 255 → logits `(n, 2)`."""
        return mean_logits([member(patches) for member in self.classifiers])

    def windows(self, images: Tensor, tops: Tensor, lefts: Tensor, size_px: int) -> Tensor:
        """The dense road: whole ROIs `(n, 1, S, S)` → logits `(n, t · l, 2)` of the patches at tops and lefts."""
        return mean_logits([member.windows(images, tops, lefts, size_px) for member in self.classifiers])

    @property
    def classifiers(self) -> list[Classifier]:
        """The members."""
        return cast("list[Classifier]", list(self.members))


def mean_logits(logits: list[Tensor]) -> Tensor:
    """Logits of the members, each `(…, 2)` → float32 logits `(…, 2)` of the mean of their probabilities."""
    # The sum stands for the mean: a softmax does not see the difference.
    return torch.stack(logits).float().log_softmax(dim=-1).logsumexp(dim=0)


Network = Classifier | Ensemble


def joined(system: str, members: Sequence[Classifier]) -> Network:
    """The network of `system` from its trained members."""
    first, *others = members
    architecture = first.architecture.model_copy(update={"system": system})
    if others:
        return Ensemble(architecture, members)
    first.architecture = architecture
    return first


def empty_network(architecture: Architecture) -> Network:
    """The network that `architecture` describes, for weights that are read from a file."""
    one = len(members_of(architecture.system)) == 1
    return Classifier(architecture) if one else Ensemble(architecture)


def build_classifier(system: str, config: ModelConfig, seed: int, workspace: Workspace = HERE) -> Classifier:
    """A new classifier with seeded initial weights, and pretrained ones in the backbone if asked for.

    `WeightsError` where these cannot be had or do not fit.
    """
    architecture = Architecture.of(system, config)
    backbone, _ = split_system(system)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = None if backbone == "compact" else full_network(backbone)
        if config.weights != "none" and network is not None:
            load_pretrained(backbone, config.weights, network, workspace)
            if config.weights == "hed" and architecture.preprocessing == "imagenet":
                # They expect grey levels, where torchvision's normalisation has divided by 255 and a deviation.
                with torch.no_grad():
                    first = network.get_parameter("features.0.weight")
                    first.mul_(255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        return Classifier(architecture, network)
