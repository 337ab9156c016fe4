"""How far a challenger that answered unseen agrees with the champion."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.evaluation.intervals import Estimate, Result, bootstrap, wilson
from mammo.serve.log import read_log

N_LISTED: Final = 10
N_NEWEST: Final = 5000
"""Different ROIs that a comparison looks at: what the jackknife of its interval has memory for."""


@dataclass(frozen=True)
class Agreement(Result):
    """Two versions on the ROIs that both voted on; a ROI that was sent again counts once.

    Attributes:
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


def agreement(workspace: Workspace, champion: str, challenger: str) -> Agreement:
    """What the prediction log tells of two versions; `n` is 0 where they never voted on the same ROI.

    Raises:
        DataError: the log is damaged.
    """
    pair = champion, challenger
    return _of(workspace, pair, _shadowed(workspace).get(pair, []))


def agreements(workspace: Workspace) -> list[Agreement]:
    """The `agreement` of each pair of versions in the prediction log."""
    return [_of(workspace, pair, lines) for pair, lines in sorted(_shadowed(workspace).items())]


def _shadowed(workspace: Workspace) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The newest lines with a challenger's answer, one for each ROI, by the versions of champion and challenger."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in read_log(workspace.predictions):
        if other := line["challenger"]:
            found.setdefault((line["model_version"], other["model_version"]), {})[line["prediction_id"]] = (
                line
            )
    return {
        pair: sorted(lines.values(), key=lambda line: str(line["time"]))[-N_NEWEST:]
        for pair, lines in found.items()
    }


def _of(workspace: Workspace, pair: tuple[str, str], lines: list[dict[str, Any]]) -> Agreement:
    how = Config.load_own(workspace.params).evaluate.resampling
    answers = [(line, line["challenger"]) for line in lines]
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
        bootstrap(
            lambda weights: weights @ apart / np.maximum(weights.sum(axis=1), 1), np.arange(len(apart)), **how
        ),
        listed,
    )
