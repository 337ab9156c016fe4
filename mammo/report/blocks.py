"""Blocks that every report is made of: texts, tables and pictures whose numbers know the place they came from.

`SourceFile` builds each table once; `markdown` here, the page's template and `terminal.rich_table` show it. A number is
looked up in a report's JSON and linked to that very place by a JSON pointer (RFC 6901), so that the two cannot part.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Any, Final
from urllib.parse import quote

from mammo.core.errors import NOTICE, PHANTOM
from mammo.core.files import Workspace, read_json
from mammo.evaluation.intervals import percent
from mammo.evaluation.metrics import TITLES

_WEBP_QUALITY: Final = 78


@dataclass(frozen=True)
class Cell:
    """A piece of text.

    Attributes:
        text: what is read; of an estimate the value, then ` (` with interval and n.
        href: the file, and the place in it, that it came from.
        hint: how an estimate's interval was made, for those who point at it.
        strong: in bold type.
        code: a command or a hash, in fixed type.
    """

    text: str
    href: str = ""
    hint: str = ""
    strong: bool = False
    code: bool = False


Inline = str | Cell
Rows = Iterable[Sequence[Inline]]


@dataclass(frozen=True)
class Heading:
    """A heading within a report."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Text whose numbers are cells."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Table:
    """A table with its caption, and the file that its numbers came from (relative to `reports/`)."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Inline]]
    source: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture: its PNG, and its file or what it was drawn from (relative to `reports/`)."""

    caption: str
    png: bytes
    source: str

    @property
    def uri(self) -> str:
        """The picture as a data URI of a smaller WebP: the page stays small, the linked file stays sharp."""
        from PIL import Image

        packed = BytesIO()
        with Image.open(BytesIO(self.png)) as image:
            image.convert("RGB").save(packed, format="WEBP", quality=_WEBP_QUALITY, method=4)
        return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


Block = Heading | Paragraph | Table | Picture


@dataclass(frozen=True)
class SourceFile:
    """A JSON file, or a place in it, as reports link to it.

    Attributes:
        path: of the file, relative to `reports/`.
        content: of the whole file.
        place: the keys from its root to here, where every look-up starts.
        folder: where its pictures lie; None without pictures.
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
        pointer = quote("".join(f"/{key}" for key in place), safe="/~")
        return quote(self.path) + (f"#{pointer}" if place else "")

    def value(self, *keys: str | int, missing: Any = None) -> Any:
        """The value at `keys`; `missing` when a key on the way is not there."""
        found = self.content
        try:
            for key in (*self.place, *keys):
                found = found[key]
        except (IndexError, KeyError, TypeError):
            return missing
        return found

    def cell(self, *keys: str | int, digits: int = 3, signed: bool = False, **style: bool) -> Cell:
        """The value at `keys` as `shown` (with `digits` and the sign of a difference), linked; empty when missing.

        `style` is `strong` or `code`.
        """
        value = self.value(*keys, missing=...)
        if value is ...:
            return Cell("")
        hint = value.get("method", "") if isinstance(value, dict) else ""
        return Cell(shown(value, digits, signed=signed), self.href(*keys), hint, **style)

    def cells(self, names: Iterable[str], *keys: str | int, signed: bool = False) -> list[Cell]:
        """The cell of each of `names` at `keys`."""
        return [self.cell(*keys, name, signed=signed) for name in names]

    def table(self, headings: Sequence[str], rows: Rows, caption: str = "") -> Table:
        """A table of this file's numbers."""
        return Table(caption, headings, list(rows), self.path)

    def sentence(self, template: str, **parts: Any) -> Paragraph:
        """Text with a cell for each `{dotted.path}` of this place (`{.}` is its name), or `{name}` of `parts`.

        `{value:4}` has four digits, `{value:+}` is a difference, `{value:%}` a confidence in per cent, `{value:code}`
        in fixed type; `{}` is the place itself. A part may be a function of the place.
        """
        found: list[Inline] = []
        for text, field, form, _ in Formatter().parse(template):
            found += [text] if text else []
            keys = field.split(".") if field else []
            if field in parts:
                part = parts[field]
                found.append(part(self) if callable(part) else part)
            elif field == ".":
                found.append(self.name)
            elif form == "%":
                found.append(Cell(percent(self.value(*keys)), self.href(*keys)))
            elif field is not None and form is not None:
                digits = int(form) if form.isdigit() else 3
                found.append(self.cell(*keys, digits=digits, signed=form == "+", code=form == "code"))
        return Paragraph(tuple(found))

    def blocks(self, name: str, /, **parts: Any) -> list[Block]:
        """The text `name` of `templates/texts.txt` as blocks, without tables that are empty and pictures not there.

        `parts` are the cells of its prose and its tables, and the blocks that stand at `[name]`, one or several. A
        `[name]` without such a part is a table of this file: its headings and rows follow.
        """
        found: list[Block] = []
        for line, *of_table in _texts()[name]:
            kind, _, text = line.partition(" ")
            if kind == "#":
                found.append(Heading(text))
            elif kind.startswith("["):
                part, caption = parts.get(kind.strip("[]")), self._words(text, parts)
                part = self._table(of_table, parts) if part is None else part
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

    def _table(self, lines: Sequence[str], parts: dict[str, Any]) -> Table:
        """`| heading | *metric metric` and `| place.of.rows: cell | cells.*`; `*` stands for each of the metrics."""
        headings, *rows = ([cell.strip() for cell in line[1:].split("|")] for line in lines)
        metrics, titles = [""], []
        for heading in headings:
            names, comma, more = heading.lstrip("*").partition(",")
            metrics = names.split() if heading.startswith("*") else metrics
            titles += [TITLES[name] + comma + more for name in metrics] if heading[:1] == "*" else [heading]
        found: list[list[Inline]] = []
        for first, *others in rows:
            keys, _, cell = first.partition(": ")
            for place in [self] if keys == "." else self._places(keys.split(".")):
                found.append([])
                for template in (cell, *others):
                    for name in metrics if "*" in template else [""]:
                        words = place.sentence(template.replace("*", name), **parts).parts
                        found[-1].append(words[0] if len(words) == 1 else "".join(map(plain, words)))
        return self.table(titles, found)

    def _places(self, keys: Sequence[str]) -> "Iterator[SourceFile]":
        first, *rest = keys
        return (deeper for one in self.each(first) for deeper in (one._places(rest) if rest else [one]))

    def _words(self, template: str, parts: dict[str, Any]) -> str:
        return "".join(map(plain, self.sentence(template, **parts).parts))


@cache
def _texts() -> dict[str, list[list[str]]]:
    whole = files("mammo.report").joinpath("templates", "texts.txt").read_text()
    texts = (text.strip().partition("\n") for text in whole.split("\n== ")[1:])
    return {name: [block.split("\n") for block in re.split(r"\n(?!\|)", lines)] for name, _, lines in texts}


def shown(value: Any, digits: int = 3, *, signed: bool = False) -> str:
    """A value of JSON as people read it, whether a number or an estimate.

    An estimate is `0.834 ± 0.012 (0.756 to 0.901), n 64`: value, standard deviation over runs, interval and n, as far
    as there are such. A mean over seeds is `0.834 ± 0.012 (10 seeds)`. Null is `n/a`. A value that rounds to nothing
    has no side; the end of an interval keeps its sign, which says on which side of it 0 lies.
    """
    sign = "+" if signed else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:{sign}.{digits}f}"
    if isinstance(value, list):
        return ", ".join(shown(one, digits) for one in value)
    if isinstance(value, dict):
        centre, spread = value.get("value", value.get("mean")), value.get("sd_runs", value.get("sd"))
        if centre is not None:
            text = f"{centre:{sign}z.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
            if "mean" in value:
                return f"{text} ({counted(value['n_seeds'], 'seed')})"
            if value["ci_low"] is not None:
                low, high = (shown(value[end], digits, signed=signed) for end in ("ci_low", "ci_high"))
                text += f" ({low} to {high})"
            return text if value.get("n") is None else f"{text}, n {value['n']}"
    return "n/a" if value is None or isinstance(value, dict) else str(value)


def counted(n: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def plain(part: Inline) -> str:
    """The text alone."""
    return part if isinstance(part, str) else part.text


def document(title: str, blocks: Sequence[Block], *, synthetic: bool) -> str:
    """A Markdown file: title, notice, blocks."""
    return f"# {title}\n\n{_phantom(synthetic)}{NOTICE}\n\n{markdown(blocks, synthetic=synthetic)}\n"


def markdown(blocks: Sequence[Block], *, synthetic: bool, linked: bool = False) -> str:
    """Blocks as Markdown, without the pictures.

    Each table of `synthetic` ones says that it rests on phantoms; `linked` cells refer to their file by its name.
    """
    found: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            found.append(f"## {block.text}")
        elif isinstance(block, Paragraph):
            found.append("".join(inline_markdown(part, linked=linked) for part in block.parts))
        elif isinstance(block, Table):
            rows = [[inline_markdown(part, linked=linked) for part in row] for row in block.rows]
            lines = [_line(block.headings), "|" + "---|" * len(block.headings), *map(_line, rows)]
            found += [f"{_phantom(synthetic)}{block.caption}", "\n".join(lines)]
    return "\n\n".join(found)


def inline_markdown(part: Inline, *, linked: bool) -> str:
    """`**[0.812 (0.700 to 0.889), n 64][results.json]**`, as far as its cell is bold and linked."""
    if isinstance(part, str):
        return part
    text = f"`{part.text}`" if part.code and part.text else part.text
    text = f"[{text}][{reference(part.href)}]" if linked and part.href else text
    return f"**{text}**" if part.strong else text


def reference(href: str) -> str:
    """The name by which Markdown refers to the file of a link."""
    return href.partition("#")[0].rpartition("/")[2]


def _phantom(synthetic: bool) -> str:
    return f"**{PHANTOM}.** " if synthetic else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
