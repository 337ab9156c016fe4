"""The pairs of ROIs that share tissue, as a sheet: both ROIs, what they share, and the difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mammo.data.audit_search import Box, Overlap, aligned_crops, overlap_boxes
from mammo.report.canvas import INK, MUTED, draw_colour_bar, new_figure, save, say_empty
from mammo.report.source import counted

MAX_PAIRS: Final = 20
LARGEST_DIFFERENCE: Final = 32
"""Grey levels at which the difference picture is darkest."""

_FRAME: Final = "#E69F00"
_LEAK: Final = "#B5342B"
_ROW_IN: Final = 2.35
_GREY: Final = ("gray", 255.0)
_DIFFERENCE: Final = ("gray_r", float(LARGEST_DIFFERENCE))


@dataclass(frozen=True)
class DrawnPair:
    """A pair with its pixels and parts.

    Attributes:
        overlap: what the audit found.
        image_a: grey levels of `overlap.a`, `(h, w)`.
        image_b: grey levels of `overlap.b`.
        part_a: part of the split that `a` is in; None where unknown.
        part_b: likewise.
    """

    overlap: Overlap
    image_a: npt.NDArray[np.uint8]
    image_b: npt.NDArray[np.uint8]
    part_a: str | None
    part_b: str | None

    @property
    def leaks(self) -> bool:
        """Whether the pair lies in two parts."""
        return None not in (self.part_a, self.part_b) and self.part_a != self.part_b


def pairs_sheet(pairs: Sequence[DrawnPair], path: Path, data_note: str) -> None:
    """Draw each pair as a row: both ROIs with the shared tissue framed, both crops, their difference.

    Pairs across parts come first, the largest overlap leading. At most `MAX_PAIRS` are drawn; the title says
    how many there are.

    Args:
        pairs: what the audit found.
        path: the PNG to write.
        data_note: which data and split the sheet rests on.
    """
    ordered = sorted(pairs, key=lambda pair: (not pair.leaks, -pair.overlap.overlap_px))
    shown = ordered[:MAX_PAIRS]
    n_leaks = sum(pair.leaks for pair in pairs)
    verb = "shares" if len(pairs) == 1 else "share"
    heading = f"Leakage audit: {counted(len(pairs), 'pair')} of ROIs {verb} tissue, {n_leaks} across parts"
    if len(pairs) > len(shown):
        heading += f"; the first {len(shown)} shown"
    if not shown:
        figure = new_figure(8, 1.2, heading, data_note)
        axes = figure.subplots()
        axes.set_axis_off()
        say_empty(axes, "no two ROIs share tissue")
        save(figure, path)
        return
    figure = new_figure(11.4, _ROW_IN * len(shown) + 0.75, heading, data_note)
    grid = figure.subplots(len(shown), 5, squeeze=False)
    for axes, pair in zip(grid, shown, strict=True):
        _draw_pair(axes, pair)
    last_column = list(grid[:, 4])
    draw_colour_bar(figure, last_column, *_DIFFERENCE, "grey levels of |a − b|", aspect=16, shrink=0.9)
    save(figure, path)


def _draw_pair(axes: npt.NDArray[np.object_], pair: DrawnPair) -> None:
    overlap = pair.overlap
    in_a, in_b = overlap_boxes(_shape(pair.image_a), _shape(pair.image_b), overlap)
    _show(axes[0], pair.image_a, _titled("a", overlap.a, pair.part_a), in_a)
    _show(axes[1], pair.image_b, _titled("b", overlap.b, pair.part_b), in_b)
    crop_a, crop_b = aligned_crops(pair.image_a, pair.image_b, overlap)
    _show(axes[2], crop_a, f"a's share\n{overlap.kind}: {_placed(overlap)}")
    _show(axes[3], crop_b, f"b's share{_turned_back(overlap)}\n{overlap.overlap_px:,} px shared")
    difference = np.abs(crop_a.astype(np.int16) - crop_b)
    _show(axes[4], difference, f"|a − b|\nMAD {_grey(overlap.mad)} grey levels", colours=_DIFFERENCE)
    verdict = "LEAK" if pair.leaks else "same part" if pair.part_a else "parts unknown"
    axes[0].set_ylabel(verdict, fontsize=8.5, color=_LEAK if pair.leaks else MUTED, weight="bold")


def _show(
    axes: Axes,
    image: npt.NDArray[Any],
    title: str,
    frame: Box | None = None,
    colours: tuple[str, float] = _GREY,
) -> None:
    """Draw a picture in the middle of a square, so that titles and columns are in line."""
    height, width = image.shape
    axes.imshow(image, cmap=colours[0], vmin=0, vmax=colours[1], interpolation="nearest")
    margin = (max(height, width) - np.array([width, height])) / 2
    axes.set(
        xlim=(-0.5 - margin[0], width - 0.5 + margin[0]), ylim=(height - 0.5 + margin[1], -0.5 - margin[1])
    )
    if frame is None:
        axes.spines[:].set_visible(False)
        axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=_FRAME, linewidth=1.2))
    else:
        corner = (frame.left - 0.5, frame.top - 0.5)
        size = (frame.right - frame.left, frame.bottom - frame.top)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_FRAME, linewidth=1.8))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color=INK, loc="left")


def _titled(side: str, roi_id: str, part: str | None) -> str:
    name = roi_id if len(roi_id) <= 22 else f"…{roi_id[-21:]}"
    return f"{side}: {name}\n{part or 'unknown'} part"


def _placed(overlap: Overlap) -> str:
    placed = f"{overlap.dx_px:+d}, {overlap.dy_px:+d} px".replace("-", "−")
    squeezed = [f"{axis} × {value:.2f}" for axis, value in _stretches(overlap) if not math.isclose(value, 1)]
    return ", ".join([placed, *squeezed])


def _stretches(overlap: Overlap) -> tuple[tuple[str, float], ...]:
    return ("x", overlap.stretch_x), ("y", overlap.stretch_y)


def _turned_back(overlap: Overlap) -> str:
    return ", turned back" if overlap.kind in ("mirrored", "flipped") else ""


def _grey(mad: float) -> str:
    return "0" if mad == 0 else f"{mad:.1f}" if mad >= 0.1 else f"{mad:.3f}"


def _shape(image: npt.NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
