"""Tables in markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. Every row has a cell under each heading; an empty cell is an empty string.

    Raises:
        ValueError: a row is longer or shorter than the headings.
    """
    lines = [_line(headings), "|" + "---|" * len(headings)]
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(
                f"a row must have a cell for each of {len(headings)} headings, got {len(row)}: {row}"
            )
        lines.append(_line(row))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
