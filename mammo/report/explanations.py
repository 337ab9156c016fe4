"""Explanations of decisions: the picture of one, and the ROIs that the report explains."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import PHANTOM
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.splits import read_parts
from mammo.evaluation.metrics import FloatArray, IntArray
from mammo.models.bundle import load_bundle
from mammo.report.canvas import (
    INK,
    SCORE_COLOURS,
    SCORES,
    draw_colour_bar,
    new_figure,
    png,
    save,
    shorten,
    show_pixels,
)
from mammo.report.rois import frame_first_patch, tally
from mammo.serve.explanation import ALL_BLOCKS, Explanation, explain
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer

_SMALLEST_STEP_PX: Final = 9
"""Scores of patches whose centres lie closer than this are not written: they would not be legible."""

RULE: Final = (
    "Picked by rule, not by eye: of the ROIs of the test part, the one that is farthest from the decision threshold "
    "among the rightly called Tumor, the rightly called Normal, the missed Tumor and the false alarms, and the "
    "2 that are nearest to it. Equal distances are ordered by the mean score's distance from 0.5, then by name."
)
_SUREST: Final = {
    ("Tumor", "Tumor"): "Surest rightly called Tumor",
    ("Normal", "Normal"): "Surest rightly called Normal",
    ("Tumor", "Normal"): "Surest missed Tumor",
    ("Normal", "Tumor"): "Surest false alarm",
}
"""(truth, decision) → why its surest ROI is picked."""


@dataclass(frozen=True)
class Example:
    """A picked ROI: why it was picked, and its row in the predictions (0 is the first below the header)."""

    reason: str
    roi_id: str
    row: int


def explanation_figure(
    explained: Explanation, *, name: str, model: str, truth: str | None, synthetic: bool
) -> Figure:
    """Draw the ROI, its vote map with every patch score, and its Grad-CAM, all in the same orientation.

    Args:
        explained: the decision laid over the ROI.
        name: its roi_id, or the file that it was read from.
        model: the model that voted, such as `mammo-roi v2`.
        truth: `Normal` or `Tumor`; None where it is not known.
        synthetic: the ROI or the model's training data are phantoms.
    """
    vote, corners, size_px = explained.vote, explained.corners, explained.size_px
    title = f"{shorten(name, 32)}: called {vote.label}, {tally(vote)} (share {vote.vote_share:.2f}), "
    title += f"mean score {vote.score:.2f}"
    note = f"{'truth not known' if truth is None else f'truth: {truth}'} · model {model} ({explained.system})"
    if synthetic:
        title, note = f"PHANTOM {title}", f"{PHANTOM} data, not a patient · {note}"
    figure = new_figure(11.6, 4.7, title, note)
    (roi, votes, cam), bars = figure.subplots(2, 3, height_ratios=(4.2, 0.16))
    bars[0].set_axis_off()
    cover = _cover(explained.coverage)
    blocks = "all blocks" if explained.block == ALL_BLOCKS else explained.block
    agreement = f"its sign fits {explained.n_agreeing} of {len(corners)} scores"
    headings = {
        roi: f"ROI\n{len(corners)} patches of {size_px} pixels; dashed: the first",
        votes: f"Vote map: mean score\nof the {cover}",
        cam: f"Grad-CAM of {blocks}; {agreement}\nmean of the {cover}",
    }
    for axes, heading in headings.items():
        show_pixels(axes, explained.image, heading, 9)
        axes.spines[:].set_visible(False)
    frame_first_patch(roi, corners, size_px)

    middle = explained.patch_threshold
    norm = TwoSlopeNorm(middle, 0, 1) if 0 < middle < 1 else SCORES
    label = f"score: probability of Tumor (bold: above {middle:.2f}, votes Tumor)"
    _overlay(votes, bars[1], explained.vote_map, norm, [0, middle / 2, middle, (1 + middle) / 2, 1], label)
    steps = np.diff(np.unique(corners))
    if not len(steps) or steps.min() >= _SMALLEST_STEP_PX:
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK}
        text["path_effects"] = [withStroke(linewidth=2.2, foreground="white")]
        centres = corners + size_px / 2 - 0.5
        for (row, column), score, voted in zip(centres, vote.patch_scores, vote.votes, strict=True):
            votes.text(column, row, f"{score:.2f}", weight="bold" if voted else "normal", **text)

    reach = float(np.nanmax(np.abs(explained.grad_cam))) or 1.0
    label = "for Normal (below 0), for Tumor (above 0); this ROI's own scale"
    ticks = [-reach, -reach / 2, 0, reach / 2, reach]
    _overlay(cam, bars[2], explained.grad_cam, Normalize(-reach, reach), ticks, label)
    return figure


def _cover(coverage: IntArray) -> str:
    """How many patches lie over a pixel, and whether some lie under none."""
    low, high = int(coverage[coverage > 0].min()), int(coverage.max())
    span = f"{low} to {high}" if low < high else f"{high}"
    words = f"{span} {'patch' if high == 1 else 'patches'} over each pixel"
    return words if coverage.all() else f"{words}; hatched: no patch"


def _overlay(
    axes: Axes, bar: Axes, values: FloatArray, norm: Normalize, ticks: list[float], label: str
) -> None:
    """Lay a map over its ROI, hatched where no patch tells anything, and say in `bar` what its colours mean."""
    axes.imshow(values, cmap=SCORE_COLOURS, norm=norm, alpha=0.55, interpolation="nearest")
    if np.isnan(values).any():
        axes.contourf(np.isnan(values), levels=[0.5, 1], hatches=["////"], colors="none")
    words = FuncFormatter(lambda value, _: f"{value:.2g}".replace("-", "−"))
    draw_colour_bar(axes.figure, SCORE_COLOURS, norm, label, cax=bar, ticks=ticks, format=words)


def write_explanations(explained: Sequence[tuple[dict[str, Any], Explanation]], folder: Path) -> list[Path]:
    """Draw each row of `serve.predict.explain_rois` into the folder; returns the pictures' paths."""
    paths = picture_paths([row["roi"] for row, _ in explained], folder)
    for (row, found), path in zip(explained, paths, strict=True):
        model = f"{row['model_name']} v{row['model_version']}"
        about = {"name": row["roi"], "truth": row["truth"], "synthetic": row["synthetic"]}
        save(explanation_figure(found, model=model, **about), path)
    return paths


def picture_paths(names: Sequence[str], folder: Path) -> list[Path]:
    """A PNG for each name: its last two parts, with a number where two names would share one."""
    taken: list[str] = []
    for name in names:
        path = Path(name)
        parts = [*path.parts[-2:-1], path.stem if path.is_file() else path.name]
        stem = re.sub(r"[^\w.]+", "-", "-".join(parts)).strip("-.") or "roi"
        numbered = (f"{stem}-{number}" for number in count(2))
        taken.append(next(free for free in chain([stem], numbered) if free not in taken))
    return [folder / f"{stem}.png" for stem in taken]


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
    order = ["distance", "sureness", "roi_id"]
    surest = rows.sort_values(order, ascending=[False, False, True]).drop_duplicates(["label", "decision"])
    nearest = rows.drop(index=surest.index).sort_values(order).head(2)
    kind_of = {(row.label, row.decision): row for row in surest.itertuples()}
    picked: list[tuple[str, Any]] = [
        (reason, kind_of[kind]) for kind, reason in _SUREST.items() if kind in kind_of
    ]
    picked += [("Nearest to the threshold", row) for row in nearest.itertuples()]
    return [Example(reason, str(row.roi_id), int(row.Index)) for reason, row in picked]


def draw_examples(
    workspace: Workspace, config: Config, system: str, model_name: str, examples: Sequence[Example]
) -> list[bytes]:
    """Draw the explanation of each picked ROI as a PNG."""
    if not examples:
        return []
    test = read_parts(workspace).part("test")
    rows = pd.Index(test.table["roi_id"]).get_indexer([example.roi_id for example in examples])
    bundle = load_bundle(workspace.bundle(system))
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    pictures = []
    for row, example, found in zip(rows, examples, explain(scorer, test.images[rows]), strict=True):
        truth, synthetic = Label(int(test.labels[row])).title, bundle.synthetic or test.synthetic
        name = example.roi_id
        figure = explanation_figure(found, name=name, model=model_name, truth=truth, synthetic=synthetic)
        pictures.append(png(figure))
    return pictures
