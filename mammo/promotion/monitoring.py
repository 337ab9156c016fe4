"""What the log of served answers tells: drift from what the champion was made with, and agreement of a challenger."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtri

from mammo.core.config import Config, Resampling
from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.data.splits import read_parts
from mammo.evaluation.intervals import Estimate, OrNaN, Result, bootstrap, wilson
from mammo.serve.log import read_log, statistics_of
from mammo.track.store import FITTED, text_of

if TYPE_CHECKING:
    from mammo.serve.loaded import VersionFiles

VOTES: Final = ("vote_share", "score")
N_BINS: Final = 10
MIN_ANSWERS: Final = 50
SOME, LARGE = 0.1, 0.25
"""From which PSI on people speak of some and of large drift (Siddiqi 2006, "Credit Risk Scorecards", chapter 8)."""
BY_CHANCE: Final = 0.0001
"""How often a PSI above `Drift.chance` comes without drift, of independent ROIs. So seldom because seven numbers are
looked at, and because several ROIs come from one film: the published test part of MIAS has one of 0.6 against train."""
BOUNDS: Final = (0.01, 0.99)
"""Quantiles of the reference between which most of what is served is expected."""
N_LISTED: Final = 10
N_NEWEST: Final = 5000
"""Different ROIs that a comparison looks at: what the jackknife of its interval has memory for."""


@dataclass(frozen=True)
class Drift(Result):
    """One number of the served ROIs against its reference.

    Attributes:
        name: a statistic of grey levels, or of the champion's votes.
        n, n_reference: different ROIs behind the two.
        psi: population stability index; NaN where too few were served.
        chance: what it stays below where nothing drifted, but for `BY_CHANCE`.
        word: `none`, `some`, `large`, or `too few`.
    """

    name: str
    n: int
    n_reference: int
    psi: OrNaN
    chance: OrNaN
    word: str


def drift(workspace: Workspace, days: float) -> tuple[list[Drift], dict[str, Any] | None]:
    """What the service answered in the last days against the reference; Data Docs go to `reports/drift`.

    Grey levels are compared with those of the training part, votes (of the champion alone) with those that it gives
    to the validation part. A ROI that was sent again counts once. With it comes the summary of the expectations; None
    where too few ROIs were served.
    """
    from mammo.data.expectations import check
    from mammo.data.rules import of_served

    lines = list(read_log(workspace.predictions, datetime.now(UTC) - timedelta(days=days)))
    if not lines:
        raise DataError(
            f"{workspace.predictions}: holds no answer of the last {days:g} days; `mammo serve` writes them"
        )
    reference, champion = asyncio.run(_reference(workspace))
    served = _served(lines, champion)
    found = [compare(name, served[name].dropna().to_numpy(dtype=float), values) for name, values in reference.items()]
    if len(served) < MIN_ANSWERS:
        return found, None
    bounds = {
        name: (float(low), float(high))
        for name, values in reference.items()
        for low, high in [np.quantile(values, BOUNDS)]
    }
    return found, check(of_served(served, bounds), workspace.reports / "drift")


async def _reference(workspace: Workspace) -> tuple[dict[str, npt.NDArray[np.float64]], str]:
    """Statistics of the training part and the champion's votes on the validation part; and its mark."""
    from mammo.serve.loaded import opened
    from mammo.serve.score import BATCH

    rois = read_parts(workspace)
    table = pd.DataFrame([statistics_of(image) for image in rois.part("train").images])
    images, rows = rois.part("val").images, []
    async with opened(workspace) as loaded:
        _check_fitted(rois.table, loaded.files)
        for start in range(0, len(images), BATCH):
            rows += await loaded.vote(images[start : start + BATCH])
    values = {name: table[name].to_numpy(dtype=float) for name in table}
    return values | {name: np.array([row[name] for row in rows]) for name in VOTES}, mark_of(rows[0])


def _check_fitted(parts: pd.DataFrame, files: "VersionFiles") -> None:
    """Refuse other ROIs than the version was fitted on, as far as its run keeps them (`DataError`)."""
    if (kept := text_of(files.run_id, FITTED)) is None:
        return
    fitted = pd.read_csv(StringIO(kept), dtype=str)[["part", "sha256"]]
    there = parts.loc[parts["split"] != "test", ["split", "sha256"]]
    if sorted(map(tuple, fitted.to_numpy())) != sorted(map(tuple, there.to_numpy())):
        raise DataError(
            f"data/: must hold the ROIs that {files.name} version {files.number} was fitted on, got others or another "
            f"split; check its commit and data out (`mammo trace {files.number}` names them)"
        )


def _served(lines: list[dict[str, Any]], champion: str) -> pd.DataFrame:
    """A row for each ROI by its pixels, preferably as the champion answered; other versions' votes are missing."""
    by_pixels: dict[str, dict[str, Any]] = {}
    for line in lines:
        of_champion = mark_of(line) == champion
        facts = {"roi_id": line["prediction_id"], "in_domain": line["in_domain"], **line["inputs"]}
        facts |= {name: line[name] if of_champion else None for name in VOTES}
        pixels = line["prediction_id"].rpartition(".")[2]
        if of_champion or pixels not in by_pixels:
            by_pixels[pixels] = facts
    return pd.DataFrame(by_pixels.values())


def mark_of(row: dict[str, Any]) -> str:
    """Number and weights of the version that gave an answer, as `Version.mark`: other stores count from 1 too."""
    return str(row.get("prediction_id", "")).rpartition(".")[0]


def compare(name: str, served: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> Drift:
    """Judge one number, served `(n,)` against the reference `(m,)`.

    The words hold only above chance: with few ROIs the index is large by itself. Without drift it is about
    (1/n + 1/m) times a chi-squared variable with one degree of freedom less than there are bins (Yurdakul and Naranjo
    2020, "Statistical properties of the population stability index", doi 10.21314/JRMV.2020.227).
    """
    if len(served) < MIN_ANSWERS:
        return Drift(name, len(served), len(reference), np.nan, np.nan, "too few")
    index, n_bins = psi(served, reference)
    chance = float(chdtri(n_bins - 1, BY_CHANCE)) * (1 / len(served) + 1 / len(reference))
    above = index > chance if n_bins > 1 else False
    word = "large" if above and index >= LARGE else "some" if above and index >= SOME else "none"
    return Drift(name, len(served), len(reference), index, chance, word)


def psi(served: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Population stability index: the sum over bins of (a - e) ln(a / e), and the number of bins.

    a and e are the shares of served and reference in a bin; the bins end at the reference's deciles, of which equal
    ones count once. Half an observation stands for none served, since the logarithm has no value there.
    Source: Siddiqi 2006, "Credit Risk Scorecards", chapter 8; it is Jeffreys' divergence of the two histograms.
    """
    ends = np.unique(np.quantile(reference, np.arange(1, N_BINS) / N_BINS, method="inverted_cdf"))
    ends = ends[ends < reference.max()]
    shares = [
        np.maximum(np.bincount(np.searchsorted(ends, values), minlength=len(ends) + 1), 0.5) / len(values)
        for values in (served, reference)
    ]
    actual, expected = shares
    return float(((actual - expected) * np.log(actual / expected)).sum()), len(ends) + 1


@dataclass(frozen=True)
class Agreement(Result):
    """Two versions on the ROIs that both voted on; a ROI that was sent again counts once.

    Attributes:
        champion, challenger: as `Version.mark`.
        agreement: share of ROIs that got the same label, with Wilson's interval.
        difference: mean absolute difference of the probabilities of Tumor, with a bootstrap interval over ROIs.
        disagreements: at most ten ROIs with two labels, the most different first; `prediction_id`, and `label` and
            `probability` by both.
    """

    champion: str
    challenger: str
    agreement: Estimate
    difference: Estimate
    disagreements: list[dict[str, Any]]


def agreements(workspace: Workspace) -> list[Agreement]:
    """What the prediction log tells of each pair of versions that voted on the same ROIs."""
    by_pair: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in read_log(workspace.predictions):
        if (other := line["challenger"]) and mark_of(other):
            by_pair.setdefault((mark_of(line), mark_of(other)), {})[line["prediction_id"]] = line
    how = Config.load_own(workspace.params).evaluate.resampling
    return [_of(pair, list(lines.values()), how) for pair, lines in sorted(by_pair.items())]


def _of(pair: tuple[str, str], lines: list[dict[str, Any]], how: Resampling) -> Agreement:
    newest = sorted(lines, key=lambda line: str(line["time"]))[-N_NEWEST:]
    answers = [(line, line["challenger"]) for line in newest]
    apart = np.array([abs(one["probability"] - other["probability"]) for one, other in answers])
    differ = [number for number, (one, other) in enumerate(answers) if one["label"] != other["label"]]
    listed = [
        {"prediction_id": answers[number][0]["prediction_id"]}
        | {name: [one[name] for one in answers[number]] for name in ("label", "probability")}
        for number in sorted(differ, key=lambda number: -apart[number])[:N_LISTED]
    ]
    return Agreement(
        *pair,
        wilson(len(answers) - len(differ), len(answers), how["confidence"]),
        bootstrap(lambda weights: weights @ apart / np.maximum(weights.sum(axis=1), 1), np.arange(len(apart)), **how),
        listed,
    )
