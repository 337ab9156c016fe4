"""ROIs with the votes that decided them: one ROI for a demonstration, a sheet of all wrong ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mammo.core.records import Label, RoiVote
from mammo.evaluation.metrics import IntArray
from mammo.report.canvas import (
    INK,
    LABEL_COLOURS,
    SCORE_COLOURS,
    draw_colour_bar,
    new_figure,
    save,
    say_empty,
)

MAX_TILES: Final = 24
_COLUMNS: Final = 3
_LARGEST_WRITTEN_GRID: Final = 7
"""Grids of more rows or columns than this show colours only: numbers would not be legible."""


@dataclass(frozen=True)
class VotedRoi:
    """A ROI with its truth and its votes: `image` is grey, shape `(side, side)`."""

    roi_id: str
    image: npt.NDArray[np.uint8]
    label: Label
    vote: RoiVote

    @property
    def wrong(self) -> bool:
        """Whether the vote missed the truth."""
        return self.vote.label != self.label.title


def vote_picture(
    image: npt.NDArray[np.uint8],
    vote: RoiVote,
    corners: IntArray,
    size_px: int,
    path: Path,
    data_note: str,
) -> None:
    """Draw one ROI with its patches' centres and, beside it, the map of its votes.

    Args:
        image: the grey ROI, shape `(side, side)`.
        vote: the decision and the patch scores behind it.
        corners: top and left of each patch in pixels, in the order of the scores, shape `(n_patches, 2)`.
        size_px: side of the patches in pixels.
        path: the PNG to write.
        data_note: which data the picture rests on.
    """
    title = f"Called {vote.label}: {_tally(vote)}, mean score {vote.score:.2f}"
    figure = new_figure(9.2, 4.5, title, data_note)
    roi_axes, map_axes = figure.subplots(1, 2)
    _draw_roi(roi_axes, image)
    centres = corners + size_px / 2 - 0.5
    roi_axes.scatter(
        centres[:, 1],
        centres[:, 0],
        c=vote.patch_scores,
        cmap=SCORE_COLOURS,
        norm=Normalize(0, 1),
        s=26,
        zorder=3,
        edgecolors=INK,
        linewidths=0.6,
    )
    top, left = corners[0]
    # White dashes on ink can be seen on bright and on dark tissue.
    for colour, dashes in ((INK, "solid"), ("white", (0, (4, 4)))):
        frame: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": dashes, "zorder": 1.5}
        roi_axes.add_patch(Rectangle((left - 0.5, top - 0.5), size_px, size_px, **frame))
    roi_axes.set_title("ROI; dots: patch centres; dashed: first patch", fontsize=9, color=INK, loc="left")
    _draw_votes(map_axes, vote, corners, number_pt=11)
    map_axes.set_title("Vote of each patch, where its centre lies", fontsize=9, color=INK, loc="left")
    _colour_bar(figure, [roi_axes, map_axes])
    save(figure, path)


def wrong_rois_sheet(
    rois: Sequence[VotedRoi], corners: IntArray, path: Path, data_note: str, *, title: str = "Wrong ROIs"
) -> None:
    """Draw every wrongly decided ROI beside its vote map: missed Tumor ROIs first, the surest errors leading.

    At most `MAX_TILES` are drawn; the title says how many there are.

    Args:
        rois: all judged ROIs; the right ones are only counted.
        corners: top and left of each patch in pixels, in the order of the scores, shape `(n_patches, 2)`.
        path: the PNG to write.
        data_note: which data the picture rests on.
        title: what the sheet is of, such as the system's name.
    """
    wrong = sorted((roi for roi in rois if roi.wrong), key=_severity)
    shown = wrong[:MAX_TILES]
    heading = f"{title}: {len(wrong)} of {len(rois)} ROIs decided wrongly"
    if len(wrong) > len(shown):
        heading += f", the first {len(shown)} shown"
    if shown:
        figure = _tiles(shown, corners, heading, data_note)
    else:
        figure = new_figure(7, 1.2, heading, data_note)
        axes = figure.subplots()
        axes.set_axis_off()
        say_empty(axes, "no ROI was decided wrongly" if rois else "no ROI was judged")
    save(figure, path)


def _tiles(shown: Sequence[VotedRoi], corners: IntArray, heading: str, data_note: str) -> Figure:
    columns, rows = min(_COLUMNS, len(shown)), math.ceil(len(shown) / _COLUMNS)
    figure = new_figure(max(6.6, 4.3 * columns), 2.4 * rows + 0.6, heading, data_note)
    # The third column of each tile is empty: it keeps a ROI nearer to its own votes than to the next ROI.
    grid = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=(1, 1, 0.08) * columns)
    for axes in (*grid.ravel()[3 * len(shown) :], *grid[:, 2::3].ravel()):
        axes.set_axis_off()
    for (roi_axes, map_axes, _), roi in zip(grid.reshape(-1, 3), shown, strict=False):
        _draw_roi(roi_axes, roi.image)
        title = f"{_shorten(roi.roi_id)}\n{roi.label.title}, called {roi.vote.label}"
        roi_axes.set_title(title, fontsize=8, color=INK, loc="left")
        roi_axes.spines[:].set(color=LABEL_COLOURS[roi.label], linewidth=2)
        _draw_votes(map_axes, roi.vote, corners, number_pt=6.5)
        map_axes.set_title(_tally(roi.vote).replace(" voted", "\nvoted"), fontsize=8, color=INK, loc="left")
    _colour_bar(figure, list(grid.ravel()))
    return figure


def _severity(roi: VotedRoi) -> tuple[bool, float]:
    missed = roi.label == Label.TUMOR
    return not missed, roi.vote.vote_share if missed else -roi.vote.vote_share


def _tally(vote: RoiVote) -> str:
    return f"{sum(vote.votes)} of {len(vote.votes)} patches voted Tumor"


def _shorten(name: str, length: int = 26) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _draw_roi(axes: Axes, image: npt.NDArray[np.uint8]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _draw_votes(axes: Axes, vote: RoiVote, corners: IntArray, number_pt: float) -> None:
    rows, row_of = np.unique(corners[:, 0], return_inverse=True)
    columns, column_of = np.unique(corners[:, 1], return_inverse=True)
    scores = np.full((len(rows), len(columns)), np.nan)
    scores[row_of, column_of] = vote.patch_scores
    axes.imshow(scores, cmap=SCORE_COLOURS, norm=Normalize(0, 1), interpolation="nearest")
    written = max(scores.shape) <= _LARGEST_WRITTEN_GRID
    for row, column, score, voted in zip(row_of, column_of, vote.patch_scores, vote.votes, strict=True):
        if voted:
            axes.add_patch(Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, **_VOTED))
        if written:
            # Only the deep blue end is too dark for ink.
            colour = "white" if score < 0.18 else INK
            axes.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=number_pt, color=colour)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


_VOTED: Final[dict[str, Any]] = {"fill": False, "edgecolor": INK, "linewidth": 1.3}


def _colour_bar(figure: Figure, axes: Sequence[Axes]) -> None:
    label = "patch score: probability of Tumor (framed cells voted Tumor)"
    draw_colour_bar(figure, axes, SCORE_COLOURS, 1, label, aspect=60, shrink=0.6)
