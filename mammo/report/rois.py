"""Pictures of decided ROIs: votes, sheets of errors, explanations, and which ROIs the report explains.

`corners` are top and left of each patch in pixels, in the order of a vote's scores, shape `(n_patches, 2)`; a data note
says what the picture rests on.
"""

import math
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
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import PHANTOM
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.decode import GreyImage
from mammo.data.splits import read_parts
from mammo.evaluation.metrics import FloatArray, IntArray
from mammo.evaluation.voting import RoiVote
from mammo.models.bundle import load_bundle
from mammo.report import canvas
from mammo.systems.devices import choose_device
from mammo.systems.explanation import ALL_BLOCKS, Explanation, explain
from mammo.systems.score import RoiScorer

MAX_TILES: Final = 24
_LARGEST_WRITTEN_GRID: Final = 7
"""Grids of more rows or columns than this show colours only: numbers would not be legible."""
_SMALLEST_STEP_PX: Final = 9
"""Scores of patches whose centres lie closer than this are not written, for the same reason."""

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
class VotedRoi:
    """A ROI with its truth and its votes: `image` is grey, shape `(side, side)`."""

    roi_id: str
    image: GreyImage
    label: Label
    vote: RoiVote


@dataclass(frozen=True)
class Example:
    """A picked ROI: why it was picked, and its row in the predictions (0 is the first below the header)."""

    reason: str
    roi_id: str
    row: int


def vote_picture(image: GreyImage, vote: RoiVote, corners: IntArray, size_px: int, path: Path, data_note: str) -> None:
    """Draw one ROI, `(side, side)`, with its patches' centres and, beside it, the map of its votes."""
    title = f"Called {vote.label}: {_tally(vote)}, mean score {vote.score:.2f}"
    figure = canvas.new_figure(9.2, 4.5, title, data_note)
    roi, votes = figure.subplots(1, 2)
    canvas.show_pixels(roi, image, "ROI; dots: patch centres; dashed: first patch", 9)
    rows, columns = (corners + size_px / 2 - 0.5).T
    dots: dict[str, Any] = {"s": 26, "zorder": 3, "edgecolors": canvas.INK, "linewidths": 0.6}
    roi.scatter(columns, rows, c=vote.patch_scores, cmap=canvas.SCORE_COLOURS, norm=canvas.SCORES, **dots)
    _frame_first_patch(roi, corners, size_px)
    _draw_votes(votes, vote, corners, "Vote of each patch, where its centre lies", 9, number_pt=11)
    _explain_votes(figure, [roi, votes])
    canvas.save(figure, path)


def wrong_rois_sheet(rois: Sequence[VotedRoi], corners: IntArray, path: Path, data_note: str, *, title: str) -> None:
    """Draw every wrongly decided ROI beside its vote map: missed Tumor ROIs first, the surest errors leading.

    At most `MAX_TILES` of all judged `rois` are drawn; the heading after `title` says how many there are.
    """

    def severity(roi: VotedRoi) -> tuple[bool, float]:
        missed = roi.label == Label.TUMOR
        return not missed, roi.vote.vote_share if missed else -roi.vote.vote_share

    wrong = sorted((roi for roi in rois if roi.vote.label != roi.label.title), key=severity)
    shown = wrong[:MAX_TILES]
    heading = f"{title}: {len(wrong)} of {len(rois)} ROIs decided wrongly"
    if len(wrong) > len(shown):
        heading += f", the first {len(shown)} shown"
    if not shown:
        canvas.save(canvas.empty_figure(heading, data_note, "no ROI was decided wrongly"), path)
        return
    columns, rows = min(3, len(shown)), math.ceil(len(shown) / 3)
    figure = canvas.new_figure(max(6.6, 4.3 * columns), 2.4 * rows + 0.6, heading, data_note)
    # The third column of each tile is empty: it keeps a ROI nearer to its own votes than to the next ROI.
    grid = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=(1, 1, 0.08) * columns)
    for axes in (*grid.ravel()[3 * len(shown) :], *grid[:, 2::3].ravel()):
        axes.set_axis_off()
    for (left, right, _), roi in zip(grid.reshape(-1, 3), shown, strict=False):
        canvas.show_pixels(
            left, roi.image, f"{canvas.shorten(roi.roi_id, 26)}\n{roi.label.title}, called {roi.vote.label}"
        )
        left.spines[:].set(color=canvas.LABEL_COLOURS[roi.label], linewidth=2)
        _draw_votes(right, roi.vote, corners, _tally(roi.vote).replace(" voted", "\nvoted"), 8, number_pt=6.5)
    _explain_votes(figure, list(grid.ravel()))
    canvas.save(figure, path)


def _draw_votes(axes: Axes, vote: RoiVote, corners: IntArray, title: str, title_pt: float, number_pt: float) -> None:
    """Draw the score of each patch as a cell of the grid, framed where it voted Tumor."""
    rows, row_of = np.unique(corners[:, 0], return_inverse=True)
    columns, column_of = np.unique(corners[:, 1], return_inverse=True)
    scores = np.full((len(rows), len(columns)), np.nan)
    scores[row_of, column_of] = vote.patch_scores
    canvas.show_pixels(axes, scores, title, title_pt, canvas.SCORE_COLOURS, canvas.SCORES)
    axes.spines[:].set_visible(False)
    for row, column, score, voted in zip(row_of, column_of, vote.patch_scores, vote.votes, strict=True):
        if voted:
            frame: dict[str, Any] = {"fill": False, "edgecolor": canvas.INK, "linewidth": 1.3}
            axes.add_patch(Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, **frame))
        if max(scores.shape) <= _LARGEST_WRITTEN_GRID:
            # Only the deep blue end is too dark for ink.
            colour = "white" if score < 0.18 else canvas.INK
            axes.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=number_pt, color=colour)


def _explain_votes(figure: Figure, axes: list[Axes]) -> None:
    label = "patch score: probability of Tumor (framed cells voted Tumor)"
    canvas.draw_colour_bar(
        figure, canvas.SCORE_COLOURS, canvas.SCORES, label, ax=axes, aspect=60, shrink=0.6, pad=0.015
    )


def _frame_first_patch(axes: Axes, corners: IntArray, size_px: int) -> None:
    """Frame the first patch in dashes that can be seen on bright and on dark tissue: white on ink."""
    top, left = corners[0]
    for colour, dashes in ((canvas.INK, "solid"), ("white", (0, (4, 4)))):
        frame: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": dashes, "zorder": 1.5}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), size_px, size_px, **frame))


def _tally(vote: RoiVote) -> str:
    return f"{sum(vote.votes)} of {len(vote.votes)} patches voted Tumor"


def explanation_figure(found: Explanation, *, name: str, model: str, truth: str | None, synthetic: bool) -> Figure:
    """Draw the ROI, its vote map with every patch score, and its Grad-CAM, all in the same orientation.

    `name` is its roi_id or its file, `truth` `Normal` or `Tumor` where it is known; what is `synthetic` is the ROI, or
    what the `model`, such as `mammo-roi v2`, learned from.
    """
    vote, corners, size_px, middle = found.vote, found.corners, found.size_px, found.patch_threshold
    title = f"{canvas.shorten(name, 32)}: called {vote.label}, {_tally(vote)} (share {vote.vote_share:.2f}), "
    title += f"mean score {vote.score:.2f}"
    note = f"{'truth not known' if truth is None else f'truth: {truth}'} · model {model} ({found.system})"
    if synthetic:
        title, note = f"PHANTOM {title}", f"{PHANTOM} data, not a patient · {note}"
    figure = canvas.new_figure(11.6, 4.7, title, note)
    (roi, votes, cam), bars = figure.subplots(2, 3, height_ratios=(4.2, 0.16))
    bars[0].set_axis_off()
    low, high = int(found.coverage[found.coverage > 0].min()), int(found.coverage.max())
    span = f"{low} to {high}" if low < high else f"{high}"
    cover = f"{span} {'patch' if high == 1 else 'patches'} over each pixel"
    cover += "" if found.coverage.all() else "; hatched: no patch"
    blocks = "all blocks" if found.block == ALL_BLOCKS else found.block
    agreement = f"its sign fits {found.n_agreeing} of {len(corners)} logits"
    headings = {
        roi: f"ROI\n{len(corners)} patches of {size_px} pixels; dashed: the first",
        votes: f"Vote map: mean score\nof the {cover}",
        cam: f"Grad-CAM of {blocks}; {agreement}\nmean of the {cover}",
    }
    for axes, heading in headings.items():
        canvas.show_pixels(axes, found.image, heading, 9)
        axes.spines[:].set_visible(False)
    _frame_first_patch(roi, corners, size_px)

    norm = TwoSlopeNorm(middle, 0, 1) if 0 < middle < 1 else canvas.SCORES
    label = f"score: probability of Tumor (bold: above {middle:.2f}, votes Tumor)"
    _overlay(votes, bars[1], found.vote_map, norm, [0, middle / 2, middle, (1 + middle) / 2, 1], label)
    steps = np.diff(np.unique(corners))
    if not len(steps) or steps.min() >= _SMALLEST_STEP_PX:
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": canvas.INK}
        text["path_effects"] = [withStroke(linewidth=2.2, foreground="white")]
        centres = corners + size_px / 2 - 0.5
        for (row, column), score, voted in zip(centres, vote.patch_scores, vote.votes, strict=True):
            votes.text(column, row, f"{score:.2f}", weight="bold" if voted else "normal", **text)

    reach = float(np.nanmax(np.abs(found.grad_cam))) or 1.0
    label = "for Normal (below 0), for Tumor (above 0); this ROI's own scale"
    ticks = [-reach, -reach / 2, 0, reach / 2, reach]
    _overlay(cam, bars[2], found.grad_cam, Normalize(-reach, reach), ticks, label)
    return figure


def _overlay(axes: Axes, bar: Axes, values: FloatArray, norm: Normalize, ticks: list[float], label: str) -> None:
    """Lay a map over its ROI, hatched where no patch tells anything, and say in `bar` what its colours mean."""
    axes.imshow(values, cmap=canvas.SCORE_COLOURS, norm=norm, alpha=0.55, interpolation="nearest")
    if np.isnan(values).any():
        axes.contourf(np.isnan(values), levels=[0.5, 1], hatches=["////"], colors="none")
    words = FuncFormatter(lambda value, _: f"{value:.2g}".replace("-", "−"))
    canvas.draw_colour_bar(axes.figure, canvas.SCORE_COLOURS, norm, label, cax=bar, ticks=ticks, format=words)


def write_explanations(explained: Sequence[tuple[dict[str, Any], Explanation]], folder: Path) -> list[Path]:
    """Draw each row of `serve.predict.explain_rois` into the folder; returns the pictures' paths."""
    paths = picture_paths([row["roi"] for row, _ in explained], folder)
    for (row, found), path in zip(explained, paths, strict=True):
        model = f"{row['model_name']} v{row['model_version']}"
        about = {"name": row["roi"], "truth": row["truth"], "synthetic": row["synthetic"]}
        canvas.save(explanation_figure(found, model=model, **about), path)
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
    """Pick ROIs of a system by `RULE`; a kind that does not occur is left out, and no ROI is picked twice.

    `predictions` has `roi_id`, `system`, `label`, `decision`, `vote_share`, `score`; the rule of `vote` says what is
    compared with which threshold.
    """
    rows = predictions[predictions["system"] == system]
    evidence = rows["vote_share"] if vote.rule == "majority" else rows["score"]
    rows = rows.assign(distance=(evidence - vote.share_threshold).abs().round(9), sureness=(rows["score"] - 0.5).abs())
    order = ["distance", "sureness", "roi_id"]
    surest = rows.sort_values(order, ascending=[False, False, True]).drop_duplicates(["label", "decision"])
    nearest = rows.drop(index=surest.index).sort_values(order).head(2)
    kind_of = {(row.label, row.decision): row for row in surest.itertuples()}
    picked: list[tuple[str, Any]] = [
        *((reason, kind_of[kind]) for kind, reason in _SUREST.items() if kind in kind_of),
        *(("Nearest to the threshold", row) for row in nearest.itertuples()),
    ]
    return [Example(reason, str(row.roi_id), int(row.Index)) for reason, row in picked]


def draw_examples(
    workspace: Workspace, config: Config, system: str, model_name: str, examples: Sequence[Example]
) -> list[bytes]:
    """The explanation of each picked ROI of the test part as a PNG."""
    if not examples:
        return []
    test, bundle = read_parts(workspace).part("test"), load_bundle(workspace.bundle(system))
    rows = pd.Index(test.table["roi_id"]).get_indexer([example.roi_id for example in examples])
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    about: dict[str, Any] = {"model": model_name, "synthetic": bundle.synthetic or test.synthetic}
    truths = (Label(int(label)).title for label in test.labels[rows])
    return [
        canvas.png(explanation_figure(found, name=example.roi_id, truth=truth, **about))
        for example, truth, found in zip(examples, truths, explain(scorer, test.images[rows]), strict=True)
    ]
