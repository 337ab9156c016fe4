"""Patch scores → votes → the decision about a ROI, its probability and its prediction set. Pure numpy.

Source: Yu et al. 2020, "Decision": a class for each patch, then the majority. The tie rule, which the
paper does not name (its 25 votes cannot tie), is explicit here because other grids can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mammo.core.config import VoteConfig
from mammo.core.records import Label
from mammo.evaluation.calibration import NO_CALIBRATION, Calibrator, score_threshold, share_threshold
from mammo.evaluation.conformal import REFER_ALL, Conformal
from mammo.evaluation.metrics import FloatArray, IntArray
from mammo.evaluation.scores import Scores

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RoiVote:
    """The decision about one ROI and the votes that made it.

    Attributes:
        label: `Normal` or `Tumor`.
        vote_share: share of the patches that voted Tumor, 0 to 1.
        votes: each patch's vote (0 Normal, 1 Tumor), row by row over the grid.
        patch_scores: each patch's probability of Tumor, in the same order.
        score: mean of the patch scores.
        probability: calibrated probability of Tumor.
        threshold: the ROI is Tumor when its vote share (rule `majority`) or its score (rule `mean_score`)
            is above this.
        decided_by: which rule decided and why, in words.
        prediction_set: the classes that remain open at the promised coverage; always holds `label`.
        domain_reason: why the picture is unlike the ROIs of training, as "<the picture> …"; None where it is not.
    """

    label: str
    vote_share: float
    votes: tuple[int, ...]
    patch_scores: tuple[float, ...]
    score: float
    probability: float
    threshold: float
    prediction_set: tuple[str, ...]
    domain_reason: str | None = None
    decided_by: str = ""

    @property
    def referral(self) -> bool:
        """Whether a reader has to decide: both classes remain open, or no such picture was ever judged."""
        return len(self.prediction_set) > 1 or self.domain_reason is not None

    def row(self, model_name: str, model_version: str) -> dict[str, Any]:
        """The answer that every road gives: `mammo predict`, the service and any MLflow client."""
        return {
            "label": self.label,
            "vote_share": self.vote_share,
            "votes": list(self.votes),
            "score": self.score,
            "model_name": model_name,
            "model_version": model_version,
            "probability": self.probability,
            "threshold": self.threshold,
            "decided_by": self.decided_by,
            "prediction_set": list(self.prediction_set),
            "referral": self.referral,
            "in_domain": self.domain_reason is None,
            "domain_reason": self.domain_reason,
        }


def patch_votes(patch_scores: FloatArray, config: VoteConfig) -> IntArray:
    """Each patch's vote, 1 for Tumor: same shape as `patch_scores` (probabilities of Tumor)."""
    return (patch_scores > config.patch_threshold).astype(np.int64)


def vote_shares(patch_scores: FloatArray, config: VoteConfig) -> FloatArray:
    """Share of Tumor votes of each ROI: `(n_rois, n_patches)` → `(n_rois,)`."""
    shares: FloatArray = patch_votes(patch_scores, config).mean(axis=1)
    return shares


def decisions(patch_scores: FloatArray, config: VoteConfig) -> IntArray:
    """The decision about each ROI: `(n_rois, n_patches)` scores → `(n_rois,)` of 0 Normal, 1 Tumor.

    `majority` compares the vote share, `mean_score` the mean patch score, with `share_threshold`;
    equality is a tie and goes to the class that `config.tie` names.
    """
    evidence = vote_shares(patch_scores, config) if config.rule == "majority" else patch_scores.mean(axis=1)
    tied = Label.TUMOR if config.tie == "tumor" else Label.NORMAL
    decided = (evidence > config.share_threshold).astype(np.int64)
    return np.where(np.isclose(evidence, config.share_threshold, rtol=0, atol=1e-12), int(tied), decided)


def with_validation_threshold(labels: IntArray, patch_scores: FloatArray, config: VoteConfig) -> VoteConfig:
    """The rule with its threshold fitted to labels `(n_rois,)` and scores `(n_rois, n_patches)` of validation.

    Where the scores do not tell the classes apart the rule stays at its `share_threshold` and says `fixed`.

    Raises:
        DataError: a class is absent from the validation part.
    """
    if config.rule == "majority":
        chosen = share_threshold(labels, vote_shares(patch_scores, config), patch_scores.shape[1])
    else:
        chosen = score_threshold(labels, patch_scores.mean(axis=1))
    if chosen is None:
        return config.model_copy(update={"threshold": "fixed"})
    return config.model_copy(update={"threshold": "validation", "share_threshold": chosen})


def fitted(labels: IntArray, patch_scores: FloatArray, config: VoteConfig) -> VoteConfig:
    """The rule as it decides: `with_validation_threshold` where it asks for one, else as it is."""
    if config.threshold == "validation":
        return with_validation_threshold(labels, patch_scores, config)
    return config


def prediction_sets(patch_scores: FloatArray, config: VoteConfig, conformal: Conformal) -> BoolArray:
    """Whether Normal and Tumor are in each ROI's set: `(n_rois, n_patches)` scores → `(n_rois, 2)`.

    The sets are those of the mean patch score, and each holds the class that the vote decided for: where the two
    disagree it holds both and the ROI goes to a reader. Larger sets keep the promised coverage.
    """
    decided = decisions(patch_scores, config)[:, None] == np.array([Label.NORMAL, Label.TUMOR])
    sets: BoolArray = conformal.sets(patch_scores.mean(axis=1)) | decided
    return sets


def voted(
    roi_ids: npt.NDArray[Any],
    labels: IntArray,
    groups: npt.NDArray[Any],
    patch_scores: FloatArray,
    config: VoteConfig,
    calibrator: Calibrator | None = None,
    conformal: Conformal | None = None,
) -> Scores:
    """One fit's judgement: `(n_rois, n_patches)` scores → decisions, probabilities and prediction sets."""
    return Scores.single(
        roi_ids,
        labels,
        groups,
        patch_scores,
        vote_shares(patch_scores, config),
        decisions(patch_scores, config),
        probabilities=None if calibrator is None else calibrator.apply(patch_scores.mean(axis=1)),
        sets=None if conformal is None else prediction_sets(patch_scores, config, conformal),
    )


def _why(votes: IntArray, score: float, config: VoteConfig) -> str:
    """What was compared with which threshold, and where that comes from."""
    counted = f"{votes.sum()} of {len(votes)} votes, a share of {votes.mean():.2f}"
    evidence = counted if config.rule == "majority" else f"mean score {score:.3f} (the votes do not decide)"
    chosen = "chosen on validation data" if config.threshold == "validation" else "fixed beforehand"
    return f"{evidence}, against the threshold {config.share_threshold:.2f}, {chosen}"


def roi_votes(
    patch_scores: FloatArray,
    config: VoteConfig,
    calibrator: Calibrator = NO_CALIBRATION,
    conformal: Conformal = REFER_ALL,
    domain_reasons: Sequence[str | None] | None = None,
) -> list[RoiVote]:
    """The decision about each ROI with the votes behind it: `(n_rois, n_patches)` → one record a row.

    `domain_reasons` are those of `Domain.reasons`; without them every ROI is taken to be in domain.
    """
    scores, votes = patch_scores.mean(axis=1), patch_votes(patch_scores, config)
    decided, probabilities = decisions(patch_scores, config), calibrator.apply(scores)
    sets = prediction_sets(patch_scores, config, conformal)
    reasons = domain_reasons or [None] * len(scores)
    return [
        RoiVote(
            label=Label(int(decided[row])).title,
            vote_share=float(votes[row].mean()),
            votes=tuple(votes[row].tolist()),
            patch_scores=tuple(patch_scores[row].tolist()),
            score=float(scores[row]),
            probability=float(probabilities[row]),
            threshold=config.share_threshold,
            prediction_set=tuple(label.title for label in Label if sets[row, label]),
            domain_reason=reasons[row],
            decided_by=_why(votes[row], float(scores[row]), config),
        )
        for row in range(len(patch_scores))
    ]
