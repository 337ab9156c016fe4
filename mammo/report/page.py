"""`reports/index.html` and `reports/model_card.md`: everything that was found, without a run id or a commit.

Both are the same in every clone. The page needs no network and no other file. The card has the usual sections (Mitchell
et al. 2019, doi 10.1145/3287560.3287596).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

import pandas as pd

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import NOTICE, PHANTOM
from mammo.core.files import Workspace, missing_file, read_json, write_bytes, write_json
from mammo.core.provenance import fingerprint, library_versions
from mammo.core.records import SPLITS, Label
from mammo.data.splits import read_parts
from mammo.evaluation.baselines import DOI
from mammo.evaluation.metrics import TITLES
from mammo.models.bundle import DESCRIPTION_FILE
from mammo.report.audit import audit_blocks
from mammo.report.blocks import Block, Cell, Picture, Section, Table, inline_markdown, markdown, reference
from mammo.report.explanations import RULE, draw_examples, pick_examples
from mammo.report.results import (
    PREDICTIONS_FILE,
    RESULTS_FILE,
    choice_blocks,
    comparisons_blocks,
    operation_blocks,
    results_blocks,
    slice_report,
    slices_blocks,
    systems_table,
)
from mammo.report.source import SourceFile
from mammo.report.studies import (
    Blocks,
    ablation_blocks,
    ledger_blocks,
    nested_blocks,
    seeds_blocks,
    tuning_blocks,
    variants_blocks,
)
from mammo.systems.assess import FLOOR

PAGE_FILE: Final = "index.html"
CARD_FILE: Final = "model_card.md"


@dataclass(frozen=True)
class ReportInputs:
    """The files of one report.

    Attributes:
        workspace: the workspace.
        config: its settings.
        results: `reports/evaluate/results.json`.
        champion: `reports/champion.json`.
        model: the description of the champion's bundle.
        slices: `reports/slices.json`.
        provenance: `reports/provenance.json`.
        predictions: `reports/evaluate/predictions.csv`.
    """

    workspace: Workspace
    config: Config
    results: SourceFile
    champion: SourceFile
    model: SourceFile
    slices: SourceFile
    provenance: SourceFile
    predictions: pd.DataFrame

    @property
    def system(self) -> str:
        """The champion's system."""
        return str(self.champion.content["system"])

    @property
    def synthetic(self) -> bool:
        """The judged ROIs are phantoms."""
        return bool(self.results.content["data"]["synthetic"])


def gather(workspace: Workspace, config: Config) -> ReportInputs:
    """Read the inputs; compute and write the slices and the provenance, which no earlier stage knows.

    Raises:
        DataError: a file that the evaluation or the registration makes is missing or damaged.
    """
    results, champion = (SourceFile.read(workspace, path) for path in (RESULTS_FILE, "champion.json"))
    model = SourceFile.read(workspace, f"../models/{champion.content['system']}/{DESCRIPTION_FILE}")
    predictions_file = workspace.reports / PREDICTIONS_FILE
    if not predictions_file.is_file():
        raise missing_file(predictions_file)
    predictions, rois = pd.read_csv(predictions_file), read_parts(workspace).table
    slices = SourceFile(
        "slices.json", slice_report(predictions, rois, config.evaluate, results.content["data"])
    )
    provenance = SourceFile("provenance.json", _provenance(workspace, config, rois, model.content))
    for source in (slices, provenance):
        write_json(workspace.reports / source.path, source.content)
    return ReportInputs(workspace, config, results, champion, model, slices, provenance, predictions)


def _provenance(
    workspace: Workspace, config: Config, rois: pd.DataFrame, model: dict[str, Any]
) -> dict[str, Any]:
    """Parts of the data, hashes and versions. Nothing that differs from clone to clone: no commit, no run id."""
    parts = {
        name: {
            "n_rois": len(part),
            "n_tumor": int((part["label"] == Label.TUMOR).sum()),
            "n_normal": int((part["label"] == Label.NORMAL).sum()),
            "n_groups": int(part["group_id"].nunique()),
            "n_patients": None if part["patient_id"].isna().any() else int(part["patient_id"].nunique()),
        }
        for name in SPLITS
        if len(part := rois[rois["split"] == name])
    }
    return {
        "parts": parts,
        "weights_sha256": {
            system: read_json(workspace.bundle(system) / DESCRIPTION_FILE)["weights_sha256"]
            for system in config.systems
        },
        "data_md5": model["provenance"].get("data_md5", {}),
        "params_fingerprint": fingerprint(config.model_dump()),
        "libraries": library_versions(),
    }


def write_page(inputs: ReportInputs) -> None:
    """Write `reports/index.html`; every text is escaped."""
    style = files("mammo.report").joinpath("templates", "page.css").read_text()
    headings = ("Accuracy", "Tumor recall", "Specificity", "AUC", "AUC minus the floor's")
    metrics = ("accuracy", "recall", "specificity", "auc_score")
    numbers = inputs.results.cells(metrics, "systems", inputs.system, "roi")
    margin = inputs.results.cell("selected_minus_floor_auc", signed=True)
    facts = list(zip(headings, [*numbers, margin], strict=True))
    page = _render("page.html.j2", inputs, sections=sections_of(inputs), facts=facts, style=style)
    write_bytes(inputs.workspace.reports / PAGE_FILE, page.encode())


def write_model_card(inputs: ReportInputs) -> None:
    """Write `reports/model_card.md` for the system that was registered last."""
    write_bytes(inputs.workspace.reports / CARD_FILE, model_card(inputs).encode())


def model_card(inputs: ReportInputs) -> str:
    """The card as Markdown; each number is a link to its file, by reference so that the text stays readable."""
    return _render(
        "model_card.md.j2",
        inputs,
        results=inputs.results,
        system=inputs.results.at("systems", inputs.system),
        parts=_parts(inputs.provenance),
        systems=[replace(systems_table(inputs.results), caption="All systems, the floor and the paper.")],
        slices=slices_blocks(inputs.slices, [inputs.system]),
        titles=TITLES,
        sources=[inputs.results, inputs.champion, inputs.model, inputs.slices, inputs.provenance],
    )


def _render(name: str, inputs: ReportInputs, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(str(files("mammo.report").joinpath("templates"))),
        autoescape=".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "minus": lambda text: re.sub(r"(?<![\w-])-(?=\d)", "−", text),
        "link": lambda part: inline_markdown(part, linked=True),
        "blocks": lambda blocks, synthetic: markdown(blocks, synthetic=synthetic, linked=True),
        "reference": reference,
    }
    page: str = environment.get_template(name).render(
        inputs=inputs, notice=NOTICE, phantom_name=PHANTOM, doi=DOI, **values
    )
    return page


def sections_of(inputs: ReportInputs) -> list[Section]:
    """The sections of the page, in their order."""
    workspace, results, system = inputs.workspace, inputs.results, inputs.system

    def section(
        key: str, title: str, blocks: Sequence[Block], missing: str = "dvc repro evaluate"
    ) -> Section:
        return Section(key, title, blocks, inputs.synthetic, missing)

    def study(key: str, title: str, command: str, sources: Mapping[str, Blocks]) -> Section:
        """The section of a study, whether or not its command has run; `sources`: glob → what to show of each file."""
        blocks: list[Block] = []
        synthetic = False
        for pattern, blocks_of in sources.items():
            for file in sorted(workspace.reports.glob(pattern)):
                source = SourceFile.read(workspace, str(file.relative_to(workspace.reports)))
                blocks += blocks_of(source)
                flags = (source.value("data", "synthetic"), source.value("record", "study", "synthetic"))
                synthetic |= any(flags)
        return Section(key, title, blocks, synthetic, command)

    training = [block for one in results.each("systems") for block in one.blocks("training", name=one.name)]
    ablation = {"ablate/ablate.json": ablation_blocks}
    tuning = {"tune/study.json": tuning_blocks, "tune/nested.json": nested_blocks}
    return [
        section("data", "Data and split", _data_blocks(inputs)),
        section("audit", "Leakage audit", audit_blocks(workspace), "dvc repro leakage"),
        section("results", "Results", results_blocks(results)),
        section("choice", "The chosen system", choice_blocks(results)),
        section("comparisons", "Are they different?", comparisons_blocks(results)),
        section("curves", "Curves and confusion", results.blocks("curves")),
        section("operation", "Thresholds, calibration and referral", operation_blocks(results)),
        section("slices", "Slices", slices_blocks(inputs.slices, [system, FLOOR])),
        section("explanations", "Explanations", _explanations(inputs)),
        section("errors", "What it gets wrong", results.blocks("errors", system=system)),
        section("training", "Training", training),
        study("seeds", "Spread over training seeds", "mammo seeds", {"seeds/seeds.json": seeds_blocks}),
        study("ledger", "Ledger", "mammo ledger", {"ledger/ledger.json": ledger_blocks}),
        study("ablate", "Ablation of the paper's defects", "mammo ablate", ablation),
        study("study", "Choice of settings", "mammo study FILE", {"study/*.json": variants_blocks}),
        study("tune", "Tuning", "mammo tune", tuning),
        section("settings", "Settings", [_settings_table(inputs.config)]),
        section("provenance", "Provenance", _provenance_blocks(inputs.provenance)),
    ]


def _data_blocks(inputs: ReportInputs) -> list[Block]:
    """What the numbers rest on: source, parts, expectations."""
    rows = []
    for name in ("rois", "leakage", "patches"):
        path = f"expectations/{name}.json"
        if (inputs.workspace.reports / path).is_file():
            source = SourceFile.read(inputs.workspace, path)
            kept = sum(rule.value("kept") for rule in source.each("expectations"))
            found = (source.cell("n_expectations"), Cell(str(kept), source.href("expectations")))
            rows.append((name, *found, source.cell("n_warnings")))
    headings = ("table", "expectations", "kept", "warnings")
    expectations = Table("", headings, tuple(rows), "expectations/rois.json")
    return inputs.results.blocks("data", parts=_parts(inputs.provenance), expectations=expectations)


def _parts(provenance: SourceFile) -> list[Block]:
    columns = ("n_rois", "n_tumor", "n_normal", "n_groups", "n_patients")
    headings = ("part", "ROIs", "Tumor", "Normal", "groups", "patients")
    parts = provenance.table(headings, ((one.name, *one.cells(columns)) for one in provenance.each("parts")))
    return provenance.blocks("parts", parts=parts)


def _explanations(inputs: ReportInputs) -> list[Block]:
    """A handful of ROIs of the test part, picked by rule, with vote map and Grad-CAM."""
    vote = VoteConfig(**inputs.model.content["vote"])
    examples = pick_examples(inputs.predictions, inputs.system, vote)
    model_name = inputs.champion.content["model_name"]
    drawn = draw_examples(inputs.workspace, inputs.config, inputs.system, model_name, examples)
    pictures = [
        # A row of the table is the line after the header (RFC 7111 counts from 1).
        Picture(f"{example.reason}: {example.roi_id}.", png, f"{PREDICTIONS_FILE}#row={example.row + 2}")
        for example, png in zip(examples, drawn, strict=True)
    ]
    command = Cell("mammo explain FILE_OR_ROI_ID", code=True)
    return inputs.results.blocks("explanations", rule=RULE, command=command, pictures=pictures)


def _settings_table(config: Config) -> Table:
    """The settings that made the systems."""
    sections = {
        **{name: getattr(config, name) for name in ("ingest", "split", "patches", "model", "train", "vote")},
        f"recipe {config.train.recipe}": config.recipe,
        "evaluate": config.evaluate,
    }
    rows = tuple((name, _in_words(section.model_dump())) for name, section in sections.items())
    settings_from = ("settings_from", str(config.settings_from))
    return Table("Settings of this report.", ("section", "values"), (settings_from, *rows), "../params.yaml")


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} ({_in_words(value)})"
        if isinstance(value, dict)
        else f"{key} {'null' if value is None else value}"
        for key, value in values.items()
    )


def _provenance_blocks(provenance: SourceFile) -> list[Block]:
    """Hashes of data, settings and weights, library versions, and how to find the MLflow run of each system."""
    query = "tags.`mammo.weights_sha256` = '{}'"
    weights = (
        (one.name, one.cell(code=True), Cell(query.format(one.value()), code=True))
        for one in provenance.each("weights_sha256")
    )
    data = ((one.name, one.cell(code=True)) for one in provenance.each("data_md5"))
    libraries = ((one.name, one.cell()) for one in provenance.each("libraries"))
    return provenance.blocks(
        "provenance",
        weights=provenance.table(("system", "weights SHA-256", "search in MLflow"), weights),
        data=provenance.table(("path", "md5"), data),
        libraries=provenance.table(("library", "version"), libraries),
    )
