"""Why a ROI was decided as it was: the map of its votes, and Grad-CAM of its patches.

Source of Grad-CAM: Selvaraju et al. 2017 (doi 10.1109/ICCV.2017.74), eq. 1 and 2, computed by Captum. Two things differ
here. The explained quantity is the Tumor logit minus the Normal logit, which is all that a patch score depends on. And
the last ReLU is left out: what speaks for Normal is shown as well, with a negative sign.

Grad-CAM is a first-order guess, not a measurement. How far it agrees with what hiding a part of the patch does to the
logits differs from system to system, so a picture shows it beside the votes and never in their place.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mammo.core.config import split_system
from mammo.core.errors import MammoError
from mammo.core.records import ROI_SIDE_PX, RoiVote
from mammo.models.backbones import BLOCKS
from mammo.models.build import Classifier
from mammo.systems.augment import crop
from mammo.systems.score import RoiScorer, grid_batch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ALL_BLOCKS: Final = "all"
"""Grad-CAM of every block that the head sees, each by its own way into the head, summed."""

_PATCHES_PER_PASS: Final = 64
"""Patches that are explained at a time: a backward pass keeps every activation of theirs."""


@dataclass(frozen=True)
class Explanation:
    """One ROI's decision laid over its pixels.

    Attributes:
        vote: the decision and its patch scores.
        corners: top and left of each patch in pixels, in the order of the scores, `(n_patches, 2)`.
        size_px: side of the patches.
        vote_map: mean score of the patches that cover a pixel, `(120, 120)`; NaN where none does.
        coverage: number of patches that cover a pixel, `(120, 120)`.
        grad_cam: mean Grad-CAM of the patches that cover a pixel, `(120, 120)`: above 0 it speaks for Tumor, below 0
            for Normal, in logits; NaN where no patch lies.
        n_agreeing: patches whose mean Grad-CAM has the sign of their own logit; if far fewer than all agree, the
            map's signs do not tell which class the network saw.
        block: what Grad-CAM rests on: `block1` … `block5`, or `all`.
        patch_threshold: a patch votes Tumor when its score is above this.
    """

    vote: RoiVote
    corners: IntArray
    size_px: int
    vote_map: FloatArray
    coverage: IntArray
    grad_cam: FloatArray
    n_agreeing: int
    block: str
    patch_threshold: float


def default_block(system: str) -> str:
    """What Grad-CAM takes when no block is named: `block5` for the baseline, `all` for Model1 and Model2.

    The heads of the fusions see every block, so no single one holds their evidence. On the validation ROIs of the MIAS
    archive the sum for compact-model1 has the sign of a patch's logit in 97% of the patches, block5 alone in 81%.
    """
    return BLOCKS[-1] if split_system(system)[1] == "baseline" else ALL_BLOCKS


def explain(scorer: RoiScorer, images: npt.NDArray[np.uint8], block: str | None = None) -> list[Explanation]:
    """Explain ROIs: uint8 `(n, 120, 120)` → one explanation each.

    Args:
        scorer: the bundle on its device; votes come by the road that serving uses.
        images: the ROIs.
        block: `block1` … `block5` or `all`; `default_block` of the system when None.

    Raises:
        MammoError: there is no such block.
    """
    bundle = scorer.bundle
    block = _checked(block) if block is not None else default_block(bundle.system)
    corners = bundle.corners
    explanations = []
    for image, vote in zip(images, scorer.votes(images), strict=True):
        scores = np.array(vote.patch_scores)[:, None, None]
        vote_map, coverage = mean_over_roi(scores, corners, bundle.size_px)
        patch_cams = patch_grad_cams(bundle.classifier, _grid_pixels(scorer, image), block)
        cam, _ = mean_over_roi(patch_cams, corners, bundle.size_px)
        agreeing = (patch_cams.mean(axis=(1, 2)) > 0) == (scores.ravel() > 0.5)
        explanations.append(
            Explanation(
                vote=vote,
                corners=corners,
                size_px=bundle.size_px,
                vote_map=vote_map,
                coverage=coverage,
                grad_cam=cam,
                n_agreeing=int(agreeing.sum()),
                block=block,
                patch_threshold=bundle.vote.patch_threshold,
            )
        )
    return explanations


def _checked(block: str) -> str:
    known = [*BLOCKS, ALL_BLOCKS]
    if block not in known:
        raise MammoError(f"--block: must be one of {known}, got {block!r}; name one of them or leave it out")
    return block


def mean_over_roi(
    values: FloatArray, corners: IntArray, size_px: int, side_px: int = ROI_SIDE_PX
) -> tuple[FloatArray, IntArray]:
    """Lay patches over their ROI: the mean of those that cover a pixel, and how many do.

    Args:
        values: of each patch's pixels, `(n_patches, size_px, size_px)`, or `(n_patches, 1, 1)` for one value a patch.
        corners: top and left of each patch, `(n_patches, 2)`.
        size_px: side of the patches.
        side_px: side of the ROI.

    Returns:
        The mean, NaN where no patch lies, and the count, both `(side_px, side_px)`.
    """
    total = np.zeros((side_px, side_px))
    count = np.zeros((side_px, side_px), dtype=np.int64)
    for value, (top, left) in zip(values, corners, strict=True):
        square = (slice(top, top + size_px), slice(left, left + size_px))
        total[square] += value
        count[square] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), count


def _grid_pixels(scorer: RoiScorer, image: npt.NDArray[np.uint8]) -> Tensor:
    """The grid patches of one ROI, `(n_patches, 1, size_px, size_px)`, on the scorer's device."""
    bundle = scorer.bundle
    stack = torch.from_numpy(np.ascontiguousarray(image)[None]).to(scorer.device)
    grid = grid_batch(1, bundle.size_px, bundle.stride_px, scorer.device, bundle.corner_patches)
    return crop(stack, grid, bundle.size_px)


def patch_grad_cams(classifier: Classifier, patches: Tensor, block: str) -> FloatArray:
    """Grad-CAM of each patch without its ReLU, upsampled to the patch.

    The mean over a patch is what the block adds to the logits at first order, so that blocks can be summed.

    Args:
        classifier: in evaluation mode, on the device of the patches.
        patches: grey levels `(n, 1, p, p)`.
        block: `block1` … `block5`, with every way from that block to the head; or `all`.

    Returns:
        `(n, p, p)`, above 0 for Tumor, below 0 for Normal.
    """
    if block != ALL_BLOCKS:
        return _block_cams(_TappedClassifier(classifier, block, own_way=False), patches)
    _, fusion = split_system(classifier.architecture.system)
    seen = BLOCKS[-1:] if fusion == "baseline" else BLOCKS
    taps = [_TappedClassifier(classifier, name, own_way=True) for name in seen]
    cams: FloatArray = np.sum([_block_cams(tapped, patches) for tapped in taps], axis=0)
    return cams


def _block_cams(tapped: "_TappedClassifier", patches: Tensor) -> FloatArray:
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(tapped, tapped.tap)
    pieces = []
    for part in patches.split(_PATCHES_PER_PASS):
        # In a frozen network no other tensor before the block asks for gradients.
        maps = cam.attribute(part.clone().requires_grad_())
        n_cells = maps.shape[-2] * maps.shape[-1]
        upsampled = LayerAttribution.interpolate(maps, patches.shape[-2:], interpolate_mode="bilinear")
        pieces.append((n_cells * upsampled.detach()[:, 0]).double().cpu().numpy())
    return np.concatenate(pieces)


class _TappedClassifier(nn.Module):
    """A classifier with a module of its own behind one block, which is what Captum attributes to.

    The blocks of torchvision's networks are nodes of a traced graph, and not all of them end in a module. The tap hands
    on the very tensor that the next block has read, so its gradient holds every way from the block to the head;
    `own_way` keeps the fusion's branch of this block and leaves out the way through the later blocks.
    """

    def __init__(self, classifier: Classifier, block: str, *, own_way: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.block = block
        self.own_way = own_way
        self.tap = nn.Identity()

    def forward(self, patches: Tensor) -> Tensor:
        """Grey patches `(n, 1, p, p)` → Tumor logit minus Normal logit, `(n,)`."""
        features = self.classifier.blocks(patches)
        tapped = features[self.block]
        if self.own_way:
            tapped = tapped.detach().requires_grad_()
        logits = self.classifier.classify({**features, self.block: self.tap(tapped)})
        return logits[:, 1] - logits[:, 0]
