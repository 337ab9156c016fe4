"""Studies of many fits as people read them: seeds, ledger, ablation of the paper's defects, variants, tuning.

A study's summary is written as JSON with its tables as Markdown beside it. The page reads the same JSON and shows the
same blocks.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from mammo.core.files import Workspace, atomic_folder, write_bytes, write_json
from mammo.evaluation.conformal import RATES
from mammo.evaluation.scores import METRICS
from mammo.report.blocks import Block, Cell, Paragraph, Rows, SourceFile, Table, counted, document, shown
from mammo.report.curves import draw_ledger, referral_picture
from mammo.report.results import FLOOR_TITLE, referral_table, slices_blocks, titles

Blocks = Callable[[SourceFile], list[Block]]
_FOLDS: Final = {
    "honest": "honest protocol (all ROIs, each held out once a repeat)",
    "development": "development protocol (the ROIs of train and val alone; the test part stays closed)",
}


def write_study(workspace: Workspace, kind: str, summary: dict[str, Any]) -> str:
    """Write a study's summary as JSON and its tables as Markdown; returns the Markdown for the terminal.

    `kind` is `seeds`, `ablate`, `study`, `nested` or `films`.
    """
    path, title, blocks = _STUDIES[kind]
    source = SourceFile(path.format(**summary), summary)
    text = document(title.format(**summary), blocks(source), synthetic=summary["data"]["synthetic"])
    file = workspace.reports / source.path
    write_json(file, summary)
    write_bytes(file.with_suffix(".md"), text.encode())
    return text


def write_ledger(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/ledger/`, all files or none: `ledger.json`, `.csv`, `.md` and `.png`, and `referral.png`.

    Returns the Markdown for the terminal.
    """
    data = summary["data"]
    blocks = ledger_blocks(SourceFile("ledger/ledger.json", summary))
    text = document("Ledger: published and honest protocols", blocks, synthetic=data["synthetic"])
    note = (
        f"{data['name']}: {data['n_rois']} ({data['n_tumor']} Tumor, {data['n_normal']} Normal) in "
        f"{data['n_groups']} groups; honest: {_grid(summary['settings'])}"
    )
    with atomic_folder(workspace.reports / "ledger") as folder:
        write_json(folder / "ledger.json", summary)
        write_bytes(folder / "ledger.csv", ledger_rows(summary).to_csv(index=False).encode())
        write_bytes(folder / "ledger.md", text.encode())
        draw_ledger(summary, folder / "ledger.png", note)
        referral_picture(summary["referral"], folder / "referral.png", note)
    return text


def _grid(settings: dict[str, Any]) -> str:
    """`5 folds × 2 repeats × 1 seed`."""
    return " × ".join(counted(settings[f"n_{noun}s"], noun) for noun in ("fold", "repeat", "seed"))


def _about(source: SourceFile, folds: str) -> list[Block]:
    """What a study rests on: its ROIs, their groups, and how many fits."""
    return source.blocks("study", folds=folds, grid=Cell(_grid(source.value("settings")), source.href("settings")))


def seeds_blocks(source: SourceFile) -> list[Block]:
    """Mean ± standard deviation of every metric over the seeds; ensembles and floor beside it."""
    selected = source.value("selected")
    chosen = source.at("systems", selected)
    return source.blocks(
        "seeds",
        bold=lambda one: Cell(one.name, strong=one.name == selected),
        chosen=source.cell("selected", strong=True),
        margin=chosen.blocks("margin") if chosen.value("minus_floor_auc", "ci_low") is not None else [],
    )


def ledger_blocks(source: SourceFile) -> list[Block]:
    """Rows by protocol, differences, gaps, and what the prediction sets of the honest folds kept."""
    by_protocol: dict[str, list[SourceFile]] = {}
    for row in source.each("rows"):
        by_protocol.setdefault(row.value("protocol"), []).append(row)
    flagged = Cell(str(len(source.value("flagged_rois") or ())), source.href("flagged_rois"))
    text = "published" if source.value("gaps") else "unpublished"
    slices = source.at("slices")
    sliced: list[Block] = []
    if known := [axis for axis in slices.each("axes") if axis.value("n_known")]:
        sliced = [*slices.blocks("ledger slices"), *slices_blocks(slices, list(known[0].value("systems")))]
    return source.blocks(
        "ledger",
        about=_about(source, "honest protocol"),
        published=source.blocks(text, flagged=flagged),
        levels=[_levels(source, rows) for rows in by_protocol.values()],
        title=_title,
        referral=referral_table(source, source.each("referral"), *_over_folds(source)),
        slices=sliced,
    )


def _levels(source: SourceFile, rows: Sequence[SourceFile]) -> Table:
    first = rows[0].value()
    protocol, groups = first["protocol"], counted(first["n_groups"], "group")
    about = f"{first['n_rois']} ROIs ({first['n_tumor']} Tumor) in {groups}."
    levels = ((_title(row), row.cell("n_runs"), *row.cells(METRICS, "cells")) for row in rows)
    caption = f"{protocol[0].upper()}{protocol[1:]}: {about}"
    return source.table(("system", "runs", *titles(METRICS)), levels, caption)


def _title(row: SourceFile) -> Cell:
    return Cell(FLOOR_TITLE, row.href("name")) if row.value("kind") == "floor" else row.cell("name")


def _over_folds(source: SourceFile) -> Rows:
    """All folds together (coverage is promised on average over folds), and how far the folds lie apart."""
    folds = source.value("referral")
    if not folds:
        return []
    values = pd.DataFrame([{name: fold[name]["value"] for name in RATES} for fold in folds], dtype=float)
    spread = (Cell(shown(sd), source.href("referral")) for sd in values.std().replace(np.nan, None))
    return [
        ("mean over the runs", "", "", *source.cells(RATES, "referral_over_runs"), ""),
        (f"standard deviation over {counted(len(folds), 'fold')}", "", "", *spread, ""),
    ]


def ledger_rows(ledger: dict[str, Any]) -> pd.DataFrame:
    """One row for each cell: protocol, name, metric, value, interval, n, method; the gaps are protocols too."""
    sets = [(row["protocol"], row, row["cells"]) for row in ledger["rows"]]
    for key, words in (("minus_floor", "minus the floor"), ("between_systems", "between the systems")):
        sets += [(f"{entry['protocol']}, {words}", entry, entry["cells"]) for entry in ledger[key]]
    for key, words in (("cells", ""), ("same_rois", ", same ROIs")):
        sets += [(f"published minus honest{words}", gap, gap[key]) for gap in ledger["gaps"]]
    columns = ("value", "ci_low", "ci_high", "sd_runs", "n", "n_groups", "n_runs", "confidence", "method")
    return pd.DataFrame(
        [
            {
                "data": ledger["data"]["name"],
                "protocol": protocol,
                "system": entry["name"],
                "kind": entry["kind"],
                "metric": metric,
                **{column: found.get(column) for column in columns},
            }
            for protocol, entry, cells in sets
            for metric, found in cells.items()
        ]
    )


def ablation_blocks(source: SourceFile) -> list[Block]:
    """What each defect does to the metrics, with it minus without it."""
    return source.blocks(
        "ablation",
        about=_about(source, _FOLDS[source.value("settings", "protocol")]),
        effects=_method(source),
        verdict=lambda one: one.cell("effect", "verdict") if one.value("effect") else one.cell("reason"),
        meanings=[
            Paragraph((one.cell("name", strong=True), f": {one.value('about')}.")) for one in source.each("defects")
        ],
    )


def variants_blocks(source: SourceFile) -> list[Block]:
    """Each variant's effect against the settings as they were."""
    differs = _settings_in_words(source.value("reference", "overrides"))
    found: dict[str, list[str]] = {"Helped": [], "Hurt": [], "Mixed": [], "Not distinguishable": []}
    for one in source.each("variants"):
        verdict = one.value("effect", "together", "verdict")
        kinds = [kind for kind, side in (("Helped", "higher"), ("Hurt", "lower")) if side in verdict]
        kind = "Mixed" if len(kinds) > 1 else kinds[0] if kinds else "Not distinguishable"
        found[kind].append(one.value("name"))
    in_words = (f"{kind}: {', '.join(names)}." for kind, names in found.items() if names)
    return source.blocks(
        "variants",
        study=source.cell("name", strong=True),
        about=_about(source, _FOLDS["development"]),
        effects=_method(source),
        settings=lambda one: Cell(_settings_in_words(one.value("overrides")), one.href("overrides"), code=True),
        reference_settings=f"params.yaml with {differs}" if differs else "params.yaml as it was",
        found=f"All rows together. {' '.join(in_words)}",
    )


def _method(source: SourceFile) -> list[Block]:
    grid = source.value("settings")
    single = grid["n_repeats"] * grid["n_seeds"] == 1
    luck = "; with one run on each side they hold nothing of the luck of training" if single else ""
    return source.blocks("effects", luck=luck)


def _settings_in_words(overrides: dict[str, Any]) -> str:
    """`train.epochs: 16, vote.rule: mean_score`."""
    return ", ".join(f"{key}: {value}" for key, value in overrides.items())


def tuning_blocks(source: SourceFile) -> list[Block]:
    """The study's choice beside the settings of `params.yaml`."""
    record = source.at("record")
    return record.blocks(
        "tuning",
        compared=record.blocks("compared") if isinstance(record.value("settings_of_params"), dict) else [],
        searched=lambda one: _range(one.value()),
        chosen=lambda one: _chosen(record.at("best", "params", one.name)),
        ours=lambda one: _chosen(record.at("settings_of_params", "params", one.name)),
        importance=lambda one: record.cell("importance", one.name),
        trials_csv=Cell("tune/trials.csv", "tune/trials.csv"),
        contour=Cell("tune/contour.png", "tune/contour.png"),
        parallel=Cell("tune/parallel_coordinate.png", "tune/parallel_coordinate.png"),
        dashboard=Cell("mammo tune dashboard", code=True),
    )


def _range(parameter: dict[str, Any]) -> str:
    if parameter["type"] == "categorical":
        return ", ".join(str(choice) for choice in parameter["choices"])
    step = f" by {parameter['step']}" if parameter.get("step") not in (None, 1) else ""
    return f"{parameter['low']} to {parameter['high']}{step}{', log' if parameter['log'] else ''}"


def _chosen(place: SourceFile) -> Cell:
    """A parameter's value, with four significant digits."""
    value = place.value()
    return Cell(f"{value:.4g}", place.href()) if isinstance(value, float) else place.cell()


def nested_blocks(nested: SourceFile) -> list[Block]:
    """The comparison on the ROIs that no study saw, then each fold's choice, its promise and what became of it."""
    params = list(nested.value("folds", 0, "params"))
    keys = ("fold", "n_rois", "promised", "kept_by_tuned", "kept_by_settings", "system")
    folds = (
        (*fold.cells(keys), *(_chosen(fold.at("params", name)) for name in params)) for fold in nested.each("folds")
    )
    gap = nested.value("promise", "promised") - nested.value("promise", "kept_by_tuned")
    verdict = f"{abs(gap):.3f} too {'high' if gap > 0 else 'low, at its smaller budget'}"
    return nested.blocks(
        "nested",
        about=_about(nested, "the ROIs of train and val alone (the test part stays closed)"),
        folds=nested.table(("fold", "ROIs", "promised", "tuned", "settings", "system", *params), folds),
        verdict=nested.cell("effect", "verdict", strong=True),
        gap=Cell(verdict, nested.href("promise")),
    )


def films_blocks(source: SourceFile) -> list[Block]:
    """What ROIs of the training films add, against the training parts as they are, the first row, and the floor."""
    _, *added = source.each("rows")
    metrics = list(source.value("rows", 0, "minus_floor", "cells"))
    effects = (
        (
            one.cell("name"),
            *one.cells(metrics, "effect", "cells", signed=True),
            one.cell("effect", "together", "verdict"),
        )
        for one in added
    )
    headings = ("training part", *titles(metrics), "verdict, all rows together")
    return source.blocks(
        "films",
        about=_about(source, "honest protocol, split and grouped by patient"),
        effects=source.table(headings, effects),
    )


_STUDIES: Final[dict[str, tuple[str, str, Blocks]]] = {
    "seeds": ("seeds/seeds.json", "Test results over {n_seeds} training seeds", seeds_blocks),
    "ablate": (
        "ablate/ablate.json",
        "Defects of the paper's recipe, one at a time: {system}",
        ablation_blocks,
    ),
    "study": ("study/{name}.json", "Study {name}: {system}", variants_blocks),
    "nested": ("tune/nested.json", "Is tuning worth it? Nested folds", nested_blocks),
    "films": ("films/extra_rois.json", "Further ROIs from the training films", films_blocks),
}
"""Kind → its file, its title, its blocks."""
