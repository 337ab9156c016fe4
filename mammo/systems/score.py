"""Scoring patches and ROIs in batches: the one road of validation, evaluation, serving and batch scoring."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mammo.data.patches import grid_corners, grid_offsets
from mammo.evaluation.voting import RoiVote, roi_votes
from mammo.models.build import Network
from mammo.models.bundle import Bundle
from mammo.systems.augment import PatchBatch, crop
from mammo.systems.devices import autocast

FloatArray = npt.NDArray[np.float64]
PATCHES_PER_BATCH: Final = 256
PATCHES_PER_CPU_BATCH: Final = 128
"""Whose activations the caches hold, and the C library gives from its heap: a third faster than the larger batch."""
ROIS_PER_BATCH: Final = 32
"""Of the dense road: as many pixels as `PATCHES_PER_BATCH` patches of 72 pixels have, roughly."""


class Grid(Protocol):
    """Whatever names a voting grid: settings of patches or of a fit, and bundles."""

    @property
    def size_px(self) -> int: ...
    @property
    def stride_px(self) -> int: ...
    @property
    def corner_patches(self) -> bool: ...


def turned(pixels: Tensor, view: int) -> Tensor:
    """One of the eight views of pictures `(n, c, p, p)`: `view % 4` quarter turns, from 4 on mirrored as well."""
    quarter = torch.rot90(pixels, view % 4, (2, 3))
    return quarter.flip(3) if view >= 4 else quarter


@torch.inference_mode()
def patch_logits(
    network: Network,
    images: Tensor,
    patches: PatchBatch,
    size_px: int,
    precision: str = "auto",
    batch_size: int | None = None,
    view: int = 0,
) -> Tensor:
    """Logits of `n` patches without augmentation, float32 `(n, 2)` on the CPU.

    The network is in evaluation mode on the device of `images`, uint8 `(N, S, S)`, and takes patches of `size_px`,
    to which others are resampled. `precision` is as in `devices.autocast`; `view` is as in `turned`.
    """
    pieces = []
    batch_size = batch_size or (PATCHES_PER_CPU_BATCH if images.device.type == "cpu" else PATCHES_PER_BATCH)
    for start in range(0, len(patches.roi), batch_size):
        batch = patches.take(slice(start, start + batch_size))
        pixels = turned(crop(images, batch, size_px), view).contiguous(memory_format=torch.channels_last)
        with autocast(images.device, precision):
            logits = network(pixels)
        pieces.append(logits.float().cpu())
    return torch.cat(pieces) if pieces else torch.zeros(0, 2)


def grid_batch(n_rois: int, grid: Grid, device: torch.device) -> PatchBatch:
    """The voting grids of `n_rois` ROIs, one ROI after the other, row by row."""
    places = grid_corners(grid.size_px, grid.stride_px, corner_patches=grid.corner_patches)
    top, left = torch.from_numpy(places).to(device).T
    return PatchBatch(
        roi=torch.arange(n_rois, device=device).repeat_interleave(len(places)),
        top=top.repeat(n_rois),
        left=left.repeat(n_rois),
        size=torch.full((n_rois * len(places),), grid.size_px, device=device),
    )


def tumor_scores(logits: Tensor) -> FloatArray:
    """Probability of Tumor: logits `(…, 2)` → `(…,)`."""
    scores: FloatArray = torch.softmax(logits.double(), dim=-1)[..., 1].numpy()
    return scores


def grid_offsets_on(n_rois: int, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tops and lefts of a grid's patches for each ROI, `(n_rois, t)` each, pixels."""
    along = grid_offsets(grid.size_px, grid.stride_px, corner_patches=grid.corner_patches)
    both = torch.from_numpy(along).to(device).expand(n_rois, -1)
    return both, both


def grid_logits(network: Network, images: Tensor, grid: Grid, precision: str, view: int = 0) -> Tensor:
    """Logits of the grid's patches by the network's own road, float32 `(n_rois, n_patches, 2)` on the CPU.

    The network is in evaluation mode on the device of `images`, uint8 `(n_rois, S, S)`; `view` is as in `turned`.
    """
    if network.architecture.road == "dense":
        return _window_logits(network, images, grid, precision, view)
    squares = grid_batch(len(images), grid, images.device)
    logits = patch_logits(network, images, squares, grid.size_px, precision, view=view)
    return logits.view(len(images), -1, 2)


@torch.inference_mode()
def _window_logits(network: Network, images: Tensor, grid: Grid, precision: str, view: int) -> Tensor:
    pieces = []
    for batch in images.split(ROIS_PER_BATCH):
        pixels = turned(batch[:, None].float(), view).contiguous(memory_format=torch.channels_last)
        tops, lefts = grid_offsets_on(len(batch), grid, images.device)
        with autocast(images.device, precision):
            logits = network.windows(pixels, tops, lefts, grid.size_px)
        # The grid is as symmetric as the ROI.
        places = logits.float().unflatten(1, (tops.shape[1], lefts.shape[1]))
        places = torch.rot90(places.flip(2) if view >= 4 else places, -(view % 4), (1, 2))
        pieces.append(places.flatten(1, 2).cpu())
    return torch.cat(pieces)


def grid_scores(network: Network, images: Tensor, grid: Grid, precision: str, views: int) -> FloatArray:
    """Probability of Tumor of the grid's patches, the mean over their first 1 or 8 views: `(n_rois, n_patches)`.

    The network is in evaluation mode on the device of `images`, uint8 `(n_rois, S, S)`.
    """
    of_views = [tumor_scores(grid_logits(network, images, grid, precision, view)) for view in range(views)]
    mean: FloatArray = np.mean(of_views, axis=0)
    return mean


@dataclass(frozen=True)
class RoiScorer:
    """Scores whole ROIs with a bundle's own grid and vote rule, on one device."""

    bundle: Bundle
    device: torch.device
    precision: str = "auto"

    @classmethod
    def on(cls, bundle: Bundle, device: torch.device, precision: str | None = None) -> "RoiScorer":
        """Move the bundle's network to the device and make it ready; `precision` None is the bundle's own."""
        bundle.network.to(device).to(memory_format=torch.channels_last).eval()
        return cls(bundle, device, precision or bundle.precision)

    def patch_scores(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """uint8 ROIs `(n, 120, 120)` → probability of Tumor of each grid patch, `(n, n_patches)`."""
        bundle = self.bundle
        if not len(images):
            return np.empty((0, len(bundle.corners)))
        stack = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        scores = grid_scores(bundle.network, stack, bundle, self.precision, bundle.vote.views)
        return scores if bundle.stack is None else bundle.stack.apply(images, scores)

    def votes(self, images: npt.NDArray[np.uint8]) -> list[RoiVote]:
        """uint8 ROIs `(n, 120, 120)` → one decision each."""
        bundle = self.bundle
        reasons = bundle.domain.reasons(images)
        return roi_votes(self.patch_scores(images), bundle.vote, bundle.calibrator, bundle.conformal, reasons)
