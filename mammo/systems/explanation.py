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

from mammo.core.errors import MammoError
from mammo.core.records import ROI_SIDE_PX
from mammo.core.systems import members_of, split_system
from mammo.evaluation.metrics import IntArray
from mammo.evaluation.voting import RoiVote
from mammo.models.backbones import BLOCKS
from mammo.models.build import Classifier, Ensemble, Network
from mammo.systems.augment import crop
from mammo.systems.score import FloatArray, RoiScorer, grid_batch, patch_logits

ALL_BLOCKS: Final = "all"
"""Grad-CAM of every block that the head sees, each by its own way into the head, summed."""

_PATCHES_PER_PASS: Final = 64
"""Patches that are explained at a time: a backward pass keeps every activation of theirs."""


@dataclass(frozen=True)
class Explanation:
    """One ROI's decision laid over its pixels. Maps are `(120, 120)`, NaN where no patch lies.

    Attributes:
        system: who decided, such as `compact-model2`.
        image: the ROI's grey levels.
        vote: the decision and its patch scores.
        corners: top and left of each patch in pixels, in the order of the scores, `(n_patches, 2)`.
        size_px: side of the patches.
        patch_threshold: a patch votes Tumor when its score is above this.
        vote_map: mean score of the patches that cover a pixel.
        coverage: number of patches that cover a pixel.
        grad_cam: mean Grad-CAM of these patches: above 0 it speaks for Tumor, below 0 for Normal, in logits.
        n_agreeing: patches whose mean Grad-CAM has the sign of the network's own logit of them, whatever the floor adds
            to their scores; if far fewer than all agree, the map's signs do not tell which class the network saw.
        block: what Grad-CAM rests on: `block1` … `block5`, or `all`.
    """

    system: str
    image: npt.NDArray[np.uint8]
    vote: RoiVote
    corners: IntArray
    size_px: int
    patch_threshold: float
    vote_map: FloatArray
    coverage: IntArray
    grad_cam: FloatArray
    n_agreeing: int
    block: str


def default_block(system: str) -> str:
    """What Grad-CAM takes when no block is named: `block5` for the baseline, `all` for Model1 and Model2.

    The heads of the fusions see every block, so no single one holds their evidence. On the validation ROIs of the MIAS
    archive the sum for compact-model1 has the sign of a patch's logit in 97% of the patches, block5 alone in 81%.
    """
    fusions = {split_system(name)[1] for name in members_of(system)}
    return BLOCKS[-1] if fusions == {"baseline"} else ALL_BLOCKS


def explain(scorer: RoiScorer, images: npt.NDArray[np.uint8], block: str | None = None) -> list[Explanation]:
    """Explain ROIs: uint8 `(n, 120, 120)` → one explanation each, of the votes that serving gives.

    `block` is `block1` … `block5` or `all`; `default_block` of the system when None.

    Raises:
        MammoError: there is no such block.
    """
    bundle, known = scorer.bundle, [*BLOCKS, ALL_BLOCKS]
    block = default_block(bundle.system) if block is None else block
    if block not in known:
        raise MammoError(f"--block: must be one of {known}, got {block!r}; name one of them or leave it out")
    corners, size_px, threshold = bundle.corners, bundle.size_px, bundle.vote.patch_threshold
    grid = grid_batch(1, bundle, scorer.device)
    explanations = []
    for image, vote in zip(images, scorer.votes(images), strict=True):
        stack = torch.from_numpy(np.ascontiguousarray(image)[None]).to(scorer.device)
        cams = network_grad_cams(bundle.network, crop(stack, grid, size_px), block)
        logits = patch_logits(bundle.network, stack, grid, size_px, scorer.precision)
        n_agreeing = int(((cams.mean(axis=(1, 2)) > 0) == (logits[:, 1] > logits[:, 0]).numpy()).sum())
        vote_map, coverage = mean_over_roi(np.array(vote.patch_scores)[:, None, None], corners, size_px)
        grad_cam, _ = mean_over_roi(cams, corners, size_px)
        maps = (vote_map, coverage, grad_cam, n_agreeing, block)
        explanations.append(Explanation(bundle.system, image, vote, corners, size_px, threshold, *maps))
    return explanations


def mean_over_roi(
    values: FloatArray, corners: IntArray, size_px: int, side_px: int = ROI_SIDE_PX
) -> tuple[FloatArray, IntArray]:
    """Lay patches over their ROI: the mean of those that cover a pixel (NaN where none does), and how many do.

    `values` are of each patch's pixels, `(n_patches, size_px, size_px)`, or one of each patch, `(n_patches, 1, 1)`;
    `corners` top and left of each patch, `(n_patches, 2)`. Both results are `(side_px, side_px)`.
    """
    total = np.zeros((side_px, side_px))
    count = np.zeros((side_px, side_px), dtype=np.int64)
    for value, (top, left) in zip(values, corners, strict=True):
        square = (slice(top, top + size_px), slice(left, left + size_px))
        total[square] += value
        count[square] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), count


def network_grad_cams(network: Network, patches: Tensor, block: str) -> FloatArray:
    """`patch_grad_cams` of a classifier, of an ensemble the mean of its members'."""
    members = network.classifiers if isinstance(network, Ensemble) else [network]
    mean: FloatArray = np.mean([patch_grad_cams(member, patches, block) for member in members], axis=0)
    return mean


def patch_grad_cams(classifier: Classifier, patches: Tensor, block: str) -> FloatArray:
    """Grad-CAM of grey patches `(n, 1, p, p)` without its ReLU, upsampled: `(n, p, p)`, above 0 for Tumor.

    `block` is `block1` … `block5`, with every way from that block to the head; or `all`. The mean over a patch is what
    the block adds to the logits at first order, so that blocks can be summed. The classifier is in evaluation mode on
    the device of the patches.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    _, fusion = split_system(classifier.architecture.system)
    own_way = block == ALL_BLOCKS
    seen = [block] if not own_way else BLOCKS[-1:] if fusion == "baseline" else BLOCKS
    cams = np.zeros((len(patches), *patches.shape[-2:]))
    for name in seen:
        tapped = _TappedClassifier(classifier, name, own_way=own_way)
        grad_cam, pieces = LayerGradCam(tapped, tapped.tap), []
        for part in patches.split(_PATCHES_PER_PASS):
            # In a frozen network no other tensor before the block asks for gradients.
            maps = grad_cam.attribute(part.clone().requires_grad_())
            upsampled = LayerAttribution.interpolate(maps, patches.shape[-2:], interpolate_mode="bilinear")
            pieces.append((maps[0, 0].numel() * upsampled.detach()[:, 0]).double().cpu().numpy())
        cams += np.concatenate(pieces)
    return cams


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
