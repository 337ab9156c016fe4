"""Catching the figures that the picture functions save, so that tests can read what they show."""

from itertools import combinations
from typing import Any

import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from mammo.core.errors import NOTICE


class Gallery(list[Figure]):
    """The figures that were saved, in order."""

    def texts(self) -> list[str]:
        """Every text that the last figure shows."""
        return [text.get_text() for text in shown_texts(self[-1])]

    def faults(self, note: str) -> list[object]:
        """What the last figure lacks of data note and disclaimer, and its texts that meet or reach over the border."""
        missing = [text for text in (note, NOTICE) if text not in self.texts()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(self[-1])]
        met = [
            (first, second)
            for (first, box), (second, other) in combinations(boxes, 2)
            if box.padded(-1).overlaps(other.padded(-1))
        ]
        width, height = self[-1].bbox.width, self[-1].bbox.height
        outside = [name for name, box in boxes if min(box.min) < 0 or box.x1 > width or box.y1 > height]
        return [*missing, *met, *outside]


def catch_figures(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """Collect each figure as it is saved; its file is written all the same."""
    saved = Gallery()
    write = Figure.savefig

    def savefig(figure: Figure, *args: Any, **settings: Any) -> None:
        write(figure, *args, **settings)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def shown_texts(figure: Figure) -> list[Text]:
    """The visible texts of a figure that has been drawn."""
    hidden = {
        id(text)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for text in (axis.findobj(Text) if not axes.axison else labels_beyond_the_view(axis))
    }
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and id(text) not in hidden]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def labels_beyond_the_view(axis: Axis) -> list[Text]:
    """Labels that matplotlib keeps for ticks outside the limits and does not draw."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1 for tick in ticks if not low <= tick.get_loc() <= high]
