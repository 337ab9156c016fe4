"""`reports/index.html`: everything that the project found, on one page that needs no network and no other file."""

from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

from mammo.core.config import VoteConfig
from mammo.core.errors import NOTICE
from mammo.core.files import write_bytes
from mammo.evaluation.baselines import DOI
from mammo.report.document import Block, Cell, PageSection, Paragraph, Picture, Table, picture_uri, shown
from mammo.report.explanations import RULE, draw_examples, pick_examples
from mammo.report.page_audit import audit_section
from mammo.report.page_operation import operation_section
from mammo.report.page_results import (
    choice_section,
    comparisons_section,
    curves_section,
    data_section,
    errors_and_training,
    results_section,
    slices_section,
)
from mammo.report.page_seeds import seeds_section
from mammo.report.page_studies import ablation_section, choices_section, ledger_section
from mammo.report.page_tuning import tuning_section
from mammo.report.report_inputs import ReportInputs

PAGE_FILE: Final = "index.html"
_TEMPLATE: Final = "page.html.j2"


def write_page(inputs: ReportInputs) -> None:
    """Write `reports/index.html`."""
    write_bytes(inputs.space.reports / PAGE_FILE, render(inputs, sections_of(inputs)).encode())


def sections_of(inputs: ReportInputs) -> list[PageSection]:
    """The sections of the page, in their order."""
    return [
        data_section(inputs),
        audit_section(inputs),
        results_section(inputs),
        choice_section(inputs),
        comparisons_section(inputs),
        curves_section(inputs),
        operation_section(inputs),
        slices_section(inputs),
        explanations_section(inputs),
        *errors_and_training(inputs),
        seeds_section(inputs),
        ledger_section(inputs),
        ablation_section(inputs),
        choices_section(inputs),
        tuning_section(inputs),
        settings_section(inputs),
        provenance_section(inputs),
    ]


def explanations_section(inputs: ReportInputs) -> PageSection:
    """A handful of ROIs of the test part, picked by rule, with vote map and Grad-CAM."""
    vote = VoteConfig(**inputs.model.content["vote"])
    examples = pick_examples(inputs.predictions, inputs.system, vote)
    drawn = draw_examples(
        inputs.space, inputs.config, inputs.system, inputs.champion.content["model_name"], examples
    )
    pictures = [
        # A row of the table is the line after the header (RFC 7111 counts from 1).
        Picture(
            f"{example.reason}: {example.roi_id}.",
            picture_uri(png),
            f"evaluate/predictions.csv#row={example.row + 2}",
        )
        for example, png in zip(examples, drawn, strict=True)
    ]
    blocks: list[Block] = [
        Paragraph((RULE,)),
        Paragraph(
            (
                "Vote map: each pixel shows the mean score of the patches that cover it. Grad-CAM: what speaks for "
                "Tumor and for Normal at first order; a guess about the network, no proof of where a lesion is. Where "
                "its sign fits few of the patch scores, its colours do not tell what the network saw. Any other ROI: ",
                Cell("mammo explain FILE_OR_ROI_ID", code=True),
                ".",
            )
        ),
        *pictures,
    ]
    return PageSection("explanations", "Explanations", tuple(blocks), inputs.synthetic)


def settings_section(inputs: ReportInputs) -> PageSection:
    """The settings that made the systems."""
    config = inputs.config
    shown_sections = {
        "ingest": config.ingest,
        "split": config.split,
        "patches": config.patches,
        "model": config.model,
        "train": config.train,
        "vote": config.vote,
        f"recipe {config.train.recipe}": config.recipe,
        "evaluate": config.evaluate,
    }
    rows = (
        ("settings_from", config.settings_from),
        *(
            (name, ", ".join(f"{key} {_setting(value)}" for key, value in section.model_dump().items()))
            for name, section in shown_sections.items()
        ),
    )
    table = Table("Settings of this report.", ("section", "values"), rows, "../params.yaml")
    return PageSection("settings", "Settings", (table,), synthetic=inputs.synthetic)


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_setting(one)}" for key, one in value.items()) + ")"
    return "null" if value is None else str(value)


def provenance_section(inputs: ReportInputs) -> PageSection:
    """Hashes of data, settings and weights, library versions, and how to find the MLflow run of each system."""
    provenance = inputs.provenance
    weights = tuple(
        (
            system,
            replace(provenance.cell("weights_sha256", system), code=True),
            Cell(f"tags.`mammo.weights_sha256` = '{digest}'", code=True),
        )
        for system, digest in provenance.content["weights_sha256"].items()
    )
    hashes = tuple(
        (path, replace(provenance.cell("data_md5", path), code=True))
        for path in provenance.content["data_md5"]
    )
    versions = tuple((name, provenance.cell("libraries", name)) for name in provenance.content["libraries"])
    fingerprint = Paragraph(("Settings fingerprint ", provenance.cell("params_fingerprint"), "."))
    runs = (
        "Weights, and the MLflow runs that made them. Run ids differ from clone to clone, so a run is found by the "
        "hash of its weights: start the UI with “mammo ui”, then search."
    )
    tables = (
        Table(runs, ("system", "weights SHA-256", "search in MLflow"), weights, provenance.path),
        Table("Data behind the chosen weights (DVC).", ("path", "md5"), hashes, provenance.path),
        Table("Libraries that wrote this report.", ("library", "version"), versions, provenance.path),
    )
    return PageSection("provenance", "Provenance", (fingerprint, *tables), inputs.synthetic)


def render(inputs: ReportInputs, sections: list[PageSection]) -> str:
    """The page as HTML; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = files("mammo.report").joinpath("templates")
    environment = Environment(
        loader=FileSystemLoader(str(folder)), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["picture"] = lambda block: isinstance(block, Picture)
    environment.tests["cell"] = lambda part: isinstance(part, Cell)
    page: str = environment.get_template(_TEMPLATE).render(
        title=f"{inputs.champion.content['model_name']}: {inputs.results.content['data']['note']}",
        inputs=inputs,
        sections=sections,
        facts=_facts(inputs),
        disclaimer=NOTICE,
        doi=DOI,
        style=folder.joinpath("page.css").read_text(),
    )
    return page


def _facts(inputs: ReportInputs) -> list[tuple[str, Cell, str]]:
    """The numbers at the top: name, value, interval."""
    results, system = inputs.results, inputs.system
    wanted = {
        "Accuracy": ("systems", system, "roi", "accuracy"),
        "Tumor recall": ("systems", system, "roi", "recall"),
        "Specificity": ("systems", system, "roi", "specificity"),
        "AUC": ("systems", system, "roi", "auc_score"),
        "AUC minus the floor's": ("selected_minus_floor_auc",),
    }
    facts = []
    for title, keys in wanted.items():
        estimate = results.value(*keys)
        low, value, high = (
            shown(estimate[end], signed="minus" in title) for end in ("ci_low", "value", "ci_high")
        )
        facts.append((title, Cell(value, results.href(*keys)), f"{low} to {high}, n = {estimate['n']}"))
    return facts
