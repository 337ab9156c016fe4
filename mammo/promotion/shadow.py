"""How far a challenger that answered unseen agrees with the champion."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mammo.core.config import Config, Resampling
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


def agreements(workspace: Workspace) -> list[Agreement]:
    """What the prediction log tells of each pair of versions that voted on the same ROIs.

    Raises:
        DataError: the log is damaged.
    """
    by_pair: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in read_log(workspace.predictions):
        if other := line["challenger"]:
            lines = by_pair.setdefault((line["model_version"], other["model_version"]), {})
            lines[line["prediction_id"]] = line
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
        bootstrap(
            lambda weights: weights @ apart / np.maximum(weights.sum(axis=1), 1), np.arange(len(apart)), **how
        ),
        listed,
    )
