"""Blocks that every report is made of: texts, tables and pictures whose numbers know the place they came from.

Each table is built once, by a `SourceFile`; `markdown` here, the page's template and `terminal.rich_table` show it.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from mammo.core.errors import NOTICE, PHANTOM

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
    """A table with its caption, and the file that its numbers came from (relative to `reports/`).

    Raises:
        ValueError: a row is longer or shorter than the headings.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Inline, ...], ...]
    source: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ValueError(
                    f"a row must have a cell for each of {len(self.headings)} headings, got {row}"
                )


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

        with Image.open(BytesIO(self.png)) as image:
            packed = BytesIO()
            image.convert("RGB").save(packed, format="WEBP", quality=_WEBP_QUALITY, method=4)
        return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


Block = Heading | Paragraph | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        blocks: what it shows; empty when its files are missing.
        synthetic: its numbers rest on phantoms, which each table and picture then says.
        missing: the command that makes the files that it needs.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    synthetic: bool
    missing: str = ""


def plain(part: Inline) -> str:
    """The text alone."""
    return part if isinstance(part, str) else part.text


def document(title: str, blocks: Sequence[Block], *, synthetic: bool) -> str:
    """A Markdown file: title, notice, blocks."""
    return f"# {title}\n\n{_phantom(synthetic)}{NOTICE}\n\n{markdown(blocks, synthetic=synthetic)}\n"


def markdown(blocks: Sequence[Block], *, synthetic: bool, linked: bool = False) -> str:
    """Blocks as Markdown, without the pictures.

    Args:
        blocks: what to show.
        synthetic: say at each table that it rests on phantoms.
        linked: link each cell to its file, by a reference of the file's name.
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
