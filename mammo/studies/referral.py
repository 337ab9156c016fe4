"""Coverage and referral rate of prediction sets over many fits, each fitted on its own fold's validation part."""

from collections.abc import Sequence

from mammo.config import Config
from mammo.evaluation.referral import FoldReferral, fit_and_judge_fold
from mammo.studies.runs import Placed, decide


def referral_by_fold(placed: Sequence[Placed], config: Config) -> list[FoldReferral]:
    """Judge the sets of each fit on what it held out, as served sets are: of the mean score, with the vote's class.

    Args:
        placed: fits in the order in which they are to be named.
        config: `vote`, `referral` and the confidence of `evaluate`.
    """
    return [
        fit_and_judge_fold(
            f"repeat {one.repeat}, fold {one.fold}, seed {one.seed}",
            one.fit.val.labels,
            one.fit.val.patch_scores.mean(axis=1),
            one.fit.test.labels,
            one.fit.test.patch_scores.mean(axis=1),
            promise=config.referral.coverage,
            class_conditional=config.referral.class_conditional,
            decided=decide(one.fit, config.vote)[1],
            confidence=config.evaluate.confidence,
        )
        for one in placed
    ]
