"""Scoring patches and ROIs in batches: the one road of validation, evaluation, serving and batch scoring."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mammo.core.records import RoiVote
from mammo.data.patches import grid_corners
from mammo.evaluation.voting import roi_votes
from mammo.models.build import Classifier
from mammo.models.bundle import Bundle
from mammo.systems.augment import PatchBatch, crop
from mammo.systems.devices import autocast, keep_freed_memory

FloatArray = npt.NDArray[np.float64]
PATCHES_PER_BATCH: Final = 256


@torch.inference_mode()
def patch_logits(
    classifier: Classifier,
    images: Tensor,
    patches: PatchBatch,
    size_px: int,
    precision: str = "auto",
    batch_size: int = PATCHES_PER_BATCH,
    view: int = 0,
) -> Tensor:
    """Logits of `n` patches without augmentation, float32 `(n, 2)` on the CPU.

    The classifier is in evaluation mode on the device of `images`, uint8 `(N, S, S)`, and takes patches of `size_px`,
    to which others are resampled. `precision` is as in `devices.autocast`; `view` is which of the eight views of each
    patch, `view % 4` quarter turns, from 4 on mirrored as well.
    """
    pieces = []
    for start in range(0, len(patches.roi), batch_size):
        batch = patches.take(slice(start, start + batch_size))
        pixels = torch.rot90(crop(images, batch, size_px), view % 4, (2, 3))
        pixels = (pixels.flip(3) if view >= 4 else pixels).contiguous(memory_format=torch.channels_last)
        with autocast(images.device, precision):
            logits = classifier(pixels)
        pieces.append(logits.float().cpu())
    return torch.cat(pieces) if pieces else torch.zeros(0, 2)


def grid_batch(
    n_rois: int, size_px: int, stride_px: int, device: torch.device, corner_patches: bool = True
) -> PatchBatch:
    """The voting grids of `n_rois` ROIs, one ROI after the other, row by row."""
    corners = torch.from_numpy(grid_corners(size_px, stride_px, corner_patches=corner_patches)).to(device)
    n_patches = len(corners)
    return PatchBatch(
        roi=torch.arange(n_rois, device=device).repeat_interleave(n_patches),
        top=corners[:, 0].repeat(n_rois),
        left=corners[:, 1].repeat(n_rois),
        size=torch.full((n_rois * n_patches,), size_px, device=device),
    )


def tumor_scores(logits: Tensor) -> FloatArray:
    """Probability of Tumor: logits `(…, 2)` → `(…,)`."""
    scores: FloatArray = torch.softmax(logits.double(), dim=-1)[..., 1].numpy()
    return scores


def grid_scores(
    classifier: Classifier, images: Tensor, grid: PatchBatch, size_px: int, precision: str, views: int
) -> FloatArray:
    """Probability of Tumor of each patch of `grid_batch`, the mean over its first 1 or 8 views: `(n_rois, n_patches)`.

    The classifier is in evaluation mode on the device of `images`, uint8 `(n_rois, S, S)`.
    """
    logits = [patch_logits(classifier, images, grid, size_px, precision, view=view) for view in range(views)]
    mean: FloatArray = np.mean([tumor_scores(of_view) for of_view in logits], axis=0)
    return mean.reshape(len(images), -1)


@dataclass(frozen=True)
class RoiScorer:
    """Scores whole ROIs with a bundle's own grid and vote rule, on one device."""

    bundle: Bundle
    device: torch.device
    precision: str = "auto"

    @classmethod
    def on(cls, bundle: Bundle, device: torch.device, precision: str | None = None) -> "RoiScorer":
        """Move the bundle's network to the device and make it ready; `precision` None is the bundle's own."""
        keep_freed_memory()
        bundle.classifier.to(device).to(memory_format=torch.channels_last).eval()
        return cls(bundle, device, precision or bundle.precision)

    def patch_scores(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """uint8 ROIs `(n, 120, 120)` → probability of Tumor of each grid patch, `(n, n_patches)`."""
        bundle = self.bundle
        if not len(images):
            return np.empty((0, len(bundle.corners)))
        stack = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        grid = grid_batch(len(images), bundle.size_px, bundle.stride_px, self.device, bundle.corner_patches)
        return grid_scores(bundle.classifier, stack, grid, bundle.size_px, self.precision, bundle.vote.views)

    def votes(self, images: npt.NDArray[np.uint8]) -> list[RoiVote]:
        """uint8 ROIs `(n, 120, 120)` → one decision each."""
        bundle = self.bundle
        reasons = bundle.domain.reasons(images)
        return roi_votes(self.patch_scores(images), bundle.vote, bundle.calibrator, bundle.conformal, reasons)
