"""`reports/index.html` and `reports/model_card.md`: everything that was found, without a run id or a commit.

Both are the same in every clone. The page needs no network and no other file. The card has the usual sections (Mitchell
et al. 2019, doi 10.1145/3287560.3287596).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import NOTICE, PHANTOM
from mammo.core.files import write_bytes
from mammo.evaluation.baselines import DOI
from mammo.evaluation.metrics import TITLES
from mammo.report.audit import audit_blocks
from mammo.report.blocks import (
    Block,
    Cell,
    Picture,
    Section,
    Table,
    inline_markdown,
    markdown,
    reference,
)
from mammo.report.examples import RULE, draw_examples, pick_examples
from mammo.report.inputs import ReportInputs
from mammo.report.ledger import ledger_blocks
from mammo.report.results import (
    PREDICTIONS_FILE,
    choice_blocks,
    comparisons_blocks,
    operation_blocks,
    results_blocks,
    systems_table,
)
from mammo.report.slices import slices_blocks
from mammo.report.source import SourceFile, pictures_of
from mammo.report.studies import ablation_blocks, seeds_blocks, study_section, variants_blocks
from mammo.report.tuning import nested_blocks, tuning_blocks
from mammo.systems.assess import FLOOR

PAGE_FILE: Final = "index.html"
CARD_FILE: Final = "model_card.md"


def write_page(inputs: ReportInputs) -> None:
    """Write `reports/index.html`; every text is escaped."""
    style = files("mammo.report").joinpath("templates", "page.css").read_text()
    page = _render("page.html.j2", inputs, sections=sections_of(inputs), facts=_facts(inputs), style=style)
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


def _facts(inputs: ReportInputs) -> list[tuple[str, Cell]]:
    """The numbers at the top."""
    roi = inputs.results.at("systems", inputs.system, "roi")
    wanted = {
        "Accuracy": "accuracy",
        "Tumor recall": "recall",
        "Specificity": "specificity",
        "AUC": "auc_score",
    }
    margin = inputs.results.cell("selected_minus_floor_auc", signed=True)
    return [
        *((title, roi.cell(metric)) for title, metric in wanted.items()),
        ("AUC minus the floor's", margin),
    ]


def sections_of(inputs: ReportInputs) -> list[Section]:
    """The sections of the page, in their order."""
    workspace, results, system = inputs.workspace, inputs.results, inputs.system

    def section(
        key: str,
        title: str,
        blocks: Sequence[Block],
        captions: dict[str, str] | None = None,
        missing: str = "dvc repro evaluate",
    ) -> Section:
        pictures = pictures_of(
            workspace, {f"evaluate/{name}.png": text for name, text in (captions or {}).items()}
        )
        return Section(key, title, [*blocks, *pictures], inputs.synthetic, missing)

    of_curves = {
        "curves": "ROC and precision-recall curves on the test part.",
        "confusion": "Confusion matrices.",
    }
    of_operation = {
        "reliability": "Reliability before and after calibration.",
        "referral": "Coverage and referral rate against the promise.",
    }
    of_errors = {
        f"errors-{system}": f"Every ROI of the test part that {system} decided wrongly, with its votes."
    }
    of_training = {
        f"training-{name}": f"Training of {name} (numbers: train/{name}.csv)."
        for name in results.content["systems"]
    }
    of_ledger = {
        "ledger/ledger.png": "The ledger's intervals by protocol.",
        "ledger/referral.png": "Coverage and referral rate by honest fold.",
    }
    of_tuning = {
        "tune/history.png": "Every trial in its order.",
        "tune/slice.png": "Value over each parameter, one panel each.",
        "tune/importance.png": "Share of the spread of the values that each parameter explains (fANOVA).",
    }
    seeds, ledger = {"seeds/seeds.json": seeds_blocks}, {"ledger/ledger.json": ledger_blocks}
    tuning = {"tune/study.json": tuning_blocks, "tune/nested.json": nested_blocks}
    study = partial(study_section, workspace)
    return [
        section("data", "Data and split", _data_blocks(inputs)),
        section("audit", "Leakage audit", audit_blocks(workspace), missing="dvc repro leakage"),
        section("results", "Results", results_blocks(results)),
        section("choice", "The chosen system", choice_blocks(results)),
        section("comparisons", "Are they different?", comparisons_blocks(results)),
        section("curves", "Curves and confusion", [], of_curves),
        section("operation", "Thresholds, calibration and referral", operation_blocks(results), of_operation),
        section("slices", "Slices", slices_blocks(inputs.slices, [system, FLOOR])),
        section("explanations", "Explanations", _explanations(inputs)),
        section("errors", "What it gets wrong", [], of_errors),
        section("training", "Training", [], of_training),
        study("seeds", "Spread over training seeds", "mammo seeds", seeds),
        study("ledger", "Ledger", "mammo ledger", ledger, of_ledger),
        study(
            "ablate",
            "Ablation of the paper's defects",
            "mammo ablate",
            {"ablate/ablate.json": ablation_blocks},
        ),
        study("study", "Choice of settings", "mammo study FILE", {"study/*.json": variants_blocks}),
        study("tune", "Tuning", "mammo tune", tuning, of_tuning),
        section("settings", "Settings", [_settings_table(inputs.config)]),
        section("provenance", "Provenance", _provenance_blocks(inputs.provenance)),
    ]


def _data_blocks(inputs: ReportInputs) -> list[Block]:
    """What the numbers rest on: source, parts, expectations."""
    paths = [f"expectations/{name}.json" for name in ("rois", "leakage", "patches")]
    found = [
        SourceFile.read(inputs.workspace, path)
        for path in paths
        if (inputs.workspace.reports / path).is_file()
    ]
    rows = tuple(
        (
            Path(source.path).stem,
            source.cell("n_expectations"),
            Cell(
                str(sum(rule.value("kept") for rule in source.each("expectations"))),
                source.href("expectations"),
            ),
            source.cell("n_warnings"),
        )
        for source in found
    )
    expectations = Table("", ("table", "expectations", "kept", "warnings"), rows, paths[0])
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
    weights = (
        (one.name, one.cell(code=True), Cell(f"tags.`mammo.weights_sha256` = '{one.value()}'", code=True))
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
