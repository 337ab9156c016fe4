"""The frame around every picture: title, data note, disclaimer, colours, and a reproducible PNG.

Figures are built by matplotlib's objects, without pyplot's global state, so that threads can draw at once. The colours
follow Okabe and Ito's palette; those of the fusions differ in lightness too, and dashes tell backbones apart.
"""

import itertools
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, SubFigure

from mammo.core.errors import NOTICE
from mammo.core.files import write_bytes
from mammo.core.records import Label
from mammo.core.systems import FLOOR

INK: Final = "#222222"
MUTED: Final = "#5F5F5F"
PALE: Final = "#D9D9D9"

LABEL_COLOURS: Final = {Label.NORMAL: "#0072B2", Label.TUMOR: "#D55E00"}
SCORE_COLOURS: Final = LinearSegmentedColormap.from_list(
    "score", [LABEL_COLOURS[Label.NORMAL], "#F4F1EA", LABEL_COLOURS[Label.TUMOR]]
)
"""From certainly Normal to certainly Tumor; a score of 0.5 is nearly white."""
SCORES: Final = Normalize(0, 1)
GREY_LEVELS: Final = Normalize(0, 255)

_FUSION_COLOURS: Final = {"baseline": "#56B4E9", "model1": "#00805C", "model2": "#7B3294"}
_OTHER_COLOURS: Final = ("#E69F00", "#CC79A7", "#005F73", "#8C6D1F")
_BACKBONE_DASHES: Final[dict[str, Any]] = {
    "compact": "solid",
    "vgg16": (0, (7, 1.5)),
    "vgg19": (0, (3.5, 1.5)),
    "vgg16_bn": (0, (7, 1.5, 1, 1.5)),
    "vgg19_bn": (0, (3.5, 1.5, 1, 1.5)),
    "densenet121": (0, (1.5, 1.5)),
    "resnet50": (0, (7, 1.5, 1, 1.5, 1, 1.5)),
    "mobilenet_v2": (0, (3, 1.5, 1, 1.5, 1, 1.5)),
}

_DPI: Final = 150
_MARGIN_IN: Final = 0.18
_TITLE_PT, _NOTE_PT, _FOOT_PT = 13.0, 9.0, 8.0
_CHARACTERS_PER_INCH: Final = {_TITLE_PT: 8.5, _NOTE_PT: 13.5, _FOOT_PT: 15.5}


def system_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The line of each system, the same in every picture: colour from its fusion, dashes from its backbone.

    The floor is grey and dotted; other names get further colours in the order of `names`.
    """
    styles: dict[str, dict[str, Any]] = {}
    others = itertools.cycle(itertools.product(("solid", "dashed"), _OTHER_COLOURS))
    for name in names:
        backbone, _, fusion = name.rpartition("-")
        if name == FLOOR:
            dashes, colour = "dotted", "#777777"
        elif fusion in _FUSION_COLOURS and backbone in _BACKBONE_DASHES:
            dashes, colour = _BACKBONE_DASHES[backbone], _FUSION_COLOURS[fusion]
        else:
            dashes, colour = next(others)
        styles[name] = {"color": colour, "linestyle": dashes}
    return styles


def new_figure(width_in: float, body_in: float, title: str, data_note: str) -> Figure:
    """A white figure: title and data note, a body of `body_in` inches, the disclaimer.

    Axes that are added to it fill the body and never reach into the texts. The data note says what the picture rests
    on, such as "MIAS ROIs, published split, 64 test ROIs".
    """
    lines = {size: _wrap(text, width_in, size) for text, size in ((title, _TITLE_PT), (data_note, _NOTE_PT))}
    title_in = len(lines[_TITLE_PT]) * _TITLE_PT * 1.3 / 72
    note_in = len(lines[_NOTE_PT]) * _NOTE_PT * 1.4 / 72
    head_in, foot_in = _MARGIN_IN + title_in + note_in + 0.1, _FOOT_PT / 72 + 2 * _MARGIN_IN
    height_in = head_in + body_in + foot_in
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = _MARGIN_IN / width_in, 1 - _MARGIN_IN / height_in
    places = ((_TITLE_PT, top, INK, "bold"), (_NOTE_PT, top - title_in / height_in, MUTED, "normal"))
    for size, y, colour, weight in places:
        look: dict[str, Any] = {"fontsize": size, "color": colour, "weight": weight, "linespacing": 1.25}
        figure.text(left, y, "\n".join(lines[size]), ha="left", va="top", **look)
    figure.text(left, _MARGIN_IN / height_in, NOTICE, fontsize=_FOOT_PT, color=MUTED, va="bottom")
    body = (left, foot_in / height_in, 1 - 2 * left, body_in / height_in)
    figure.set_layout_engine("constrained", rect=body, h_pad=0.06, w_pad=0.06)
    return figure


def empty_figure(title: str, data_note: str, reason: str) -> Figure:
    """A figure that holds nothing but the reason why."""
    figure = new_figure(8, 1.2, title, data_note)
    axes = figure.subplots()
    axes.set_axis_off()
    say_empty(axes, reason)
    return figure


def tidy(axes: Axes, title: str = "", x_label: str = "", y_label: str = "") -> None:
    """Give axes the look that all plots share."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=MUTED, length=3)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(MUTED)


def show_pixels(
    axes: Axes,
    pixels: npt.NDArray[Any],
    title: str,
    title_pt: float = 8,
    colours: str | Colormap = "gray",
    norm: Normalize = GREY_LEVELS,
) -> None:
    """Draw pixels `(height, width)` under a title, without ticks."""
    axes.imshow(pixels, cmap=colours, norm=norm, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=title_pt, color=INK, loc="left")


def say_empty(axes: Axes, reason: str) -> None:
    """Write into axes why they hold nothing."""
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=10, color=MUTED)


def draw_legend(axes: Axes, entries: Sequence[Any], columns: int, **look: Any) -> None:
    """Fill a row of the figure with its legend, so that no text can meet another."""
    axes.set_axis_off()
    look = {"fontsize": 8.5, "frameon": False, "labelcolor": INK, "handlelength": 3.2} | look
    axes.legend(handles=entries, loc="center", ncols=min(columns, len(entries)), **look).set_in_layout(False)


def draw_colour_bar(
    figure: Figure | SubFigure, colours: str | Colormap, norm: Normalize, label: str, **place: Any
) -> None:
    """Say what colours mean; `place` is for matplotlib's `colorbar`: which axes it takes or fills, and its ticks."""
    bar = figure.colorbar(ScalarMappable(norm, colours), orientation="horizontal", **place)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7.5, colors=INK, length=2)
    bar.outline.set_visible(False)


def png(figure: Figure) -> bytes:
    """A figure as a PNG; the same figure gives the same bytes (no date, no program version)."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    write_bytes(path, png(figure))


def shorten(name: str, length: int) -> str:
    """The end of a name, with an ellipsis before it where it is longer than `length` characters."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _wrap(text: str, width_in: float, size_pt: float) -> list[str]:
    return textwrap.wrap(text, int((width_in - 2 * _MARGIN_IN) * _CHARACTERS_PER_INCH[size_pt])) or [""]
