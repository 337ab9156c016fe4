"""Blocks, and the files that they are looked up in: no number parts from its place, no cell is lost."""

import re
from io import StringIO
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from mammo.report.blocks import Cell, Paragraph, SourceFile, Table, markdown, plain, shown
from mammo.report.terminal import rich_table

CONTENT: dict[str, Any] = {
    "a/b": {"c~d": [{"value": 0.8125, "ci_low": -0.0004, "ci_high": 0.9, "n": 64, "method": "Wilson"}]},
    "confidence": 0.975,
    "loss": 0.50446,
    "patients": None,
    "n": 3,
}
SOURCE = SourceFile("folder/a file.json", CONTENT)


def cells(text: str) -> list[list[str]]:
    """The cells of each row, headings first, as a reader of Markdown sees them."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in page.split("</tr>")[:-1]]


def test_a_markdown_table_keeps_its_cells_even_with_a_pipe_or_nothing_in_them() -> None:
    table = Table("", ("system", "AUC"), (("compact|model1", Cell("0.8 (0.7 to 0.9)")), ("floor", "")))
    assert cells(markdown([table], synthetic=False)) == [
        ["system", "AUC"],
        ["compact|model1", "0.8 (0.7 to 0.9)"],
        ["floor", ""],
    ]


def test_markdown_says_at_each_table_of_phantoms_what_it_rests_on() -> None:
    table = Table("Test part.", ("system",), (("floor",),))
    assert markdown([table], synthetic=True).startswith("**PHANTOM (synthetic).** Test part.")
    assert "PHANTOM" not in markdown([table], synthetic=False)


def test_linked_markdown_refers_each_cell_to_its_file() -> None:
    hashed = Cell("ab12", "../models/m/description.json#/sha", strong=True, code=True)
    assert markdown([Paragraph(("Hash ", hashed, "."))], synthetic=False, linked=True) == (
        "Hash **[`ab12`][description.json]**."
    )


def estimate(value: float | None, *ends: float | None, **more: Any) -> dict[str, Any]:
    low, high = ends or (None, None)
    return {"value": value, "ci_low": low, "ci_high": high, **more}


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (estimate(0.8125, 0.7, 0.889, n=64), False, "0.812 (0.700 to 0.889), n 64"),
        (estimate(0.8125, 0.7, 0.889, n=64, sd_runs=0.0172), False, "0.812 ± 0.017 (0.700 to 0.889), n 64"),
        (estimate(0.0214, -0.034, 0.077, n=64), True, "+0.021 (-0.034 to +0.077), n 64"),
        (estimate(0.5, n=3), False, "0.500, n 3"),
        (estimate(0.5, 0.25, 0.75), False, "0.500 (0.250 to 0.750)"),
        (estimate(None, n=0), False, "n/a"),
        # A value that rounds to nothing has no side; the end of its interval says on which side of it 0 lies.
        (estimate(-0.0001, -0.2, -0.0001, n=3), True, "+0.000 (-0.200 to -0.000), n 3"),
        ({"mean": 0.8, "sd": 0.1, "n_seeds": 3}, False, "0.800 ± 0.100 (3 seeds)"),
        ({"mean": 0.7, "sd": None, "n_seeds": 1}, True, "+0.700 (1 seed)"),
        ({"mean": None, "sd": None, "n_seeds": 0}, False, "n/a"),
        (True, False, "yes"),
        ([0.5, 2], False, "0.500, 2"),
        ("kept", False, "kept"),
    ],
)
def test_one_formatter_shows_every_kind_of_value(value: Any, signed: bool, text: str) -> None:
    assert shown(value, signed=signed) == text


def test_a_cell_links_to_its_very_place() -> None:
    (place,) = SOURCE.each("a/b", "c~d")
    cell = place.cell()
    assert cell.text == "0.812 (-0.000 to 0.900), n 64"
    assert cell.href == "folder/a%20file.json#/a~1b/c~0d/0"
    assert cell.hint == "Wilson"


def test_a_value_that_is_null_says_so_and_one_that_is_missing_leaves_an_empty_cell_without_a_link() -> None:
    assert SOURCE.cell("patients").text == "n/a"
    assert SOURCE.cell("patients").href.endswith("#/patients")
    assert SOURCE.cell("patients", "n") == SOURCE.cell("films") == Cell("")
    assert list(SOURCE.each("films")) == []


def test_every_number_of_a_sentence_is_a_linked_cell() -> None:
    sentence = SOURCE.sentence("{n} seeds, loss {loss:4}, {loss:+}, {confidence:%} {what}", what="intervals")
    assert "".join(map(plain, sentence.parts)) == "3 seeds, loss 0.5045, +0.504, 97.5% intervals"
    links = [part.href.partition("#")[2] for part in sentence.parts if isinstance(part, Cell)]
    assert links == ["/n", "/loss", "/loss", "/confidence"]


def test_a_table_of_the_texts_has_a_row_for_each_place_and_a_cell_for_each_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [
        "| name | *recall f1, effect | of",
        "| of.each: {.}: {n} | {*:+} | {made:code}",
        "| .: all | {*} |",
    ]
    monkeypatch.setattr("mammo.report.blocks._texts", lambda: {"text": [["[table] Of {n}.", *lines]]})
    of = {"x": {"each": [{"n": 1, "recall": 0.5}]}, "y": {"each": [{"n": 2, "f1": 1.0, "made": "m"}]}}
    (table,) = SourceFile("a.json", {"n": 3, "recall": 0.75, "of": of}).blocks("text")
    made = Cell("m", "a.json#/of/y/each/0/made", code=True)
    assert isinstance(table, Table)
    assert (table.caption, table.source) == ("Of 3.", "a.json")
    assert list(table.headings) == ["name", "Tumor recall (sensitivity), effect", "Tumor F1, effect", "of"]
    assert [list(row) for row in table.rows] == [
        ["0: 1", Cell("+0.500", "a.json#/of/x/each/0/recall"), Cell(""), Cell("")],
        ["0: 2", Cell(""), Cell("+1.000", "a.json#/of/y/each/0/f1"), made],
        ["all", Cell("0.750", "a.json#/recall"), Cell(""), ""],
    ]


def test_a_terminal_of_80_columns_shows_the_same_cells_whole() -> None:
    bold = Cell("compact-baseline", strong=True)
    estimates = [Cell(shown(estimate(0.8125, 0.7, 0.889, n=64)))] * 4
    table = Table("Caption.", ("system", "accuracy", "recall", "specificity", "AUC"), ((bold, *estimates),))
    written = StringIO()
    Console(width=80, file=written).print(rich_table(table, "[title]"))
    words = written.getvalue().split()
    assert max(map(len, written.getvalue().splitlines())) <= 80
    assert [words.count(word) for word in ("0.812", "(0.700", "0.889),", "64")] == [4, 4, 4, 4]
    assert {"compact-baseline", "[title]", "device."} <= set(words)
