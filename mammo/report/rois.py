"""Sheets of ROIs: the votes that decided them, and the pairs that share tissue.

Each function takes the PNG to write and a note on the data that the picture rests on. `corners` are top and left of
each patch in pixels, in the order of a vote's scores, shape `(n_patches, 2)`.
"""

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
from mammo.data.audit_search import Box, Overlap, aligned_crops, overlap_boxes
from mammo.data.decode import GreyImage
from mammo.evaluation.metrics import IntArray
from mammo.report.canvas import (
    GREY_LEVELS,
    INK,
    LABEL_COLOURS,
    MUTED,
    SCORE_COLOURS,
    SCORES,
    draw_colour_bar,
    empty_figure,
    new_figure,
    save,
    shorten,
    show_pixels,
)
from mammo.report.source import counted

MAX_TILES: Final = 24
MAX_PAIRS: Final = 20
_LARGEST_WRITTEN_GRID: Final = 7
"""Grids of more rows or columns than this show colours only: numbers would not be legible."""
_DIFFERENCE: Final = Normalize(0, 32)
"""Grey levels of a difference; it is darkest from 32 on."""


@dataclass(frozen=True)
class VotedRoi:
    """A ROI with its truth and its votes: `image` is grey, shape `(side, side)`."""

    roi_id: str
    image: GreyImage
    label: Label
    vote: RoiVote


@dataclass(frozen=True)
class DrawnPair:
    """A pair that shares tissue: the grey levels of its ROIs, `(h, w)`, and their parts of the split, if known."""

    overlap: Overlap
    image_a: GreyImage
    image_b: GreyImage
    part_a: str | None
    part_b: str | None

    @property
    def leaks(self) -> bool:
        """Whether the pair lies in two parts."""
        return None not in (self.part_a, self.part_b) and self.part_a != self.part_b


def vote_picture(
    image: GreyImage, vote: RoiVote, corners: IntArray, size_px: int, path: Path, data_note: str
) -> None:
    """Draw one ROI, `(side, side)`, with its patches' centres and, beside it, the map of its votes."""
    title = f"Called {vote.label}: {tally(vote)}, mean score {vote.score:.2f}"
    figure = new_figure(9.2, 4.5, title, data_note)
    roi, votes = figure.subplots(1, 2)
    show_pixels(roi, image, "ROI; dots: patch centres; dashed: first patch", 9)
    rows, columns = (corners + size_px / 2 - 0.5).T
    dots: dict[str, Any] = {"s": 26, "zorder": 3, "edgecolors": INK, "linewidths": 0.6}
    roi.scatter(columns, rows, c=vote.patch_scores, cmap=SCORE_COLOURS, norm=SCORES, **dots)
    frame_first_patch(roi, corners, size_px)
    _draw_votes(votes, vote, corners, "Vote of each patch, where its centre lies", 9, number_pt=11)
    _explain_votes(figure, [roi, votes])
    save(figure, path)


def wrong_rois_sheet(
    rois: Sequence[VotedRoi], corners: IntArray, path: Path, data_note: str, *, title: str
) -> None:
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
        save(empty_figure(heading, data_note, "no ROI was decided wrongly"), path)
        return
    columns, rows = min(3, len(shown)), math.ceil(len(shown) / 3)
    figure = new_figure(max(6.6, 4.3 * columns), 2.4 * rows + 0.6, heading, data_note)
    # The third column of each tile is empty: it keeps a ROI nearer to its own votes than to the next ROI.
    grid = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=(1, 1, 0.08) * columns)
    for axes in (*grid.ravel()[3 * len(shown) :], *grid[:, 2::3].ravel()):
        axes.set_axis_off()
    for (left, right, _), roi in zip(grid.reshape(-1, 3), shown, strict=False):
        show_pixels(left, roi.image, f"{shorten(roi.roi_id, 26)}\n{roi.label.title}, called {roi.vote.label}")
        left.spines[:].set(color=LABEL_COLOURS[roi.label], linewidth=2)
        _draw_votes(right, roi.vote, corners, tally(roi.vote).replace(" voted", "\nvoted"), 8, number_pt=6.5)
    _explain_votes(figure, list(grid.ravel()))
    save(figure, path)


def _draw_votes(
    axes: Axes, vote: RoiVote, corners: IntArray, title: str, title_pt: float, number_pt: float
) -> None:
    """Draw the score of each patch as a cell of the grid, framed where it voted Tumor."""
    rows, row_of = np.unique(corners[:, 0], return_inverse=True)
    columns, column_of = np.unique(corners[:, 1], return_inverse=True)
    scores = np.full((len(rows), len(columns)), np.nan)
    scores[row_of, column_of] = vote.patch_scores
    show_pixels(axes, scores, title, title_pt, SCORE_COLOURS, SCORES)
    axes.spines[:].set_visible(False)
    for row, column, score, voted in zip(row_of, column_of, vote.patch_scores, vote.votes, strict=True):
        if voted:
            frame: dict[str, Any] = {"fill": False, "edgecolor": INK, "linewidth": 1.3}
            axes.add_patch(Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, **frame))
        if max(scores.shape) <= _LARGEST_WRITTEN_GRID:
            # Only the deep blue end is too dark for ink.
            colour = "white" if score < 0.18 else INK
            axes.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=number_pt, color=colour)


def _explain_votes(figure: Figure, axes: list[Axes]) -> None:
    label = "patch score: probability of Tumor (framed cells voted Tumor)"
    draw_colour_bar(figure, SCORE_COLOURS, SCORES, label, ax=axes, aspect=60, shrink=0.6, pad=0.015)


def pairs_sheet(pairs: Sequence[DrawnPair], path: Path, data_note: str) -> None:
    """Draw each pair as a row: both ROIs with the shared tissue framed, both crops, their difference.

    Pairs across parts come first, the largest overlap leading. At most `MAX_PAIRS` are drawn; the title says
    how many there are.
    """
    shown = sorted(pairs, key=lambda pair: (not pair.leaks, -pair.overlap.overlap_px))[:MAX_PAIRS]
    n_leaks, verb = sum(pair.leaks for pair in pairs), "shares" if len(pairs) == 1 else "share"
    heading = f"Leakage audit: {counted(len(pairs), 'pair')} of ROIs {verb} tissue, {n_leaks} across parts"
    if len(pairs) > len(shown):
        heading += f"; the first {len(shown)} shown"
    if not shown:
        save(empty_figure(heading, data_note, "no two ROIs share tissue"), path)
        return
    figure = new_figure(11.4, 2.35 * len(shown) + 0.75, heading, data_note)
    grid = figure.subplots(len(shown), 5, squeeze=False)
    for axes, pair in zip(grid, shown, strict=True):
        _draw_pair(axes, pair)
    bar: dict[str, Any] = {"ax": list(grid[:, 4]), "aspect": 16, "shrink": 0.9, "pad": 0.015}
    draw_colour_bar(figure, "gray_r", _DIFFERENCE, "grey levels of |a − b|", **bar)
    save(figure, path)


def _draw_pair(row: npt.NDArray[np.object_], pair: DrawnPair) -> None:
    found, image_a, image_b = pair.overlap, pair.image_a, pair.image_b
    crop_a, crop_b = aligned_crops(image_a, image_b, found)
    in_a, in_b = overlap_boxes(_shape(image_a), _shape(image_b), found)
    placed = [f"{found.dx_px:+d}, {found.dy_px:+d} px".replace("-", "−")]
    stretches = (("x", found.stretch_x), ("y", found.stretch_y))
    placed += [f"{axis} × {value:.2f}" for axis, value in stretches if not math.isclose(value, 1)]
    turned = ", turned back" if found.kind in ("mirrored", "flipped") else ""
    mad = "0" if found.mad == 0 else f"{found.mad:.1f}" if found.mad >= 0.1 else f"{found.mad:.3f}"
    pictures: list[tuple[npt.NDArray[Any], str, Box | None]] = [
        (image_a, f"a: {shorten(found.a, 22)}\n{pair.part_a or 'unknown'} part", in_a),
        (image_b, f"b: {shorten(found.b, 22)}\n{pair.part_b or 'unknown'} part", in_b),
        (crop_a, f"a's share\n{found.kind}: {', '.join(placed)}", None),
        (crop_b, f"b's share{turned}\n{found.overlap_px:,} px shared", None),
        (np.abs(crop_a.astype(np.int16) - crop_b), f"|a − b|\nMAD {mad} grey levels", None),
    ]
    for axes, (image, title, box) in zip(row, pictures, strict=True):
        look: tuple[Any, ...] = ("gray_r", _DIFFERENCE) if axes is row[4] else ("gray", GREY_LEVELS)
        show_pixels(axes, image, title, 8, *look)
        # In the middle of a square, so that titles and columns are in line.
        height, width = _shape(image)
        x, y, half = (width - 1) / 2, (height - 1) / 2, max(height, width) / 2
        axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
        axes.spines[:].set_visible(box is not None)
        line: dict[str, Any] = {"fill": False, "edgecolor": "#E69F00", "linewidth": 1.8 if box else 1.2}
        box = box or Box(0, 0, width, height)
        size = (box.right - box.left, box.bottom - box.top)
        axes.add_patch(Rectangle((box.left - 0.5, box.top - 0.5), *size, **line))
    verdict = "LEAK" if pair.leaks else "same part" if pair.part_a else "parts unknown"
    row[0].set_ylabel(verdict, fontsize=8.5, color="#B5342B" if pair.leaks else MUTED, weight="bold")


def _shape(image: npt.NDArray[Any]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def frame_first_patch(axes: Axes, corners: IntArray, size_px: int) -> None:
    """Frame the first patch in dashes that can be seen on bright and on dark tissue: white on ink."""
    top, left = corners[0]
    for colour, dashes in ((INK, "solid"), ("white", (0, (4, 4)))):
        frame: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": dashes, "zorder": 1.5}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), size_px, size_px, **frame))


def tally(vote: RoiVote) -> str:
    """`18 of 25 patches voted Tumor`."""
    return f"{sum(vote.votes)} of {len(vote.votes)} patches voted Tumor"
