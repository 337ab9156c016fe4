"""Patch scores → votes → the decision about a ROI. Pure numpy.

Source: Yu et al. 2020, "Decision": a class for each patch, then the majority. The tie rule, which the
paper does not name (its 25 votes cannot tie), is explicit here because other grids can.
"""

import numpy as np
import numpy.typing as npt

from mammo.config import VoteConfig
from mammo.records import Label, RoiVote

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def patch_votes(patch_scores: FloatArray, config: VoteConfig) -> IntArray:
    """Return each patch's vote, 1 for Tumor: same shape as `patch_scores` (probabilities of Tumor)."""
    return (patch_scores > config.patch_threshold).astype(np.int64)


def vote_shares(patch_scores: FloatArray, config: VoteConfig) -> FloatArray:
    """Return the share of Tumor votes of each ROI: `(n_rois, n_patches)` → `(n_rois,)`."""
    shares: FloatArray = patch_votes(patch_scores, config).mean(axis=1)
    return shares


def decisions(patch_scores: FloatArray, config: VoteConfig) -> IntArray:
    """Decide each ROI: `(n_rois, n_patches)` scores → `(n_rois,)` of 0 Normal, 1 Tumor.

    `majority` compares the vote share, `mean_score` the mean patch score, with `share_threshold`;
    equality is a tie and goes to the class that `config.tie` names.
    """
    evidence = vote_shares(patch_scores, config) if config.rule == "majority" else patch_scores.mean(axis=1)
    tied = Label.TUMOR if config.tie == "tumor" else Label.NORMAL
    decided = (evidence > config.share_threshold).astype(np.int64)
    return np.where(np.isclose(evidence, config.share_threshold, rtol=0, atol=1e-12), int(tied), decided)


def roi_votes(patch_scores: FloatArray, config: VoteConfig) -> list[RoiVote]:
    """The decision about each ROI with the votes behind it: `(n_rois, n_patches)` → one record a row."""
    return [
        RoiVote(
            label=Label(int(decision)).title,
            vote_share=float(votes.mean()),
            votes=tuple(int(vote) for vote in votes),
            patch_scores=tuple(float(score) for score in scores),
            score=float(scores.mean()),
        )
        for scores, votes, decision in zip(
            patch_scores, patch_votes(patch_scores, config), decisions(patch_scores, config), strict=True
        )
    ]
