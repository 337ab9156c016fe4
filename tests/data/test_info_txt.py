"""The table of mini-MIAS is read with all its quirks, and a garbled row is named."""

import pytest

from mammo.core.errors import DataError
from mammo.data.films import Annotation, laterality_of, parse_info, patient_of

HEADER = """THE DATABASE

1st column: the film's reference, such as mdb000
7th column: radius

A note: films come in pairs.

"""


def test_every_kind_of_row_is_read_and_y_is_turned_to_the_top_left_origin() -> None:
    table = """mdb001 G CIRC B 535 425 197
mdb003 D NORM\x20\x20
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26

mdb059 F CIRC B\x20
mdb144 F MISC B 233 994 29
mdb216 D CALC M *NOTE 3*
"""
    assert parse_info((HEADER + table).encode(), "Info.txt") == [
        Annotation("mdb001", "G", "CIRC", "B", 535, 599, 197),
        Annotation("mdb003", "D", "NORM"),
        Annotation("mdb005", "F", "CIRC", "B", 477, 891, 30),
        Annotation("mdb005", "F", "CIRC", "B", 500, 856, 26),
        Annotation("mdb059", "F", "CIRC", "B"),
        Annotation("mdb144", "F", "MISC", "B", 233, 30, 29),
        Annotation("mdb216", "D", "CALC", "M"),
    ]


def test_line_ends_tabs_a_byte_order_mark_and_prose_after_the_table_do_not_matter() -> None:
    unix = HEADER + "mdb001 G CIRC B 535 425 197\nmdb003 D NORM \n"
    expected = parse_info(unix.encode(), "Info.txt")
    for same in (unix.replace("\n", "\r\n"), unix + "\nWith thanks to all who helped.\n"):
        assert parse_info(same.encode(), "Info.txt") == expected
    rows = unix.removeprefix(HEADER)
    assert parse_info(rows.replace(" ", "\t").encode("utf-8-sig"), "Info.txt") == expected


@pytest.mark.parametrize(
    "row",
    [
        "mdb002 G CIRC B 522 28O 69",
        "mdb002 G CIRC B 522 280",
        "mdb002 X CIRC B 522 280 69",
        "mdb002 G BLOB B 522 280 69",
        "mdb002 G CIRC",
        "mdb002 G CIRC Q 522 280 69",
        "mdb002 G NORM 522 280 69",
        "mdb002 G CIRC B 522 280 69 7",
        "mdb2 G NORM",
        "bdm002 G NORM",
        "mdb002 G CIRC B 2522 280 69",
        "mdb002 G CIRC B 522 1025 69",
        "mdb002 G CIRC B 522 280 0",
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_garbled_row_is_refused_with_its_line_and_content(row: str, last: bool) -> None:
    content = HEADER + "mdb001 G NORM\n" + row + "\n" + ("" if last else "mdb003 D NORM\n")
    with pytest.raises(DataError) as refused:
        parse_info(content.encode(), "Info.txt")
    for part in ("Info.txt: line 9 must", f"got '{row}'", "restore the row"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        ("mdb001 G CIRC B 535 425 197", "line 2 repeats"),
        ("mdb001 F CIRC B 5 425 197", "line 2 gives mdb001 the tissue F"),
        ("mdb001 G NORM", "line 2 calls mdb001 NORM"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(second: str, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        parse_info(f"mdb001 G CIRC B 535 425 197\n{second}\n".encode(), "Info.txt")


@pytest.mark.parametrize("content", [b"", HEADER.encode(), bytes(range(256))])
def test_a_file_without_a_table_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="got none; use the Info"):
        parse_info(content, "Info.txt")


def test_consecutive_films_are_the_right_and_left_breast_of_one_patient() -> None:
    films = ["mdb001", "mdb002", "mdb003", "mdb004", "mdb321", "mdb322"]
    assert [patient_of(film) for film in films] == ["p001", "p001", "p002", "p002", "p161", "p161"]
    assert [laterality_of(film) for film in films] == ["right", "left"] * 3
