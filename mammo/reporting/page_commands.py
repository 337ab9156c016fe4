"""Sections on the spread over seeds, and on the audit's own report.

The audit's tables are drawn from the shape of its JSON: a dictionary or a list of flat entries is a table; plain values
are rows of two cells.
"""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from mammo.evaluation.metrics import TITLES
from mammo.reporting.document import (
    Block,
    Cell,
    Inline,
    Paragraph,
    Section,
    Source,
    Table,
    picture_of_file,
    shown,
    shown_estimate,
)
from mammo.reporting.report_inputs import ReportInputs
from mammo.reporting.seeds import COLUMNS
from mammo.storage import read_json

Keys = tuple[Any, ...]
"""The way to a value in a JSON file."""

_DEEPEST: Final = 3
_WRITTEN: Final = {"roi": "ROI", "rois": "ROIs", "mad": "MAD", "auc": "AUC", "sd": "SD"}
_MOST_ROWS: Final = 40
"""Longer tables end here, and say so; their file holds the rest."""


def seeds_section(inputs: ReportInputs) -> Section:
    """Mean and spread of the test results over training seeds."""
    source = Source.read(inputs.space, "seeds/seeds.json")
    title = "Spread over training seeds"
    if source is None:
        return Section("seeds", title, missing="mammo seeds")
    rows = [
        (
            Cell(name, strong=name == source.content["selected"]),
            source.cell("systems", name, "validation", "val_loss", digits=4),
            *(source.spread("systems", name, "test", metric) for metric in COLUMNS),
            source.spread("systems", name, "minus_floor_auc", signed=True),
        )
        for name in source.content["systems"]
    ]
    floor: tuple[Inline, ...] = (
        "floor (one fit, with interval)",
        "",
        *(source.estimate("floor", "roi", metric) for metric in COLUMNS),
        "",
    )
    about = Paragraph(
        (
            source.cell("n_seeds"),
            " seeds; mean ± standard deviation, never the best seed. Data: ",
            source.cell("data", "note"),
            ". The spread does not hold the uncertainty of so few test ROIs: see the intervals above.",
        )
    )
    headings = (
        "system",
        "mean validation loss",
        *(TITLES[name] for name in COLUMNS),
        "AUC minus the floor's",
    )
    caption = "Test part. Bold: chosen by the mean validation result."
    table = Table(caption, headings, (*rows, floor), source.path)
    return Section("seeds", title, (about, table), bool(source.content["data"]["synthetic"]))


def folder_section(inputs: ReportInputs, folder: str, title: str, command: str) -> Section:
    """What lies in a folder of `reports/`: tables of its JSON files, of CSV files that have no JSON, and pictures."""
    place = inputs.space.reports / folder
    blocks: list[Block] = []
    synthetic = inputs.synthetic
    for file in sorted(place.glob("*.json")):
        source = Source(f"{folder}/{file.name}", read_json(file))
        stated = source.value("data", "synthetic")
        synthetic = synthetic if stated is None else bool(stated)
        blocks += tables_of(source)
    for file in sorted(place.glob("*.csv")):
        if not file.with_suffix(".json").is_file():
            blocks.append(_table_of_csv(file, f"{folder}/{file.name}"))
    for file in sorted(place.glob("*.png")):
        found = picture_of_file(inputs.space, f"{folder}/{file.name}", f"{_title(file.stem)}.")
        blocks += [] if found is None else [found]
    return Section(folder, title, tuple(blocks), synthetic, missing=command)


def _table_of_csv(file: Path, path: str) -> Table:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    rows: tuple[tuple[Inline, ...], ...] = tuple(
        # RFC 7111 counts the header as row 1.
        tuple(Cell(value, f"{path}#row={number}") for value in row)
        for number, row in enumerate(table.head(_MOST_ROWS).itertuples(index=False, name=None), start=2)
    )
    headings = tuple(_words(column) for column in table.columns)
    return Table(f"{_title(file.stem)}{_rest(len(table))}.", headings, rows, path)


def tables_of(source: Source, keys: Keys = ()) -> list[Block]:
    """The tables that the shape of a JSON file suggests, down to the third level."""
    found = source.value(*keys)
    title = _title(" · ".join(_words(key) for key in keys) or Path(source.path).stem)
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return []
    plain = {key: value for key, value in found.items() if _is_cell(value)}
    nested = {key: value for key, value in found.items() if key not in plain and value}
    blocks: list[Block] = []
    if plain:
        rows = tuple((_words(key), _cell(source, (*keys, key), value)) for key, value in plain.items())
        blocks.append(Table(f"{title}.", ("", "value"), rows, source.path))
    entries = {key: _flat(value) for key, value in nested.items()}
    if len(entries) > 1 and _is_table(list(entries.values())):
        return [*blocks, _entries(source, keys, entries, title)]
    if len(keys) < _DEEPEST:
        for key in nested:
            blocks += tables_of(source, (*keys, key))
    return blocks


def _is_table(entries: list[dict[Keys, Any]]) -> bool:
    """Whether the entries hold cells alone, and share a column."""
    shared = set.intersection(*(set(entry) for entry in entries))
    return bool(shared) and all(_is_cell(value) for entry in entries for value in entry.values())


def _flat(entry: Any) -> dict[Keys, Any]:
    """The values of an entry by their keys, and those of its dictionaries: `{("cells", "recall"): …}`."""
    flat: dict[Keys, Any] = {}
    for key, value in entry.items() if isinstance(entry, dict) else enumerate(entry):
        if isinstance(value, dict) and not _is_cell(value):
            flat |= {(key, inner): one for inner, one in value.items()}
        else:
            flat[(key,)] = value
    return flat


def _entries(source: Source, keys: Keys, entries: dict[Any, dict[Keys, Any]], title: str) -> Table:
    """A row for each entry, a column for each key that any of them has."""
    columns = list(dict.fromkeys(column for entry in entries.values() for column in entry))
    named = any(isinstance(key, str) for key in entries)
    rows: tuple[tuple[Inline, ...], ...] = tuple(
        (
            *([_words(key)] if named else []),
            *(
                _cell(source, (*keys, key, *column), entry[column]) if column in entry else ""
                for column in columns
            ),
        )
        for key, entry in list(entries.items())[:_MOST_ROWS]
    )
    headings = (*([""] if named else []), *(_words(column[-1]) for column in columns))
    return Table(f"{title}{_rest(len(entries))}.", headings, rows, source.path)


def _rest(n_rows: int) -> str:
    return f" (the first {_MOST_ROWS} of {n_rows})" if n_rows > _MOST_ROWS else ""


def _is_cell(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_estimate(value) or _is_spread(value)
    if isinstance(value, list):
        return all(not isinstance(one, dict | list) for one in value)
    return True


def _is_estimate(value: dict[str, Any]) -> bool:
    return {"value", "ci_low", "ci_high"} <= value.keys()


def _is_spread(value: dict[str, Any]) -> bool:
    return {"mean", "sd"} <= value.keys()


def _cell(source: Source, keys: Keys, value: Any) -> Cell:
    if not isinstance(value, dict):
        return Cell(shown(value), source.href(*keys))
    if _is_spread(value):
        return source.spread(*keys)
    hint = ", ".join(f"{_words(key)} {one}" for key, one in value.items() if key in ("n", "n_rois", "method"))
    return Cell(shown_estimate(value), source.href(*keys), hint=hint or "estimate with interval")


def _words(key: Any) -> str:
    if str(key) in TITLES:
        return TITLES[str(key)]
    return " ".join(_WRITTEN.get(word, word) for word in str(key).removeprefix("n_").split("_"))


def _title(key: str) -> str:
    words = _words(key)
    return words[:1].upper() + words[1:]
