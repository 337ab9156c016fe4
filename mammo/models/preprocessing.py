"""What happens to grey levels before a backbone sees them. It belongs to the weights and travels with them."""

from typing import Final, Literal

import torch
from torch import Tensor, nn

PreprocessingName = Literal["samplewise_center", "samplewise_standardize", "imagenet", "fixed_scale"]

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

    def __init__(self, name: PreprocessingName, in_channels: int) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        rgb = name == "imagenet" and in_channels == 3
        mean = IMAGENET_MEAN if rgb else (0.5,) * in_channels
        std = IMAGENET_STD if rgb else (0.25,) * in_channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        """Grey levels → centred values, repeated over the backbone's channels."""
        if self.name.startswith("samplewise"):
            centred = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
            if self.name == "samplewise_standardize":
                centred = centred / (
                    centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + CONTRAST_FLOOR
                )
            return centred.expand(-1, self.in_channels, -1, -1)
        if self.name == "imagenet":
            return (patches.expand(-1, self.in_channels, -1, -1) / 255 - self.mean) / self.std
        return ((patches - FIXED_CENTER) / FIXED_SCALE).expand(-1, self.in_channels, -1, -1)
