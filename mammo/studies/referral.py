"""Coverage and referral rate of prediction sets over many fits, each fitted on its own fold's validation part."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.config import Config
from mammo.data.protocols import Material
from mammo.evaluation.referral import FoldReferral, fit_sets, judge_fold
from mammo.evaluation.repeated import RunEstimate, estimate
from mammo.studies.runs import Placed, decide, lay_out

_AS_DECISIONS: Final = {
    "coverage": ("held", "accuracy"),
    "coverage_normal": ("held", "specificity"),
    "coverage_tumor": ("held", "recall"),
    "referral_rate": ("referred", "accuracy"),
}
"""Rate → what counts of a ROI's set, and the metric that is its share once this is taken for a right decision."""


def referral_by_fold(placed: Sequence[Placed], config: Config) -> list[FoldReferral]:
    """Judge the sets of each fit on what it held out, as served sets are: of the mean score, with the vote's class.

    Args:
        placed: fits in the order in which they are to be named.
        config: `vote`, `referral` and the confidence of `evaluate`.
    """
    return [
        judge_fold(
            f"repeat {one.repeat}, fold {one.fold}, seed {one.seed}",
            config.referral.coverage,
            len(one.fit.val.labels),
            one.fit.test.labels,
            _sets(one, config),
            confidence=config.evaluate.confidence,
        )
        for one in placed
    ]


def referral_over_runs(
    placed: Sequence[Placed], material: Material, config: Config
) -> dict[str, RunEstimate]:
    """Each of the rates over all held-out ROIs, a mean over the runs with an interval over groups and runs."""
    how: dict[str, Any] = {
        "n_bootstrap": config.evaluate.n_bootstrap,
        "seed": config.evaluate.seed,
        "confidence": config.evaluate.confidence,
    }
    found = {}
    for rate, (counts, metric) in _AS_DECISIONS.items():

        def judge(one: Placed, counts: str = counts) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            sets, labels = _sets(one, config), one.fit.test.labels
            held, referred = sets[np.arange(len(labels)), labels], sets.sum(axis=1) != 1
            counted = held if counts == "held" else referred
            return counted.astype(float), np.where(counted, labels, 1 - labels)

        found[rate] = estimate(lay_out(placed, material, judge), metric, **how)
    return found


def _sets(one: Placed, config: Config) -> npt.NDArray[np.bool_]:
    return fit_sets(
        one.fit.val.labels,
        one.fit.val.patch_scores.mean(axis=1),
        one.fit.test.patch_scores.mean(axis=1),
        promise=config.referral.coverage,
        class_conditional=config.referral.class_conditional,
        decided=decide(one.fit, config.vote)[1],
    )
