"""The table of mini-MIAS: one line for each lesion or normal film, behind a header in prose.

    mdb001 G CIRC B 535 425 197      film, tissue, abnormality, severity, x, y, radius
    mdb003 D NORM                    a normal film
    mdb059 F CIRC B                  a lesion whose place is not given
    mdb216 D CALC M *NOTE 3*         calcifications too widespread for a place

The table begins at the first line that starts with a film's name. From there on every line must be a
row until a blank line after the last row; what follows is prose again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mammo.errors import DataError

FILM_SIDE_PX: Final = 1024
"""Every mini-MIAS film is 1024 × 1024 pixels of 200 µm."""

Laterality = Literal["right", "left"]

_STARTS_ROW: Final = re.compile(r"mdb\d+\s+\S")
_ROW: Final = re.compile(
    r"(?P<film>mdb\d{3})\s+(?P<tissue>[FGD])\s+(?:(?P<normal>NORM)"
    r"|(?P<abnormality>CALC|CIRC|SPIC|MISC|ARCH|ASYM)\s+(?P<severity>[BM])"
    r"(?:\s+(?P<x>\d{1,4})\s+(?P<y>\d{1,4})\s+(?P<radius>\d{1,4})|\s+\*NOTE 3\*)?)"
)


@dataclass(frozen=True)
class Annotation:
    """One row: a lesion, or the statement that a film is normal.

    Attributes:
        film_id: `mdb001` and so on.
        tissue: F (fatty), G (fatty-glandular) or D (dense-glandular).
        abnormality: CALC, CIRC, SPIC, MISC, ARCH, ASYM or NORM.
        severity: B or M; None for a normal film.
        x_px, y_px: centre from the top-left corner (the file counts y from the bottom: y_px = 1024 − y); None
            where the row gives no place.
        radius_px: of a circle around the lesion; None like the centre.
    """

    film_id: str
    tissue: str
    abnormality: str
    severity: str | None = None
    x_px: int | None = None
    y_px: int | None = None
    radius_px: int | None = None


def film_number(film_id: str) -> int:
    """The number in a film's name: `mdb012` → 12."""
    return int(film_id.removeprefix("mdb"))


def patient_of(film_id: str) -> str:
    """The patient of a film. Films (1, 2), (3, 4) and so on are the two breasts of one: `mdb002` → `p001`."""
    return f"p{(film_number(film_id) + 1) // 2:03d}"


def laterality_of(film_id: str) -> Laterality:
    """The breast of a film: odd numbers are right, even numbers left (the database's notes)."""
    return "right" if film_number(film_id) % 2 else "left"


def parse_info(content: bytes, name: str) -> list[Annotation]:
    """Read the table of an `Info.txt`.

    Returns:
        The rows in the file's order.

    Raises:
        DataError: there is no table, a line of it is no row, or two rows contradict each other; the message
            names the line.
    """
    lines = content.decode("latin-1").splitlines()
    starts = [index for index, line in enumerate(lines) if _STARTS_ROW.match(line.lstrip())]
    if not starts:
        raise DataError(
            f"{name}: must hold rows such as 'mdb001 G CIRC B 535 425 197', got none; use the Info.txt "
            "that comes with the films"
        )
    end = starts[-1] + 1
    while end < len(lines) and lines[end].strip():
        end += 1
    rows: list[Annotation] = []
    for number, line in enumerate(lines[starts[0] : end], start=starts[0] + 1):
        if line.strip():
            rows.append(_parse_row(line, number, name))
            _check_consistent(rows, number, name)
    return rows


def _parse_row(line: str, number: int, name: str) -> Annotation:
    match = _ROW.fullmatch(line.strip())
    if match is None:
        raise _garbled(
            name,
            number,
            line,
            "must be 'film tissue NORM' or 'film tissue abnormality severity [x y radius]'",
        )
    if match["normal"]:
        return Annotation(match["film"], match["tissue"], "NORM")
    lesion = Annotation(match["film"], match["tissue"], match["abnormality"], match["severity"])
    if match["x"] is None:
        return lesion
    x, y, radius = int(match["x"]), int(match["y"]), int(match["radius"])
    if max(x, y) > FILM_SIDE_PX or not 1 <= radius <= FILM_SIDE_PX // 2:
        raise _garbled(
            name,
            number,
            line,
            f"must have x and y up to {FILM_SIDE_PX} and a radius of 1 to {FILM_SIDE_PX // 2}",
        )
    return Annotation(
        lesion.film_id, lesion.tissue, lesion.abnormality, lesion.severity, x, FILM_SIDE_PX - y, radius
    )


def _check_consistent(rows: Sequence[Annotation], number: int, name: str) -> None:
    """Check the last row against the earlier ones of its film."""
    new = rows[-1]
    for row in rows[:-1]:
        if row.film_id != new.film_id:
            continue
        if row == new:
            raise DataError(
                f"{name}: line {number} repeats an earlier row of {new.film_id}; remove one of them"
            )
        if row.tissue != new.tissue:
            raise DataError(
                f"{name}: line {number} gives {new.film_id} the tissue {new.tissue}, an earlier row "
                f"{row.tissue}; a film has one tissue, correct the row"
            )
        if "NORM" in (row.abnormality, new.abnormality):
            raise DataError(
                f"{name}: line {number} calls {new.film_id} {new.abnormality}, an earlier row "
                f"{row.abnormality}; a normal film has no lesion, remove the wrong row"
            )


def _garbled(name: str, number: int, line: str, rule: str) -> DataError:
    return DataError(
        f"{name}: line {number} {rule}, got {line.strip()!r}; restore the row from the original file"
    )
