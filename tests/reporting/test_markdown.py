"""Markdown tables, as a reader of markdown sees them."""

import re

import pytest
from markdown_it import MarkdownIt

from mammo.report.markdown import markdown_table


def cells(lines: list[str]) -> list[list[str]]:
    """The cells of each row, headings first, after rendering."""
    page = MarkdownIt("commonmark").enable("table").render("\n".join(lines))
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in page.split("</tr>")[:-1]]


def test_a_table_keeps_its_cells_even_with_a_pipe_or_nothing_in_them() -> None:
    table = markdown_table(["system", "AUC"], [["compact|model1", "0.8 (0.7 to 0.9)"], ["floor", ""]])
    assert cells(table) == [
        ["system", "AUC"],
        ["compact|model1", "0.8 (0.7 to 0.9)"],
        ["floor", ""],
    ]


def test_a_row_without_a_cell_for_each_heading_is_refused() -> None:
    with pytest.raises(ValueError, match=r"each of 2 headings, got 1"):
        markdown_table(["system", "AUC"], [["floor"]])
