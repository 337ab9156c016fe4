"""The ROIs that the report explains, picked by a rule that the report states."""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import pandas as pd

from mammo.core.config import Config, VoteConfig
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.splits import read_parts
from mammo.models.bundle import load_bundle
from mammo.report.explanations import Subject, explanation_figure
from mammo.serve.explanation import explain
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer

NEAREST: Final = 2

RULE: Final = (
    "Picked by rule, not by eye: of the ROIs of the test part, the one that is farthest from the decision threshold "
    "among the rightly called Tumor, the rightly called Normal, the missed Tumor and the false alarms, and the "
    f"{NEAREST} that are nearest to it. Equal distances are ordered by the mean score's distance from 0.5, then by "
    "name."
)


@dataclass(frozen=True)
class Example:
    """A picked ROI: why it was picked, and its row in the predictions (0 is the first below the header)."""

    reason: str
    roi_id: str
    row: int


def pick_examples(predictions: pd.DataFrame, system: str, vote: VoteConfig) -> list[Example]:
    """Pick ROIs by `RULE`; a kind that does not occur is left out, and no ROI is picked twice.

    Args:
        predictions: `roi_id`, `system`, `label`, `decision`, `vote_share`, `score` of every system and ROI.
        system: whose decisions count.
        vote: its rule, which says what is compared with which threshold.
    """
    rows = predictions[predictions["system"] == system]
    evidence = rows["vote_share"] if vote.rule == "majority" else rows["score"]
    rows = rows.assign(
        distance=(evidence - vote.share_threshold).abs().round(9), sureness=(rows["score"] - 0.5).abs()
    )
    surest = rows.sort_values(["distance", "sureness", "roi_id"], ascending=[False, False, True])
    nearest = rows.sort_values(["distance", "sureness", "roi_id"])
    tumor, called = surest["label"] == Label.TUMOR.title, surest["decision"] == Label.TUMOR.title
    kinds = [
        ("Surest rightly called Tumor", surest[tumor & called].head(1)),
        ("Surest rightly called Normal", surest[~tumor & ~called].head(1)),
        ("Surest missed Tumor", surest[tumor & ~called].head(1)),
        ("Surest false alarm", surest[~tumor & called].head(1)),
    ]
    taken = {index for _, found in kinds for index in found.index}
    kinds.append(("Nearest to the threshold", nearest[~nearest.index.isin(taken)].head(NEAREST)))
    return [
        Example(reason, str(roi_id), int(row))
        for reason, found in kinds
        for row, roi_id in zip(found.index.to_numpy(), found["roi_id"], strict=True)
    ]


def draw_examples(
    space: Workspace, config: Config, system: str, model_name: str, examples: list[Example]
) -> list[bytes]:
    """Draw the explanation of each picked ROI as a PNG."""
    if not examples:
        return []
    test = read_parts(space).part("test")
    row_of = {roi_id: row for row, roi_id in enumerate(test.table["roi_id"])}
    rows = [row_of[example.roi_id] for example in examples]
    bundle = load_bundle(space.bundle(system))
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    pictures = []
    for row, explained in zip(rows, explain(scorer, test.images[np.array(rows)]), strict=True):
        subject = Subject(
            name=str(test.table["roi_id"][row]),
            model=f"{model_name} ({system})",
            truth=Label(int(test.labels[row])).title,
            synthetic=bundle.synthetic or bool(test.table["synthetic"][row]),
        )
        content = BytesIO()
        explanation_figure(test.images[row], explained, subject).savefig(
            content, format="png", metadata={"Software": None}
        )
        pictures.append(content.getvalue())
    return pictures
