"""Patches from ROIs on the device: crop, rotate, zoom and flip in one affine sampling.

One sampling instead of four keeps the pixels sharp, and no patch is ever written to a file.
Coordinates are in pixels of the ROI, with the centre of the first pixel at 0.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from mammo.core.config import AugmentConfig


@dataclass(frozen=True)
class PatchBatch:
    """Squares to sample, tensors of length `n` on one device: the ROI's index in the image stack, and pixels in it."""

    roi: Tensor
    top: Tensor
    left: Tensor
    size: Tensor

    def take(self, which: Tensor | slice) -> "PatchBatch":
        """Some of the squares."""
        return PatchBatch(self.roi[which], self.top[which], self.left[which], self.size[which])


def crop(images: Tensor, batch: PatchBatch, out_px: int) -> Tensor:
    """The patches cut out of `images`, uint8 `(N, S, S)`: float32 `(n, 1, out_px, out_px)`, grey levels 0 to 255.

    A patch whose side is not `out_px` is resampled bilinearly.
    """
    if bool((batch.size == out_px).all()):
        steps = torch.arange(out_px, device=images.device)
        rows = (batch.top[:, None] + steps)[:, :, None]
        columns = (batch.left[:, None] + steps)[:, None, :]
        return images[batch.roi[:, None, None], rows, columns].unsqueeze(1).float()
    identity = torch.eye(2, device=images.device).expand(len(batch.roi), 2, 2)
    return _sample(images, batch, identity, out_px, fill="patch")


def augment(
    images: Tensor, batch: PatchBatch, out_px: int, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """The patches of `images`, uint8 `(N, S, S)`, sampled through random rotations, zooms, flips about their centres.

    The random numbers are drawn with the generator, on the CPU, so that a seed gives the same patches on every device.

    Returns:
        float32 `(n, 1, out_px, out_px)`, grey levels.
    """
    matrices, gain, offset = _draw(len(batch.roi), config, generator)
    patches = _sample(images, batch, _on(images.device, matrices), out_px, config.fill)
    if config.gain or config.offset:
        patches = patches * _on(images.device, gain) + _on(images.device, offset)
    return patches


def _on(device: torch.device, drawn: Tensor) -> Tensor:
    """Put drawn numbers on the device; from pinned memory a GPU fetches them while the CPU goes on."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn


def _draw(n: int, config: AugmentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `n` matrices `(n, 2, 2)` from output (x, y) to input (x, y), gains and offsets `(n, 1, 1, 1)`."""
    uniform = torch.rand(7, n, generator=generator)
    angle = (2 * uniform[0] - 1) * config.rotation_deg * pi / 180
    if config.quarter_turns:
        angle = (4 * uniform[0]).floor() * (pi / 2)
    # Keras, which the paper used, scales the sampling grid: a factor of 1.2 shows 20% more tissue.
    zoom_x = 1 + (2 * uniform[1] - 1) * config.zoom
    zoom_y = 1 + (2 * uniform[2] - 1) * config.zoom
    flip_x = torch.where(uniform[3] < 0.5, -1.0, 1.0) if config.flip_horizontal else torch.ones(n)
    flip_y = torch.where(uniform[4] < 0.5, -1.0, 1.0) if config.flip_vertical else torch.ones(n)
    cos, sin = angle.cos(), angle.sin()
    if config.quarter_turns:
        # Exact zeros and ones keep the sampling points on the pixels.
        cos, sin = cos.round(), sin.round()
    scale_x, scale_y = zoom_x * flip_x, zoom_y * flip_y
    matrices = torch.stack(
        [torch.stack([cos * scale_x, -sin * scale_y], -1), torch.stack([sin * scale_x, cos * scale_y], -1)],
        -2,
    )
    gain = 1 + (2 * uniform[5] - 1) * config.gain
    offset = (2 * uniform[6] - 1) * config.offset
    return matrices, gain.view(-1, 1, 1, 1), offset.view(-1, 1, 1, 1)


def _sample(images: Tensor, batch: PatchBatch, matrices: Tensor, out_px: int, fill: str) -> Tensor:
    """Sample each patch on a turned and scaled grid about its centre, bilinearly."""
    side_px = images.shape[-1]
    size = batch.size.float()
    axis = (torch.arange(out_px, device=images.device) + 0.5) / out_px - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    base = torch.stack([x, y], -1).view(1, -1, 2) * size.view(-1, 1, 1)
    turned = torch.bmm(base, matrices.transpose(1, 2))
    corner = torch.stack([batch.left, batch.top], -1).float()
    points = turned + (corner + (size[:, None] - 1) / 2)[:, None, :]
    if fill == "patch":
        # Clamping the points to the patch repeats its border pixels: Keras' "nearest" fill.
        points = torch.maximum(points, corner[:, None, :])
        points = torch.minimum(points, (corner + size[:, None] - 1)[:, None, :])
    grid = points.view(len(size), out_px, out_px, 2) * (2 / (side_px - 1)) - 1
    stack = images[batch.roi].unsqueeze(1).float()
    return torch.nn.functional.grid_sample(stack, grid, mode="bilinear", padding_mode="border", align_corners=True)
