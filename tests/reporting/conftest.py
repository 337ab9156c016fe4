"""Catching the figures that the picture functions save, so that tests can read what they show."""

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


class Gallery(list[Figure]):
    """The figures that were saved, in order."""

    def texts(self) -> list[str]:
        """Every text that the last figure shows."""
        return [text.get_text() for text in shown_texts(self[-1])]

    def overlaps(self) -> list[tuple[str, str]]:
        """Pairs of texts of the last figure whose boxes intersect."""
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(self[-1])]
        return [
            (first, second)
            for position, (first, box) in enumerate(boxes)
            for second, other in boxes[position + 1 :]
            if box.padded(-1).overlaps(other.padded(-1))
        ]

    def outside(self) -> list[str]:
        """Texts of the last figure that reach over its border."""
        figure = self[-1]
        width, height = figure.bbox.width, figure.bbox.height
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
        return [name for name, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


def shown_texts(figure: Figure) -> list[Text]:
    """The visible texts of a figure that has been drawn."""
    found = figure.findobj(Text)
    hidden = {
        id(part)
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for part in axis.findobj(Text)
    }
    texts = [text for text in found if isinstance(text, Text) and id(text) not in hidden]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gallery]:
    """Collects each figure as it is saved; the file is written all the same."""
    saved = Gallery()
    write = Figure.savefig

    def savefig(figure: Figure, *args: Any, **settings: Any) -> None:
        write(figure, *args, **settings)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", savefig)
    yield saved
