"""The picture that explains one decision: the ROI, the map of its votes, Grad-CAM of its patches."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mammo.core.errors import PHANTOM
from mammo.core.records import RoiVote
from mammo.report.canvas import INK, SCORE_COLOURS, new_figure
from mammo.serve.explanation import ALL_BLOCKS, Explanation

_OVERLAY: Final = 0.55
"""Opacity of a map over its ROI."""
_SMALLEST_STEP_PX: Final = 9
"""Scores of patches whose centres lie closer than this are not written: they would not be legible."""


@dataclass(frozen=True)
class Subject:
    """What an explained ROI is called and where it comes from.

    Attributes:
        name: its roi_id, or the file that it was read from.
        model: the model that voted, such as `mammo-roi v2 (compact-model2)`.
        truth: `Normal` or `Tumor`; None where it is not known.
        synthetic: the ROI or the model's training data are phantoms.
    """

    name: str
    model: str
    truth: str | None = None
    synthetic: bool = False

    @property
    def note(self) -> str:
        """The line below a picture's title."""
        phantom = f"{PHANTOM} data, not a patient · " if self.synthetic else ""
        truth = "truth not known" if self.truth is None else f"truth: {self.truth}"
        return f"{phantom}{truth} · model {self.model}"


def explanation_figure(image: npt.NDArray[np.uint8], explained: Explanation, subject: Subject) -> Figure:
    """Draw the ROI, its vote map with every patch score, and its Grad-CAM, all in the same orientation.

    Args:
        image: the grey ROI, `(side, side)`.
        explained: its explanation.
        subject: its name, model and origin.
    """
    phantom = "PHANTOM " if subject.synthetic else ""
    title = f"{phantom}{_short(subject.name)}: {sentence(explained.vote)}"
    figure = new_figure(11.6, 4.7, title, subject.note)
    grid = figure.add_gridspec(2, 3, height_ratios=(4.2, 0.16))
    pictures = [figure.add_subplot(grid[0, column]) for column in range(3)]
    bars = [figure.add_subplot(grid[1, column]) for column in range(3)]
    for axes in pictures:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    _draw_roi(pictures[0], explained)
    bars[0].set_axis_off()
    _draw_vote_map(figure, pictures[1], bars[1], explained)
    _draw_grad_cam(figure, pictures[2], bars[2], explained)
    return figure


def sentence(vote: RoiVote) -> str:
    """The decision in words."""
    return (
        f"called {vote.label}, {sum(vote.votes)} of {len(vote.votes)} patches voted Tumor "
        f"(share {vote.vote_share:.2f}), mean score {vote.score:.2f}"
    )


def _short(name: str, length: int = 32) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _draw_roi(axes: Axes, explained: Explanation) -> None:
    top, left = explained.corners[0]
    side = explained.size_px - 1
    # White dashes on ink can be seen on bright and on dark tissue.
    for colour, dashes in ((INK, "solid"), ("white", (0, (4, 4)))):
        frame: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": dashes, "linewidth": 1.2}
        axes.add_patch(Rectangle((left, top), side, side, **frame))
    n_patches, size = len(explained.corners), explained.size_px
    axes.set_title(f"ROI\n{n_patches} patches of {size} pixels; dashed: the first", **_TITLE)


def _draw_vote_map(figure: Figure, axes: Axes, bar: Axes, explained: Explanation) -> None:
    threshold = explained.patch_threshold
    norm = TwoSlopeNorm(threshold, 0, 1) if 0 < threshold < 1 else Normalize(0, 1)
    axes.imshow(explained.vote_map, cmap=SCORE_COLOURS, norm=norm, alpha=_OVERLAY, interpolation="nearest")
    _mark_uncovered(axes, explained)
    _write_scores(axes, explained)
    axes.set_title(f"Vote map: mean score\nof the {_coverage(explained)}", **_TITLE)
    ticks = [0, threshold / 2, threshold, (1 + threshold) / 2, 1]
    _draw_bar(
        figure, bar, norm, ticks, f"score: probability of Tumor (bold: above {threshold:.2f}, votes Tumor)"
    )


def _write_scores(axes: Axes, explained: Explanation) -> None:
    """Write each patch's score at the patch's centre, bold where it voted Tumor."""
    steps = np.diff(np.unique(explained.corners))
    if len(steps) and steps.min() < _SMALLEST_STEP_PX:
        return
    centres = explained.corners + explained.size_px / 2 - 0.5
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK}
    style["path_effects"] = [withStroke(linewidth=2.2, foreground="white")]
    votes = zip(centres, explained.vote.patch_scores, explained.vote.votes, strict=True)
    for (row, column), score, voted in votes:
        axes.text(column, row, f"{score:.2f}", weight="bold" if voted else "normal", **style)


def _draw_grad_cam(figure: Figure, axes: Axes, bar: Axes, explained: Explanation) -> None:
    reach = float(np.nanmax(np.abs(explained.grad_cam))) or 1.0
    norm = Normalize(-reach, reach)
    axes.imshow(explained.grad_cam, cmap=SCORE_COLOURS, norm=norm, alpha=_OVERLAY, interpolation="nearest")
    _mark_uncovered(axes, explained)
    blocks = "all blocks" if explained.block == ALL_BLOCKS else explained.block
    agreement = f"its sign fits {explained.n_agreeing} of {len(explained.corners)} scores"
    axes.set_title(f"Grad-CAM of {blocks}; {agreement}\nmean of the {_coverage(explained)}", **_TITLE)
    ticks = [-reach, -reach / 2, 0, reach / 2, reach]
    _draw_bar(figure, bar, norm, ticks, "for Normal (below 0), for Tumor (above 0); this ROI's own scale")


def _coverage(explained: Explanation) -> str:
    """How many patches lie over a pixel, and how many pixels lie under none."""
    counts = explained.coverage[explained.coverage > 0]
    low, high = int(counts.min()), int(counts.max())
    span = f"{low} to {high}" if low < high else f"{high}"
    words = f"{span} {'patch' if high == 1 else 'patches'} over each pixel"
    return f"{words}; hatched: no patch" if len(counts) < explained.coverage.size else words


def _mark_uncovered(axes: Axes, explained: Explanation) -> None:
    """Hatch the pixels that no patch covers: nothing is known about them."""
    uncovered = explained.coverage == 0
    if uncovered.any():
        axes.contourf(uncovered, levels=[0.5, 1], hatches=["////"], colors="none")


def _draw_bar(figure: Figure, axes: Axes, norm: Normalize, ticks: list[float], label: str) -> None:
    bar = figure.colorbar(
        ScalarMappable(norm, SCORE_COLOURS), cax=axes, orientation="horizontal", ticks=ticks
    )
    bar.ax.set_xticklabels([f"{tick:.2g}".replace("-", "−") for tick in ticks])
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.outline.set_visible(False)


_TITLE: Final[dict[str, Any]] = {"fontsize": 9, "color": INK, "loc": "left"}
