"""Studies of many fits as people read them: seeds, ablation of the paper's defects, variants of the settings, tuning.

Every `write_` function takes the summary that the study returned, writes it as JSON with its tables as Markdown beside
it, and returns the Markdown for the terminal. The page reads the same JSON and shows the same blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mammo.core.files import Workspace, write_bytes, write_json
from mammo.report.blocks import Block, Cell, Inline, Paragraph, Section, document
from mammo.report.results import COLUMNS, titles
from mammo.report.source import SourceFile, counted

Blocks = Callable[[SourceFile], list[Block]]
_NESTED: Final = ("auc_score", "auc_vote_share", "accuracy", "recall", "specificity", "precision")
EFFECTS: Final = ("auc_score", "accuracy", "recall", "specificity", "precision")
_VERDICTS: Final = ("verdict, this row alone", "verdict, all rows together")
_FOLDS: Final = {
    "honest": "honest protocol (all ROIs, each held out once a repeat)",
    "development": "development protocol (the ROIs of train and val alone; the test part stays closed)",
}


def grid_in_words(grid: dict[str, Any]) -> str:
    """`5 folds × 2 repeats × 1 seed`."""
    counts = ((grid["n_folds"], "fold"), (grid["n_repeats"], "repeat"), (grid["n_seeds"], "seed"))
    return " × ".join(counted(n, word) for n, word in counts)


def about(source: SourceFile, folds: str) -> list[Block]:
    """What a study rests on: its ROIs, their groups, and how many fits."""
    grid = Cell(grid_in_words(source.value("settings")), source.href("settings"))
    return source.blocks("study", folds=folds, grid=grid)


def write_study(workspace: Workspace, name: str, title: str, blocks: Blocks, summary: dict[str, Any]) -> str:
    """Write a study's summary as `reports/NAME.json` and its tables as `NAME.md`; returns the Markdown."""
    source = SourceFile(f"{name}.json", summary)
    text = document(title, blocks(source), synthetic=summary["data"]["synthetic"])
    write_json(workspace.reports / source.path, summary)
    write_bytes(workspace.reports / f"{name}.md", text.encode())
    return text


def study_section(
    workspace: Workspace, key: str, title: str, command: str, sources: Mapping[str, Blocks]
) -> Section:
    """The page's section of a study, whether or not its command has run.

    Args:
        workspace: the workspace.
        key: the section's anchor.
        title: its heading.
        command: what makes its files.
        sources: files of `reports/`, by glob → what to show of each.
    """
    blocks: list[Block] = []
    synthetic = False
    for pattern, blocks_of in sources.items():
        for file in sorted(workspace.reports.glob(pattern)):
            source = SourceFile.read(workspace, str(file.relative_to(workspace.reports)))
            blocks += blocks_of(source)
            synthetic |= bool(
                source.value("data", "synthetic") or source.value("record", "study", "synthetic")
            )
    return Section(key, title, blocks, synthetic, command)


def write_seeds(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/seeds/seeds.json` and `.md`."""
    title = f"Test results over {summary['n_seeds']} training seeds"
    return write_study(workspace, "seeds/seeds", title, seeds_blocks, summary)


def seeds_blocks(source: SourceFile) -> list[Block]:
    """Mean ± standard deviation of every metric over the seeds; ensembles and floor beside it."""
    systems, selected = list(source.each("systems")), source.value("selected")
    rows: list[Sequence[Inline]] = [
        (
            Cell(one.name, strong=one.name == selected),
            one.cell("validation", "val_loss", digits=4),
            *one.cells(COLUMNS, "test"),
            one.cell("minus_floor_auc", signed=True),
        )
        for one in systems
    ]
    for ensemble in (one.at("ensemble") for one in systems):
        margin = ensemble.cell("minus_floor_auc", signed=True)
        rows.append((f"{ensemble.place[1]}, ensemble", "", *ensemble.cells(COLUMNS, "roi"), margin))
    rows.append(("floor (one fit)", "", *source.cells(COLUMNS, "floor", "roi"), ""))
    headings = ("system", "mean validation loss", *titles(COLUMNS), "AUC minus the floor's")
    chosen = source.at("systems", selected)
    defined = chosen.value("minus_floor_auc", "ci_low") is not None
    return source.blocks(
        "seeds",
        systems=source.table(headings, rows),
        chosen=source.cell("selected", strong=True),
        margin=chosen.blocks("margin") if defined else [],
    )


def write_ablation(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/ablate/ablate.json` and `.md`."""
    title = f"Defects of the paper's recipe, one at a time: {summary['system']}"
    return write_study(workspace, "ablate/ablate", title, ablation_blocks, summary)


def ablation_blocks(source: SourceFile) -> list[Block]:
    """What each defect does to the metrics, with it minus without it."""
    defects = list(source.each("defects"))
    headings = ("defect", "setting", "in our settings", *titles(EFFECTS), "ROIs", *_VERDICTS)
    rows = (
        (one.cell("name"), one.cell("setting", code=True), one.cell("in_reference"), *_effect(one))
        for one in defects
    )
    return source.blocks(
        "ablation",
        about=about(source, _FOLDS[source.value("settings", "protocol")]),
        effects=_method(source),
        defects=source.table(headings, rows),
        meanings=[Paragraph((one.cell("name", strong=True), f": {one.value('about')}.")) for one in defects],
    )


def write_variants(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/study/NAME.json` and `.md` of a study of settings."""
    title = f"Study {summary['name']}: {summary['system']}"
    return write_study(workspace, f"study/{summary['name']}", title, variants_blocks, summary)


def variants_blocks(source: SourceFile) -> list[Block]:
    """Each variant's effect against the settings as they were."""
    differs = _settings_in_words(source.value("reference", "overrides"))
    headings = (
        "variant",
        "settings",
        "AUC",
        *(f"{title}, effect" for title in titles(EFFECTS)),
        "ROIs",
        *_VERDICTS,
    )
    rows = (
        (
            one.cell("name"),
            Cell(_settings_in_words(one.value("overrides")), one.href("overrides"), code=True),
            one.cell("cells", "auc_score"),
            *_effect(one),
        )
        for one in source.each("variants")
    )
    return source.blocks(
        "variants",
        name=source.cell("name", strong=True),
        about=about(source, _FOLDS["development"]),
        effects=_method(source),
        variants=source.table(headings, rows),
        reference_settings=f"params.yaml with {differs}" if differs else "params.yaml as it was",
        found=_found(source.value("variants")),
    )


def _effect(one: SourceFile) -> list[Inline]:
    """Its cell for each of `EFFECTS`, n and both verdicts; or why there is none."""
    if one.value("effect") is None:
        return [*("" for _ in EFFECTS), "", one.cell("reason"), ""]
    cells = one.cells(EFFECTS, "effect", "cells", signed=True)
    return [*cells, *one.cells(("n_rois", "verdict"), "effect"), one.cell("effect", "together", "verdict")]


def _method(source: SourceFile) -> list[Block]:
    grid = source.value("settings")
    single = grid["n_repeats"] * grid["n_seeds"] == 1
    luck = "; with one run on each side they hold nothing of the luck of training" if single else ""
    return source.blocks("effects", luck=luck)


def _settings_in_words(overrides: dict[str, Any]) -> str:
    """`train.epochs: 16, vote.rule: mean_score`."""
    return ", ".join(f"{key}: {value}" for key, value in overrides.items())


def _found(variants: Sequence[dict[str, Any]]) -> str:
    """What helped, what hurt, what cannot be told apart, of all rows together."""
    kinds = {
        (True, False): "Helped",
        (False, True): "Hurt",
        (True, True): "Mixed",
        (False, False): "Not distinguishable",
    }
    names: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
    for one in variants:
        verdict = one["effect"]["together"]["verdict"]
        names[kinds["higher" in verdict, "lower" in verdict]].append(one["name"])
    found = (f"{kind}: {', '.join(of_kind)}." for kind, of_kind in names.items() if of_kind)
    return f"All rows together. {' '.join(found)}"


def tuning_blocks(source: SourceFile) -> list[Block]:
    """The study's choice beside the settings of `params.yaml`."""
    record = source.at("record")
    compared = isinstance(record.value("settings_of_params"), dict)
    rows = (
        (
            one.name,
            _range(one.value()),
            _chosen(record.at("best", "params", one.name)),
            _chosen(record.at("settings_of_params", "params", one.name)),
            record.cell("importance", one.name),
        )
        for one in record.each("space")
    )
    return record.blocks(
        "tuning",
        compared=record.blocks("compared") if compared else [],
        parameters=record.table(("parameter", "searched", "best trial", "params.yaml", "importance"), rows),
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


def write_nested(workspace: Workspace, summary: dict[str, Any]) -> str:
    """Write `reports/tune/nested.json` and `.md`; returns the Markdown for the terminal."""
    return write_study(workspace, "tune/nested", "Is tuning worth it? Nested folds", nested_blocks, summary)


def nested_blocks(nested: SourceFile) -> list[Block]:
    """The comparison on the ROIs that no study saw, then each fold's choice, its promise and what became of it."""
    params = list(nested.value("folds", 0, "params"))
    keys = ("fold", "n_rois", "promised", "kept_by_tuned", "kept_by_settings", "system")
    levels = nested.table(
        ("settings", *titles(_NESTED)),
        (
            ("chosen by each fold's study", *nested.cells(_NESTED, "tuned", "cells")),
            (
                f"settings of params.yaml ({nested.value('system')})",
                *nested.cells(_NESTED, "reference", "cells"),
            ),
            ("tuned minus settings, paired", *nested.cells(_NESTED, "effect", "cells", signed=True)),
        ),
    )
    folds = nested.table(
        ("fold", "ROIs", "promised", "tuned", "settings", "system", *params),
        (
            (*fold.cells(keys), *(_chosen(fold.at("params", name)) for name in params))
            for fold in nested.each("folds")
        ),
    )
    gap = nested.value("promise", "promised") - nested.value("promise", "kept_by_tuned")
    verdict = f"{abs(gap):.3f} too {'high' if gap > 0 else 'low, at its smaller budget'}"
    return nested.blocks(
        "nested",
        about=about(nested, "the ROIs of train and val alone (the test part stays closed)"),
        levels=levels,
        folds=folds,
        verdict=nested.cell("effect", "verdict", strong=True),
        gap=Cell(verdict, nested.href("promise")),
    )
