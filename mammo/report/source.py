"""Report files that are looked up: each number is a cell with a link to its place in the file.

`SourceFile` looks a value up in a report's JSON and returns it with a link to that very place, a JSON pointer (RFC
6901), so that a number and its link cannot part. The prose around the numbers is in `templates/texts.txt`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any, Final
from urllib.parse import quote

from mammo.core.files import Workspace, read_json
from mammo.evaluation.intervals import percent
from mammo.report.blocks import Block, Cell, Heading, Inline, Paragraph, Picture, Table, plain

UNDEFINED: Final = "n/a"


@dataclass(frozen=True)
class SourceFile:
    """A JSON file, or a place in it, as reports link to it.

    Attributes:
        path: of the file, relative to `reports/`.
        content: of the whole file.
        place: the keys from its root to here, where every look-up starts.
        folder: `reports/`, where its pictures lie; None without pictures.
    """

    path: str
    content: Any
    place: tuple[str | int, ...] = ()
    folder: Path | None = None

    @classmethod
    def read(cls, workspace: Workspace, path: str) -> "SourceFile":
        """Read a file of `reports/` (or beside it, with `../`).

        Raises:
            DataError: the file is missing, or no JSON.
        """
        return cls(path, read_json(workspace.reports / path), folder=workspace.reports)

    def at(self, *keys: str | int) -> "SourceFile":
        """The place at `keys`."""
        return replace(self, place=(*self.place, *keys))

    def each(self, *keys: str | int) -> "Iterator[SourceFile]":
        """The places in the list or dict at `keys`; none when it is missing."""
        found = self.value(*keys) or ()
        return (self.at(*keys, key) for key in (range(len(found)) if isinstance(found, list) else found))

    @property
    def name(self) -> str:
        """The last key on the way here."""
        return str(self.place[-1])

    def href(self, *keys: str | int) -> str:
        """Link to the value at `keys`."""
        place = [str(key).replace("~", "~0").replace("/", "~1") for key in (*self.place, *keys)]
        return quote(self.path) + (
            "#" + quote("".join(f"/{key}" for key in place), safe="/~") if place else ""
        )

    def value(self, *keys: str | int) -> Any:
        """The value at `keys`; None when a key on the way is missing."""
        return self._find(keys)[0]

    def _find(self, keys: Sequence[str | int]) -> tuple[Any, bool]:
        """The value, and whether it is there."""
        found = self.content
        try:
            for key in (*self.place, *keys):
                found = found[key]
        except (IndexError, KeyError, TypeError):
            return None, False
        return found, True

    def cell(self, *keys: str | int, digits: int = 3, signed: bool = False, **style: bool) -> Cell:
        """The value at `keys` as `shown`, with its link; an empty cell when there is none.

        Args:
            keys: from this place to the value.
            digits: of a number that is not whole.
            signed: write the sign of a difference.
            style: `strong` or `code`.
        """
        value, there = self._find(keys)
        if not there:
            return Cell("")
        hint = value.get("method", "") if isinstance(value, dict) else ""
        return Cell(shown(value, digits, signed=signed), self.href(*keys), hint, **style)

    def cells(self, names: Sequence[str], *keys: str | int, signed: bool = False) -> list[Cell]:
        """The cell of each of `names` at `keys`."""
        return [self.cell(*keys, name, signed=signed) for name in names]

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[Inline]]) -> Table:
        """A table of this file's numbers."""
        return Table("", tuple(headings), tuple(tuple(row) for row in rows), self.path)

    def sentence(self, template: str, **cells: Any) -> Paragraph:
        """Text with a cell for each `{dotted.path}` of this place, or `{name}` of `cells`.

        `{value:4}` has four digits, `{value:+}` is a difference, `{value:%}` a confidence in per cent.
        """
        parts: list[Inline] = []
        for text, field, form, _ in Formatter().parse(template):
            parts += [text] if text else []
            keys = (field or "").split(".")
            if field in cells:
                parts.append(cells[field])
            elif form == "%":
                parts.append(Cell(percent(self.value(*keys)), self.href(*keys)))
            elif field is not None and form is not None:
                signed = form.startswith("+")
                parts.append(self.cell(*keys, digits=int(form.strip("+") or 3), signed=signed))
        return Paragraph(tuple(parts))

    def blocks(self, name: str, /, **parts: Any) -> list[Block]:
        """The text of that name in `templates/texts.txt` as blocks.

        Tables without rows are left out, and pictures that are not there.

        Args:
            name: of the text.
            parts: the cells of its prose, and the blocks that stand at `[name]`, one or several.
        """
        found: list[Block] = []
        for line in _texts()[name]:
            kind, _, text = line.partition(" ")
            if kind == "#":
                found.append(Heading(text))
            elif kind.startswith("["):
                part, caption = parts[kind.strip("[]")], self._words(text, parts)
                several = [part] if isinstance(part, Block) else part
                found += [replace(block, caption=caption) if caption else block for block in several]
            elif kind.startswith("!"):
                path = self._words(kind[1:], parts)
                if self.folder is not None and (self.folder / path).is_file():
                    png = (self.folder / path).read_bytes()
                    found.append(Picture(self._words(text, parts), png, quote(path)))
            else:
                found.append(self.sentence(line, **parts))
        return [block for block in found if not isinstance(block, Table) or block.rows]

    def _words(self, template: str, parts: dict[str, Any]) -> str:
        return "".join(map(plain, self.sentence(template, **parts).parts))


@cache
def _texts() -> dict[str, list[str]]:
    """Name → the lines of its text."""
    whole = files("mammo.report").joinpath("templates", "texts.txt").read_text()
    texts = [text.strip().split("\n") for text in whole.split("\n== ")[1:]]
    return {name: lines for name, *lines in texts}


def shown(value: Any, digits: int = 3, *, signed: bool = False) -> str:
    """A value of JSON as people read it, whether a number or an estimate.

    An estimate is `0.834 ± 0.012 (0.756 to 0.901), n 64`: value, standard deviation over runs, interval and n, as far
    as there are such. A mean over seeds is `0.834 ± 0.012 (10 seeds)`. Null is `n/a`. A value that rounds to nothing
    has no side; the end of an interval keeps its sign, which says on which side of it 0 lies.
    """
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:{'+' if signed else ''}.{digits}f}"
    if isinstance(value, list):
        return ", ".join(shown(one, digits) for one in value)
    if not isinstance(value, dict):
        return str(value)
    centre, spread = value.get("value", value.get("mean")), value.get("sd_runs", value.get("sd"))
    if centre is None:
        return UNDEFINED
    text = f"{centre:{'+' if signed else ''}z.{digits}f}" + (
        "" if spread is None else f" ± {spread:.{digits}f}"
    )
    if "mean" in value:
        return f"{text} ({counted(value['n_seeds'], 'seed')})"
    if value["ci_low"] is not None:
        low, high = (shown(value[end], digits, signed=signed) for end in ("ci_low", "ci_high"))
        text += f" ({low} to {high})"
    return text if value.get("n") is None else f"{text}, n {value['n']}"


def counted(n: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
