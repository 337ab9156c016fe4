"""What the report page is made of: texts, tables and pictures whose every number knows the file it came from.

A `SourceFile` holds a report file as it was read. Its methods look a value up and return it as a `Cell` with a link to
that very place, written as a JSON pointer (RFC 6901), so that a number and its link cannot part.
"""

import base64
from collections.abc import Hashable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mammo.core.files import Workspace, read_json

UNDEFINED: Final = "n/a"
_WEBP_QUALITY: Final = 78


@dataclass(frozen=True)
class Cell:
    """A piece of text.

    Attributes:
        text: what is read.
        href: the file, and the place in it, that it came from.
        hint: more about it, for those who point at it.
        strong: in bold type.
        code: a command, in fixed type.
    """

    text: str
    href: str = ""
    hint: str = ""
    strong: bool = False
    code: bool = False


Inline = str | Cell


@dataclass(frozen=True)
class Paragraph:
    """Text whose numbers are cells."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Table:
    """A table with its caption, and the file that its numbers came from (relative to `reports/`)."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Inline, ...], ...]
    source: str


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: `uri` holds the whole of it. `source` is its file, or what it was drawn from."""

    caption: str
    uri: str
    source: str


Block = Paragraph | Table | Picture


@dataclass(frozen=True)
class PageSection:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        blocks: what it shows; empty when its files are missing.
        synthetic: its numbers rest on phantoms, which each table and picture then says.
        missing: what makes the files that it needs, when they are missing.
    """

    key: str
    title: str
    blocks: tuple[Block, ...] = ()
    synthetic: bool = False
    missing: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A JSON file as the page links to it: its path relative to `reports/`, and its content."""

    path: str
    content: Any

    @classmethod
    def read(cls, space: Workspace, path: str) -> "SourceFile | None":
        """Read a file of `reports/` (or beside it, with `../`); None when there is none.

        Raises:
            DataError: the file is no JSON.
        """
        file = space.reports / path
        return cls(path, read_json(file)) if file.is_file() else None

    def href(self, *keys: Hashable) -> str:
        """Link to the value at `keys`."""
        pointer = "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)
        return f"{quote(self.path)}#{quote(pointer, safe='/~')}" if keys else quote(self.path)

    def value(self, *keys: Any) -> Any:
        """The value at `keys`; None when a key on the way is missing."""
        found = self.content
        for key in keys:
            try:
                found = found[key]
            except (IndexError, KeyError, TypeError):
                return None
        return found

    def cell(self, *keys: Any, digits: int = 3) -> Cell:
        """The value at `keys` as text: whole numbers as they are, others with `digits`, null as n/a."""
        return Cell(shown(self.value(*keys), digits), self.href(*keys))

    def estimate(self, *keys: Any) -> Cell:
        """The estimate at `keys` with its interval: `0.891 (0.791 to 0.946)`; an empty cell when there is none."""
        found = self.value(*keys)
        if found is None:
            return Cell("")
        return Cell(shown_estimate(found), self.href(*keys), hint=f"n = {found['n']}; {found['method']}")

    def difference(self, *keys: Any) -> Cell:
        """The difference at `keys` with sign and interval: `+0.021 (−0.034 to +0.077)`; empty when there is none."""
        found = self.value(*keys)
        if found is None:
            return Cell("")
        return Cell(
            shown_estimate(found, signed=True), self.href(*keys), hint=f"n = {found['n']}; {found['method']}"
        )

    def spread(self, *keys: Any, signed: bool = False) -> Cell:
        """Mean ± standard deviation over seeds at `keys`, and how many they are where it is undefined in some."""
        found = self.value(*keys)
        if found is None:
            return Cell("")
        deviation = "" if found["sd"] is None else f" ± {found['sd']:.3f}"
        n_defined, n_seeds = found.get("n_seeds"), self.content.get("n_seeds")
        rest = "" if n_defined in (None, n_seeds) else f" ({n_defined} of {n_seeds} seeds)"
        return Cell(f"{shown(found['mean'], signed=signed)}{deviation}{rest}", self.href(*keys))


def shown(value: Any, digits: int = 3, *, signed: bool = False) -> str:
    """A value of JSON as people read it."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    if isinstance(value, list):
        return ", ".join(shown(one, digits) for one in value)
    return str(value)


def shown_estimate(estimate: dict[str, Any], *, signed: bool = False) -> str:
    """`0.891 (0.791 to 0.946)`; without the interval where none can be stated; n/a where undefined."""
    low, high = (shown(estimate[key], signed=signed) for key in ("ci_low", "ci_high"))
    # Plus 0.0: a value that rounds to nothing has no side. An end keeps its sign, which says where 0 lies.
    value = shown(None if estimate["value"] is None else round(estimate["value"], 3) + 0.0, signed=signed)
    if estimate["value"] is None or estimate["ci_low"] is None:
        return value
    return f"{value} ({low} to {high})"


def picture_of_file(space: Workspace, path: str, caption: str) -> Picture | None:
    """A PNG of `reports/` for the page; None when there is none."""
    file = space.reports / path
    return Picture(caption, picture_uri(file), quote(path)) if file.is_file() else None


def picture_uri(png: Path | bytes) -> str:
    """A PNG as a data URI of a smaller WebP: the page stays small, the file that it links to stays sharp."""
    from PIL import Image

    with Image.open(BytesIO(png) if isinstance(png, bytes) else png) as image:
        packed = BytesIO()
        image.convert("RGB").save(packed, format="WEBP", quality=_WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"
