"""Confidence intervals: Wilson for proportions, a BCa bootstrap of groups and runs for all else, t over seeds.

Why BCa (Efron 1987, doi 10.1080/01621459.1987.10478410): on 600 to 800 simulated sets of 64 ROIs with AUC 0.95 a
nominal 95% covers about 94%, of a percentile bootstrap 90%; on 200 ROIs with AUC 0.75 to 0.95 93 to 96% and 92 to 94%.

Groups are resampled, not ROIs: ROIs of one patient, or ROIs that share pixels, are not independent. The
Wilson interval takes each ROI as independent, so it is too narrow where groups hold many ROIs.

A metric of several runs is averaged over them. Its interval resamples groups and, apart from them, runs: how much the
ROIs at hand matter, and how much training and folds do. R − 1 of R runs are drawn, with replacement, so that the
variance over few runs is not too small (Rao and Wu 1988, "Resampling inference with complex survey data"). The interval
errs on the wide side where the ROIs matter most: the luck of one run with one ROI counts up to three times. Two runs
know little of training; of a single one only groups vary.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal, Unpack

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import from_json, to_json
from scipy.special import ndtr, ndtri, stdtrit

from mammo.core.config import Resampling
from mammo.core.records import Label
from mammo.evaluation.metrics import PROPORTIONS, RATES, TITLES, FloatArray, cells, confusion, weighted_auc
from mammo.evaluation.scores import Scores, run_values

Statistic = Callable[[FloatArray], FloatArray | tuple[FloatArray, ...]]
"""A metric under B weightings of the ROIs: `(B, n)` → `(B,)`, or `(R, B)` of R runs; NaN where undefined.
Of a tuple, whose members may have other numbers of runs, the sum of their means over the runs counts."""

_SLICE: Final = 2_000_000
"""Weights of resamples that are held at a time."""

OrNaN = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(lambda value: np.nan if value is None else value)]
"""A number that may be undefined: NaN, which is null in JSON."""


@dataclass(frozen=True)
class Result:
    """Base of what is fitted or found: its fields as JSON."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; NaN becomes None."""
        fields: dict[str, Any] = from_json(to_json(self, inf_nan_mode="null"))
        return fields


@dataclass(frozen=True)
class Estimate(Result):
    """A value with its confidence interval and what they rest on.

    Attributes:
        value: the metric on all ROIs; NaN when undefined.
        ci_low, ci_high: ends of the interval; NaN when none can be stated.
        method: the interval's name.
        n: ROIs in the metric's own denominator (for recall, the Tumor ROIs).
        n_groups: independent groups (patients, or ROIs that share pixels) in the evaluated set.
        confidence: nominal coverage, such as 0.95.
        n_undefined: resamples left out because the metric was undefined on them.
    """

    value: OrNaN
    ci_low: OrNaN
    ci_high: OrNaN
    method: str
    n: int
    n_groups: int
    confidence: float
    n_undefined: int = 0

    @property
    def side(self) -> Literal["higher", "lower"] | None:
        """Of a difference: the side of 0 that its interval lies on; None where it cannot be told from 0."""
        if self.ci_low > 0 or self.ci_high < 0:
            return "higher" if self.value > 0 else "lower"
        return None


@dataclass(frozen=True)
class RunEstimate(Estimate):
    """A metric's mean over runs with its interval, and its standard deviation over the runs (NaN for one)."""

    sd_runs: OrNaN = float("nan")
    n_runs: int = 1


def percent(confidence: float) -> str:
    """`95%`, `97.5%`: a confidence in words, not rounded."""
    return f"{100 * confidence:g}%"


def wilson(successes: int, n: int, confidence: float, *, n_groups: int | None = None) -> Estimate:
    """Wilson's score interval of `successes` in `n` trials of `n_groups` groups (`n` when not given); NaN for none."""
    groups = n if n_groups is None else n_groups
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, "Wilson", 0, groups, confidence)
    from statsmodels.stats.proportion import proportion_confint  # here: it takes 0.8 s to import

    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Estimate(successes / n, float(low), float(high), "Wilson", n, groups, confidence)


def bootstrap(
    statistic: Statistic,
    groups: npt.NDArray[Any],
    *,
    n_bootstrap: int,
    seed: int,
    confidence: float,
    n: int | None = None,
    kind: Literal["BCa", "basic"] = "BCa",
) -> Estimate:
    """Interval of a statistic by resampling groups with replacement and, where there are several, runs.

    Resamples on which the statistic is undefined (one class only) are left out and counted. No interval
    (NaN) is stated where the resamples cannot give one: all of them equal, as under perfect separation,
    or fewer than half of them defined. The same seed draws the same resamples for every statistic.

    Args:
        groups: the group of each ROI, shape `(n,)`.
        n: ROIs in the metric's denominator; all when not given.
        kind: `BCa`, or `basic` for statistics that resampling biases (Davison and Hinkley 1997, section 5.2):
            it turns the resamples round the value, so that their bias counts the other way.
    """

    def terms(weights: FloatArray) -> list[FloatArray]:
        found = statistic(weights)
        return [np.atleast_2d(term) for term in (found if isinstance(found, tuple) else (found,))]

    def mean(weights: FloatArray) -> FloatArray:
        total: FloatArray = np.sum([term.mean(axis=0) for term in terms(weights)], axis=0)
        return total

    names, member_of = np.unique(groups, return_inverse=True)
    n_groups, method, size = len(names), f"{kind} bootstrap of groups", len(groups) if n is None else n
    if not n_groups:
        return Estimate(np.nan, np.nan, np.nan, method, size, 0, confidence)
    # How often each resample holds each group: `(n_bootstrap, n_groups)`.
    counts = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_bootstrap)
    rng = np.random.default_rng([seed, 1])
    pieces = []
    # In slices: the weights of all resamples of thousands of patches would fill the memory.
    for part in np.array_split(counts, max(1, n_bootstrap * len(groups) // _SLICE)):
        drawn = terms(part[:, member_of].astype(float))
        pieces.append(sum(_mean_of_some_runs(term, rng) for term in drawn))
    draws = np.concatenate(pieces)
    value = float(mean(np.ones((1, len(groups))))[0])
    if kind == "basic":
        low, high = basic(value, draws, confidence)
    else:
        left_one_out = mean((member_of != np.arange(n_groups)[:, None]).astype(float))
        low, high = bca(value, draws, left_one_out, confidence)
    method += " and runs" if any(len(term) > 1 for term in drawn) else ""
    return Estimate(value, low, high, method, size, n_groups, confidence, int(np.isnan(draws).sum()))


def _mean_of_some_runs(term: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Mean over the runs drawn in each resample, `(R, B)` → `(B,)`; a run not drawn may be undefined there."""
    n_runs, n_resamples = term.shape
    weights = np.ones_like(term)
    if n_runs > 1:
        drawn = rng.multinomial(n_runs - 1, np.full(n_runs, 1 / n_runs), size=n_resamples)
        weights = drawn.T / (n_runs - 1)
    total: FloatArray = np.where(weights > 0, weights * term, 0).sum(axis=0)
    return total


def basic(value: float, draws: FloatArray, confidence: float) -> tuple[float, float]:
    """Basic interval: twice the value minus the quantiles of the resamples; NaN where fewer than half are defined."""
    defined = draws[~np.isnan(draws)]
    if len(defined) < len(draws) / 2 or np.ptp(defined) == 0:
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(2 * value - high), float(2 * value - low)


def bca(value: float, draws: FloatArray, left_one_out: FloatArray, confidence: float) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987, eq. 2.3 and 6.6); NaN where it does not exist.

    `left_one_out`, the statistic without each group (the jackknife), gives the acceleration.
    """
    defined = draws[~np.isnan(draws)]
    jackknife = left_one_out[~np.isnan(left_one_out)]
    if len(defined) < len(draws) / 2 or np.ptp(defined) == 0 or len(jackknife) < 2 or np.ptp(jackknife) == 0:
        return np.nan, np.nan
    influence = jackknife.mean() - jackknife
    acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
    bias = ndtri((np.mean(defined < value) + np.mean(defined <= value)) / 2)
    tails = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = ndtr(bias + tails / (1 - acceleration * tails))
    if not np.isfinite(bias) or np.isnan(levels).any():
        return np.nan, np.nan
    low, high = np.quantile(defined, levels)
    return float(low), float(high)


def estimate(scores: Scores, metric: str, **how: Unpack[Resampling]) -> RunEstimate:
    """One of the `METRICS`, averaged over the runs; the denominator of precision is its mean over the runs."""
    denominators = {
        "recall": (scores.labels == Label.TUMOR).sum(),
        "specificity": (scores.labels == Label.NORMAL).sum(),
        "precision": round(float(scores.decisions.sum(axis=1).mean())),
    }
    n = int(denominators.get(metric, len(scores.labels)))
    found = bootstrap(lambda weights: run_values(scores, metric, weights), scores.groups, n=n, **how)
    of_runs = run_values(scores, metric, np.ones((1, len(scores.labels))))[:, 0]
    return with_spread(found, of_runs, scores.n_runs)


def with_spread(found: Estimate, of_runs: FloatArray, n_runs: int) -> RunEstimate:
    """The estimate with the standard deviation of the runs' own values, `(R,)`."""
    sd = float(of_runs.std(ddof=1)) if len(of_runs) > 1 else float("nan")
    return RunEstimate(**asdict(found), sd_runs=sd, n_runs=n_runs)


def summarise(
    scores: Scores,
    *,
    metrics: Sequence[str] = tuple(TITLES),
    independent: bool = True,
    **how: Unpack[Resampling],
) -> dict[str, Estimate]:
    """Metrics (keys of `metrics.TITLES`) of a single run, each with its interval.

    Where rows are not `independent`, such as patches of one ROI, every interval resamples groups, and n is all rows.
    """
    (decided,), (mean,), (shares,) = scores.decisions, scores.scores, scores.shares
    labels, evidence = scores.labels, {"auc_score": mean, "auc_vote_share": shares}
    table, cell_of = confusion(labels, decided), cells(labels, decided)

    def statistic(name: str, weights: FloatArray) -> FloatArray:
        if name in evidence:
            return weighted_auc(labels, evidence[name], weights)
        return RATES[name](weights @ cell_of)

    n_groups, n_of = len(np.unique(scores.groups)), {"f1": table.n - table.tn} if independent else {}
    return {
        name: wilson(*table.trials(name), how["confidence"], n_groups=n_groups)
        if independent and name in PROPORTIONS
        else bootstrap(partial(statistic, name), scores.groups, n=n_of.get(name, table.n), **how)
        for name in metrics
    }


def over_seeds(values: Sequence[float | None], confidence: float) -> dict[str, Any]:
    """Spread of a metric over the `n_seeds` training seeds where it is defined, for JSON: of training, not of the data.

    Standard deviation (with n - 1) and t interval of the mean are None for one seed; the mean is None without any.
    """
    defined = np.array([value for value in values if value is not None], dtype=float)
    found: dict[str, Any] = dict.fromkeys(("mean", "sd", "ci_low", "ci_high"))
    if len(defined):
        found["mean"] = mean = float(defined.mean())
    if len(defined) > 1:
        sd = float(defined.std(ddof=1))
        half = float(stdtrit(len(defined) - 1, (1 + confidence) / 2)) * sd / len(defined) ** 0.5
        found |= {"sd": sd, "ci_low": mean - half, "ci_high": mean + half}
    return found | {"n_seeds": len(defined), "confidence": confidence, "method": "t over seeds"}
