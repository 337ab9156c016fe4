"""Coverage and referral rate of prediction sets over many fits, each fitted on its own fold's validation part."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mammo.core.config import Config
from mammo.data.rois import Rois
from mammo.evaluation.conformal import FoldReferral, fit_sets, judge_fold
from mammo.evaluation.metrics import FloatArray, IntArray
from mammo.evaluation.repeated import RunEstimate, Runs, estimate
from mammo.studies.runs import Placed, decide, lay_out

BoolArray = npt.NDArray[np.bool_]


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


def referral_over_runs(placed: Sequence[Placed], rois: Rois, config: Config) -> dict[str, RunEstimate]:
    """Each of the rates over all held-out ROIs, a mean over the runs with an interval over groups and runs."""

    def counted(what: Callable[[BoolArray, IntArray], BoolArray]) -> Runs:
        """Runs in which a ROI is decided rightly where `what` holds of its set, so that a metric is a share of it."""

        def judge(one: Placed) -> tuple[FloatArray, IntArray]:
            labels = one.fit.test.labels
            holds = what(_sets(one, config), labels)
            return holds.astype(float), np.where(holds, labels, 1 - labels)

        return lay_out(placed, rois, judge)

    held = counted(lambda sets, labels: sets[np.arange(len(labels)), labels])
    referred = counted(lambda sets, labels: sets.sum(axis=1) != 1)
    rates = {
        "coverage": (held, "accuracy"),
        "coverage_normal": (held, "specificity"),
        "coverage_tumor": (held, "recall"),
        "referral_rate": (referred, "accuracy"),
    }
    return {
        rate: estimate(runs, metric, **config.evaluate.resampling) for rate, (runs, metric) in rates.items()
    }


def _sets(one: Placed, config: Config) -> BoolArray:
    return fit_sets(
        one.fit.val.labels,
        one.fit.val.patch_scores.mean(axis=1),
        one.fit.test.patch_scores.mean(axis=1),
        promise=config.referral.coverage,
        class_conditional=config.referral.class_conditional,
        decided=decide(one.fit, config.vote)[1],
    )
