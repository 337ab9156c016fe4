"""What a version must show before it becomes champion, judged by the evaluation that lies with its run in MLflow."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mammo.core.config import Config
from mammo.core.errors import DataError, MammoError
from mammo.core.systems import FLOOR
from mammo.evaluation.calibration import expected_calibration_error
from mammo.evaluation.comparison import auc_difference
from mammo.evaluation.intervals import Estimate, percent
from mammo.evaluation.scores import Scores, read_predictions
from mammo.track.check import BUNDLE_TAG, EVALUATION_TAG
from mammo.track.registry import Version
from mammo.track.store import find_run, first_line

PREDICTIONS: Final = "evaluate/predictions.csv"
RESULTS: Final = "evaluate/results.json"
FLAGGED: Final = "audit/flagged_rois.csv"
AUDIT: Final = "audit/summary.json"
EXPECTATIONS: Final = tuple(f"expectations/{name}.json" for name in ("rois", "leakage", "patches"))
LOADS: Final = "loads and votes"
"""The gate that nobody passes by force."""

Found = tuple[str, bool]
"""A value in words, and whether the gate holds."""


@dataclass(frozen=True)
class Gate:
    """A condition, what was found, what was asked for, and whether it holds."""

    name: str
    value: str
    bound: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.name}: must be {self.bound}, got {self.value}"


@dataclass(frozen=True)
class Evidence:
    """A version, and the artifacts of its run that speak for it, in a folder."""

    version: Version
    folder: Path
    elsewhere: str = ""
    """Why the run's artifacts are not about this version."""

    def file(self, name: str) -> Path:
        """An artifact; `DataError` where the run has none."""
        path, version = self.folder / name, self.version
        if not path.is_file():
            why = self.elsewhere or f"is not with its run {version.run_id[:8] or '(it has none)'}"
            raise DataError(f"version {version.number}: {name} {why}; `dvc repro` writes it where it was trained")
        return path

    def json(self, name: str) -> dict[str, Any]:
        """Likewise, read."""
        values: dict[str, Any] = json.loads(self.file(name).read_bytes())
        return values

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """What each system said about each ROI of the test part that shares no tissue with another, by `roi_id`.

        Where the list of those that do is missing, a gate of its own says so.
        """
        table = read_predictions(self.file(PREDICTIONS))
        if (flagged := self.folder / FLAGGED).is_file():
            leaked = pd.read_csv(flagged, dtype=str).dropna(subset="tissue_in")["roi_id"]
            table = table[~table["roi_id"].isin(leaked)]
        return table.set_index("roi_id").sort_index()

    def scores(self, system: str) -> Scores:
        """Judgements of one system.

        Raises:
            DataError: there is none.
        """
        rows = self.predictions[self.predictions["system"] == system]
        if rows.empty:
            raise DataError(f"version {self.version.number}: {PREDICTIONS} holds no ROI that {system!r} judged")
        return Scores.of_predictions(rows.reset_index())

    @property
    def own(self) -> Scores:
        """Judgements of the version's system."""
        return self.scores(self.version.system)


def evidence_of(client: MlflowClient, version: Version, folder: Path) -> Evidence:
    """Fetch what a version's run holds into a folder; what it does not hold is missing there.

    A bundle that was trained again has several runs: its evidence goes to the newest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tested = find_run(client, version.bundle_sha256, EVALUATION_TAG)
        version = replace(version, run_id=tested or version.run_id)
        made = client.get_run(version.run_id).data.tags.get(BUNDLE_TAG)
        if made != version.bundle_sha256:
            return Evidence(version, folder, "speaks of another bundle: the run made and tested that one")
        for parent in ("evaluate", "audit", "expectations"):
            held = {item.path for item in client.list_artifacts(version.run_id, parent)}
            for name in held & {PREDICTIONS, RESULTS, FLAGGED, AUDIT, *EXPECTATIONS}:
                (folder / parent).mkdir(exist_ok=True)
                # A store of files puts them elsewhere below the folder than a server does.
                Path(client.download_artifacts(version.run_id, name, str(folder))).replace(folder / name)
    except (MlflowException, OSError) as error:
        return Evidence(version, folder, f"cannot be had from its run ({first_line(error)})")
    return Evidence(version, folder)


def judged(
    config: Config,
    candidate: Evidence,
    champion: Evidence | None,
    load: Callable[[], float],
    agreement: Callable[[], Estimate | None] = lambda: None,
) -> list[Gate]:
    """Every gate, in the order of the table.

    `load` loads the candidate, has it vote, and gives the seconds of a vote. `agreement` gives the share of shadowed
    answers that agree with the champion's, where there are any.
    """
    asked, seconds, alone = config.promote, float("nan"), ""
    if champion is None:
        alone = "there is no champion"
    elif champion.version.synthetic and candidate.version.synthetic is False:
        alone = "the champion knows phantoms alone: not compared"

    def loads(_: float) -> Found:
        nonlocal seconds
        seconds = load()
        return "it does", True

    def latency(most: float) -> Found:
        return f"{seconds:.3f} s", seconds <= most

    def beats_floor(over: float) -> Found:
        found = auc_difference(candidate.own, candidate.scores(FLOOR), **config.evaluate.resampling)
        return _shown(found), found.value > over

    def keeps_up(margin: float) -> Found:
        if champion is None or alone:
            return alone, True
        ours, theirs = (one.json(RESULTS)["data"]["source"] for one in (candidate, champion))
        if ours != theirs:
            return f"judged on ROIs of {ours}, the champion on those of {theirs}", False
        both = candidate.own, champion.own
        known = (set(zip(one.roi_ids, one.labels, strict=True)) for one in both)
        same = np.array([roi for roi, _ in set.intersection(*known)], dtype=object)
        found = auc_difference(*(one.only(same) for one in both), **config.evaluate.resampling)
        # Equal scores, or two that separate the classes, differ in no resample: then there is no interval. Nor has a
        # loss one where groups are few.
        alike = isnan(found.ci_low) and found.n_groups > 1 and 2 * found.n_undefined < config.evaluate.n_bootstrap
        return _shown(found), found.value >= 0 if alike else found.ci_low >= -margin

    def calibrated(most: float) -> Found:
        own, bins = candidate.own, config.evaluate
        assert own.probabilities is not None
        error = expected_calibration_error(own.labels, own.probabilities[0], binning=bins.binning, n_bins=bins.n_bins)
        return f"{error:.3f}", error <= most

    def recall(least: float) -> Found:
        own = candidate.own
        found, n_tumor = int(own.decisions[0] @ own.labels), int(own.labels.sum())
        return f"{found} of {n_tumor}", n_tumor > 0 and found / n_tumor >= least

    def expectations(_: float) -> Found:
        rules = [rule for name in EXPECTATIONS for rule in candidate.json(name)["expectations"].items()]
        broken = [name for name, rule in rules if rule["severity"] == "critical" and not rule["kept"]]
        return ", ".join(broken) or f"{len(rules)} judged, no critical one broken", not broken

    def leak_free(_: float) -> Found:
        candidate.file(FLAGGED)
        table, audited = candidate.predictions, candidate.json(AUDIT)
        n_counted = table.index.nunique()
        n_left, n_test = audited["n_leaked_test_rois"], audited["n_test_rois"]
        return f"{n_counted} of {n_test} counted, {n_left} left out", n_counted + n_left == n_test

    def real_enough(_: float) -> Found:
        if (synthetic := candidate.version.synthetic) is None:
            raise DataError(f"version {candidate.version.number}: has no tag mammo.synthetic; `dvc repro` sets it")
        real_champion = champion is not None and champion.version.synthetic is not True
        return "of phantoms" if synthetic else "of real ROIs", not (synthetic and real_champion)

    def agrees(least: float) -> Found:
        if alone:
            return alone, True
        if (one := agreement()) is None:
            return "no answer of both in predictions/ here: see serve.shadow_share", False
        ends = f"{percent(one.confidence)} interval {one.ci_low:.3f} to {one.ci_high:.3f}"
        return f"{one.value:.3f} ({ends}; {one.n} ROIs)", one.ci_low >= least

    gates: list[tuple[str, float | None, str, Callable[[float], Found]]] = [
        (LOADS, True, "able to vote on the reference ROI", loads),
        ("latency", asked.latency_s, "at most {:g} s for a vote", latency),
        ("beats the floor", asked.over_floor, "an AUC more than {:.3f} above the floor's", beats_floor),
        (
            "not worse than the champion",
            asked.margin_auc,
            "sure to lose at most {0:.3f} of AUC: lower end of the interval not below -{0:.3f}",
            keeps_up,
        ),
        ("calibration error", asked.calibration_error, "at most {:.3f}", calibrated),
        ("recall", asked.recall, "at least {:.3f} of the Tumor ROIs", recall),
        ("expectations", asked.expectations or None, "kept, all critical ones", expectations),
        (
            "no leaked ROI",
            asked.leak_free or None,
            "judged on ROIs whose tissue no other part shows",
            leak_free,
        ),
        (
            "no phantom over real",
            asked.never_phantom_over_real or None,
            "of real ROIs, as the champion",
            real_enough,
        ),
        (
            "agreement in shadow",
            asked.shadow_agreement,
            "surely at least {:.3f} of the answers: lower end of the interval",
            agrees,
        ),
    ]
    return [_gate(*gate) for gate in gates]


def _gate(name: str, bound: float | None, words: str, find: Callable[[float], Found]) -> Gate:
    if bound is None:
        return Gate(name, "", "not asked", True)
    try:
        value, passed = find(bound)
    except MammoError as error:
        value, passed = str(error), False
    except (KeyError, ValueError) as error:
        value, passed = f"an artifact that `dvc repro` did not write ({error!r})", False
    return Gate(name, value, words.format(bound), passed)


def _shown(difference: Estimate) -> str:
    one = difference
    ends = f"{percent(one.confidence)} interval {one.ci_low:+.3f} to {one.ci_high:+.3f}"
    ends = "no interval" if isnan(one.ci_low) else ends
    return f"{one.value:+.3f} ({ends}; {one.n} ROIs, {one.n_groups} groups)"
