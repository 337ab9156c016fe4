"""What a fit sees of a part's ROIs: pixels that it augments anew, or the kept features of a frozen backbone."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mammo.core.config import AugmentConfig
from mammo.core.records import ROI_SIDE_PX
from mammo.data.rois import Rois
from mammo.models.build import Classifier
from mammo.systems.augment import PatchBatch, augment
from mammo.systems.devices import autocast
from mammo.systems.features import KeptFeatures
from mammo.systems.score import PATCHES_PER_BATCH, grid_logits, patch_logits


@dataclass(frozen=True)
class FitSettings:
    """What a fit needs beside the data and the recipe: the grid of patches, the seed and the precision."""

    size_px: int
    stride_px: int
    seed: int
    precision: str = "auto"
    corner_patches: bool = True


@dataclass(frozen=True)
class PatchData:
    """ROIs of one part with a patch set over them, on one device.

    `images` are uint8 `(N, 120, 120)`, `roi_labels` int64 `(N,)`; `patches` are `n` squares with int64 `labels` `(n,)`.
    """

    images: Tensor
    roi_labels: Tensor
    patches: PatchBatch
    labels: Tensor

    def train_logits(
        self,
        classifier: Classifier,
        which: Tensor,
        settings: FitSettings,
        recipe: AugmentConfig,
        generator: torch.Generator,
    ) -> Tensor:
        """Logits of patches cut and augmented; on the dense road the whole ROI is, and the window keeps its place."""
        batch, size_px = self.patches.take(which), settings.size_px
        dense, side_px = classifier.architecture.road == "dense", self.images.shape[-1]
        if dense:
            corner, side = torch.zeros_like(batch.top), torch.full_like(batch.top, side_px)
            places, batch = batch, PatchBatch(batch.roi, corner, corner, side)
        pixels = augment(self.images, batch, side_px if dense else size_px, recipe, generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(pixels.device, settings.precision):
            if dense:
                return classifier.windows(pixels, places.top[:, None], places.left[:, None], size_px)[:, 0]
            logits: Tensor = classifier(pixels)
            return logits

    def drawn_logits(self, classifier: Classifier, settings: FitSettings) -> Tensor:
        """Logits of the drawn patches as they are; on the exact road whatever the classifier's is."""
        return patch_logits(classifier, self.images, self.patches, settings.size_px, settings.precision)

    def grid_logits(self, classifier: Classifier, settings: FitSettings) -> Tensor:
        """Logits of the voting grid by the classifier's road."""
        return grid_logits(classifier, self.images, settings, settings.precision)


def patch_data(rois: Rois, table: pd.DataFrame, device: torch.device) -> PatchData:
    """Put ROIs and the patches of them that `table` names (`PATCH_SCHEMA`) on the device."""
    images = torch.from_numpy(np.ascontiguousarray(rois.images)).to(device)
    places = (table[name] for name in ("top_px", "left_px", "size_px"))
    squares = PatchBatch(*_on(device, _rows(rois, table), *places))
    roi_labels, labels = _on(device, rois.labels, table["label"])
    return PatchData(images, roi_labels, squares, labels)


def _rows(rois: Rois, patches: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The row of each patch's ROI; `KeyError` where a patch names a ROI that is not there."""
    row_of = pd.Series(range(len(rois.table)), index=rois.table["roi_id"].astype(object))
    return np.asarray(row_of.loc[patches["roi_id"].astype(object)], dtype=np.int64)


def _on(device: torch.device, *arrays: npt.ArrayLike) -> list[Tensor]:
    """Whole numbers as tensors of the device."""
    return [torch.from_numpy(np.array(values, dtype=np.int64)).to(device) for values in arrays]


@dataclass(frozen=True)
class FrozenData:
    """ROIs of one part by their kept features, for a fit of the head alone.

    Patches are those of a patch set, each moved to the nearest place of the voting grid: `roi` and `slot` are `(n,)`.
    The head computes in float32 at any precision: a step takes as long as its weights take from memory, and bfloat16
    would copy them once more.
    """

    features: KeptFeatures
    roi_labels: Tensor
    roi: Tensor
    slot: Tensor
    labels: Tensor

    def _logits(self, classifier: Classifier, roi: Tensor, view: Tensor, slot: Tensor) -> Tensor:
        parts = self.features.parts(*(values.cpu().numpy() for values in (roi, view, slot)))
        return classifier.classify_pooled([part.to(self.labels.device) for part in parts])

    def train_logits(
        self,
        classifier: Classifier,
        which: Tensor,
        settings: FitSettings,
        recipe: AugmentConfig,
        generator: torch.Generator,
    ) -> Tensor:
        """Logits of some patches, each in a view drawn at random."""
        view = torch.randint(self.features.n_views, (len(which),), generator=generator)
        return self._logits(classifier, self.roi[which], view, self.slot[which])

    @torch.inference_mode()
    def drawn_logits(self, classifier: Classifier, settings: FitSettings) -> Tensor:
        """Logits of all patches as they are."""
        batches = zip(self.roi.split(PATCHES_PER_BATCH), self.slot.split(PATCHES_PER_BATCH), strict=True)
        pieces = [self._logits(classifier, roi, torch.zeros_like(roi), slot) for roi, slot in batches]
        return torch.cat(pieces).cpu()

    def grid_logits(self, classifier: Classifier, settings: FitSettings) -> Tensor:
        """Logits of the voting grid."""
        n_rois, n_slots = len(self.roi_labels), len(self.features.corners)
        rois = torch.arange(n_rois).repeat_interleave(n_slots)
        whole = replace(self, roi=rois, slot=torch.arange(n_slots).repeat(n_rois))
        return whole.drawn_logits(classifier, settings).view(n_rois, n_slots, 2)


FitData: TypeAlias = PatchData | FrozenData
"""The ROIs of one part as a fit sees them; all logits are float32 on the CPU but for those of training."""


def frozen_data(rois: Rois, patches: pd.DataFrame, features: KeptFeatures, device: torch.device) -> FrozenData:
    """ROIs whose features are kept, in their order, with the patches of them that a table names (`PATCH_SCHEMA`).

    The whole ROI as a patch, of another scale, is left out.
    """
    size_px = ROI_SIDE_PX - int(features.corners.max()) - int(features.corners.min())
    patches = patches[patches["size_px"] == size_px]
    squares = patches[["top_px", "left_px"]].to_numpy(np.int64)
    places, of_square = np.unique(squares, axis=0, return_inverse=True)
    slot = np.abs(places[:, None] - features.corners).sum(axis=2).argmin(axis=1)[of_square]
    return FrozenData(features, *_on(device, rois.labels, _rows(rois, patches), slot, patches["label"]))
