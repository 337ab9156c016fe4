"""Sections on what commands outside the pipeline leave: seeds, ledger, study; and the audit's own report.

The tables of the ledger, the study and the audit are drawn from the shape of their JSON: a dictionary or a list of
flat entries is a table; plain values are rows of two cells.
"""

from typing import Any, Final

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

_DEEPEST: Final = 3
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
            source.spread("systems", name, "minus_floor_auc"),
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
    """What lies in a folder of `reports/`: the tables of its JSON files, and its pictures."""
    files = sorted((inputs.space.reports / folder).glob("*.json"))
    blocks: list[Block] = []
    synthetic = inputs.synthetic
    for file in files:
        source = Source.read(inputs.space, f"{folder}/{file.name}")
        if source is not None:
            data = source.value("data")
            synthetic = (
                bool(data["synthetic"]) if isinstance(data, dict) and "synthetic" in data else synthetic
            )
            blocks += tables_of(source)
    for picture in sorted((inputs.space.reports / folder).glob("*.png")):
        caption = f"{picture.stem.replace('_', ' ').replace('-', ' ').capitalize()}."
        found = picture_of_file(inputs.space, f"{folder}/{picture.name}", caption)
        blocks += [] if found is None else [found]
    return Section(folder, title, tuple(blocks), synthetic, missing=command)


def tables_of(source: Source, keys: tuple[Any, ...] = ()) -> list[Block]:
    """The tables that the shape of a JSON file suggests, down to the third level."""
    found = source.value(*keys)
    title = " · ".join(str(key).replace("_", " ") for key in keys) or source.path
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
    if nested and all(_is_row(value) for value in nested.values()):
        return [*blocks, _entries(source, keys, nested, title)]
    if len(keys) < _DEEPEST:
        for key in nested:
            blocks += tables_of(source, (*keys, key))
    return blocks


def _entries(source: Source, keys: tuple[Any, ...], entries: dict[Any, dict[str, Any]], title: str) -> Table:
    columns = list(dict.fromkeys(column for entry in entries.values() for column in entry))
    rows = tuple(
        (
            "" if isinstance(key, int) else str(key),
            *(
                _cell(source, (*keys, key, column), entry[column]) if column in entry else ""
                for column in columns
            ),
        )
        for key, entry in list(entries.items())[:_MOST_ROWS]
    )
    rest = f" (the first {_MOST_ROWS} of {len(entries)})" if len(entries) > _MOST_ROWS else ""
    return Table(f"{title}{rest}.", ("", *(_words(column) for column in columns)), rows, source.path)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_cell(entry) for entry in value.values())


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


def _cell(source: Source, keys: tuple[Any, ...], value: Any) -> Cell:
    if isinstance(value, dict):
        text = shown_estimate(value) if _is_estimate(value) else source.spread(*keys).text
        return Cell(text, source.href(*keys))
    return Cell(shown(value), source.href(*keys))


def _words(key: Any) -> str:
    return TITLES.get(str(key), str(key).replace("_", " "))
