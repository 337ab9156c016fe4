"""`reports/index.html` and `reports/model_card.md`: everything that was found, without a run id or a commit.

Both are the same in every clone. The page needs no network and no other file. The card has the usual sections (Mitchell
et al. 2019, doi 10.1145/3287560.3287596).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mammo.core.config import Config, VoteConfig
from mammo.core.errors import NOTICE, PHANTOM
from mammo.core.files import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Workspace,
    read_json,
    write_bytes,
    write_json,
)
from mammo.core.provenance import fingerprint, library_versions
from mammo.core.records import SPLITS, Label
from mammo.core.systems import FLOOR, title_of
from mammo.data.locate import with_films
from mammo.data.splits import read_parts
from mammo.evaluation.baselines import DOI
from mammo.evaluation.metrics import TITLES
from mammo.evaluation.scores import read_predictions
from mammo.report import results as evaluation
from mammo.report import studies
from mammo.report.audit import AUDIT_FILE, audit_blocks, audit_headline
from mammo.report.blocks import (
    Block,
    Cell,
    Paragraph,
    Picture,
    SourceFile,
    Table,
    inline_markdown,
    markdown,
    reference,
)
from mammo.report.rois import RULE, draw_examples, pick_examples

UNFOLDED: Final = ("results", "comparisons", "use")  # open at first
UNGROUPED: Final = "The patients were unknown to this study: its groups are ROIs of shared tissue."
FILMS: Final = ("audit", "explanations", "errors")  # their pictures show tissue


@dataclass(frozen=True)
class ReportInputs:
    """The files of one report: `model` describes the champion's bundle, `audit` is None where its stage has not run."""

    workspace: Workspace
    config: Config
    results: SourceFile
    champion: SourceFile
    model: SourceFile
    slices: SourceFile
    provenance: SourceFile
    audit: SourceFile | None
    predictions: pd.DataFrame

    @property
    def system(self) -> str:
        """The champion's system."""
        return str(self.champion.content["system"])

    @property
    def title(self) -> str:
        """The champion's system with its weights."""
        return title_of(self.system, self.model.content["provenance"].get("weights", ""))

    @property
    def synthetic(self) -> bool:
        """The judged ROIs are phantoms."""
        return bool(self.results.content["data"]["synthetic"])


@dataclass(frozen=True)
class Section:
    """A part of the page: anchor, heading, blocks (none without its files), and the command that makes its files.

    `others` are files of its kind that are of other data.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    missing: str = "dvc repro evaluate"
    others: Sequence[str] = ()


def gather(workspace: Workspace, config: Config) -> ReportInputs:
    """Read the inputs; compute and write the slices and the provenance, which no earlier stage knows.

    Raises:
        DataError: a file that the evaluation or the registration makes is missing or damaged.
    """
    results = SourceFile.read(workspace, evaluation.RESULTS_FILE)
    champion = SourceFile.read(workspace, "champion.json")
    model = SourceFile.read(workspace, f"../models/{champion.content['system']}/{DESCRIPTION_FILE}")
    predictions = read_predictions(workspace.reports / evaluation.PREDICTIONS_FILE)
    rois = with_films(read_parts(workspace).table, workspace.located)
    sliced = evaluation.slice_report(predictions, rois, config.evaluate, results.content["data"])
    slices = SourceFile("slices.json", sliced)
    provenance = SourceFile("provenance.json", _provenance(workspace, config, rois, model.content))
    for source in (slices, provenance):
        write_json(workspace.reports / source.path, source.content)
    audited = (workspace.reports / AUDIT_FILE).is_file()
    audit = SourceFile.read(workspace, AUDIT_FILE) if audited else None
    return ReportInputs(workspace, config, results, champion, model, slices, provenance, audit, predictions)


def _provenance(workspace: Workspace, config: Config, rois: pd.DataFrame, model: dict[str, Any]) -> dict[str, Any]:
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
    described = {system: read_json(workspace.description(system)) for system in config.systems}
    return {
        "parts": parts,
        "weights_sha256": {system: found["weights_sha256"] for system, found in described.items()},
        "data_md5": model["provenance"].get("data_md5", {}),
        "params_fingerprint": fingerprint(config.model_dump()),
        "libraries": library_versions(),
    }


def write_page(inputs: ReportInputs) -> None:
    """Write `reports/index.html`; every text is escaped."""
    titles = ("Accuracy", "Tumor recall", "Specificity", "AUC", "AUC minus the floor's")
    metrics = ("accuracy", "recall", "specificity", "auc_score")
    numbers = inputs.results.cells(metrics, "systems", inputs.system, "roi")
    floor = [*inputs.results.cells(metrics, FLOOR, "roi"), None]
    margin = inputs.results.cell("selected_minus_floor_auc", signed=True)
    page = _render(
        "page.html.j2",
        inputs,
        sections=sections_of(inputs),
        leakage=audit_headline(inputs.audit),
        verdict=evaluation.verdict(inputs.results, inputs.title),
        facts=zip(titles, [*numbers, margin], floor, strict=True),
        unfolded=UNFOLDED,
        films=FILMS,
        style=files("mammo.report").joinpath("templates", "page.css").read_text(),
    )
    write_bytes(inputs.workspace.reports / "index.html", page.encode())


def write_model_card(inputs: ReportInputs) -> None:
    """Write `reports/model_card.md` for the system that was registered last."""
    write_bytes(inputs.workspace.reports / "model_card.md", model_card(inputs).encode())


def model_card(inputs: ReportInputs) -> str:
    """The card as Markdown; each number is a link to its file, by reference so that the text stays readable."""
    caption = "All systems beside the floor, and the paper where its data are judged."
    sources = (inputs.results, inputs.champion, inputs.model, inputs.slices, inputs.provenance, inputs.audit)
    return _render(
        "model_card.md.j2",
        inputs,
        results=inputs.results,
        system=inputs.results.at("systems", inputs.system),
        parts=inputs.provenance.blocks("parts"),
        leakage=audit_headline(inputs.audit),
        systems=[evaluation.systems_table(inputs.results, caption=caption)],
        slices=evaluation.slices_blocks(inputs.slices, [inputs.system]),
        titles=TITLES,
        sources=[source for source in sources if source],
    )


def _render(name: str, inputs: ReportInputs, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("mammo.report"),
        autoescape=".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "minus": lambda text: re.sub(r"(?<![\w-])-(?=\d)", "−", text),
        "link": lambda part: inline_markdown(part, linked=True),
        "blocks": lambda blocks: markdown(blocks, synthetic=inputs.synthetic, linked=True),
        "reference": reference,
    }
    known = {"inputs": inputs, "notice": NOTICE, "phantom_name": PHANTOM, "doi": DOI}
    return environment.get_template(name).render(known, **values)


def sections_of(inputs: ReportInputs) -> list[Section]:
    """The sections of the page, in their order."""
    workspace, results, system = inputs.workspace, inputs.results, inputs.system
    data = results.content["data"]

    def study(key: str, title: str, command: str, sources: Mapping[str, studies.Blocks]) -> Section:
        """The section of a study of these data, whether or not its command has run; `sources`: file → what to show."""
        blocks: list[Block] = []
        others: list[str] = []
        for pattern, show in sources.items():
            for file in sorted(workspace.reports.glob(f"{key}/{pattern}.json")):
                source = SourceFile.read(workspace, str(file.relative_to(workspace.reports)))
                of = source.value("data") or source.value("study")
                if all(of.get(key) == data[key] for key in ("source", "synthetic")):
                    if data["n_patients"] and not of.get("n_patients"):
                        blocks.append(Paragraph((UNGROUPED,)))
                    blocks += show(source)
                else:
                    others.append(source.href())
        return Section(key, title, blocks, command, others)

    training = [block for one in results.each("systems") for block in one.blocks("training", name=one.name)]
    ablation = {"ablate": studies.ablation_blocks}
    tuning = {"study": studies.tuning_blocks, "nested": studies.nested_blocks}
    return [
        Section("results", "Results", evaluation.results_blocks(results)),
        Section("comparisons", "Which is better?", evaluation.comparisons_blocks(results)),
        Section("use", "How to call it", _use_blocks(inputs)),
        Section("data", "Data and split", _data_blocks(inputs)),
        Section("audit", "Leakage audit", audit_blocks(inputs.audit), "dvc repro leakage"),
        Section("choice", "The chosen system", evaluation.choice_blocks(results)),
        Section("curves", "Curves and confusion", results.blocks("curves")),
        Section("operation", "Thresholds, calibration and referral", evaluation.operation_blocks(results)),
        Section("slices", "Slices", evaluation.slices_blocks(inputs.slices, [system, FLOOR])),
        Section("explanations", "Explanations", _explanations(inputs)),
        Section("errors", "What it gets wrong", results.blocks("errors", system=system)),
        Section("training", "Training", training),
        study("seeds", "Spread over training seeds", "mammo seeds", {"seeds": studies.seeds_blocks}),
        study("ledger", "Ledger", "mammo ledger", {"ledger": studies.ledger_blocks}),
        study("ablate", "Ablation of the paper's defects", "mammo ablate", ablation),
        study("study", "Choice of settings", "mammo study FILE", {"*": studies.variants_blocks}),
        study("tune", "Tuning", "mammo tune", tuning),
        Section("settings", "Settings", [_settings_table(inputs.config)]),
        Section("provenance", "Provenance", _provenance_blocks(inputs.provenance)),
    ]


def _data_blocks(inputs: ReportInputs) -> list[Block]:
    """What the numbers rest on: source, parts, expectations."""
    rows = []
    for name in ("rois", "leakage", "patches"):
        path = f"expectations/{name}.json"
        if (inputs.workspace.reports / path).is_file():
            source = SourceFile.read(inputs.workspace, path)
            kept = sum(rule.value("kept") for rule in source.each("expectations"))
            counts = source.cells(("n_expectations", "n_warnings"))
            rows.append((name, counts[0], Cell(str(kept), source.href("expectations")), counts[1]))
    expectations = Table("", ("table", "expectations", "kept", "warnings"), rows, "expectations/rois.json")
    return inputs.results.blocks("data", parts=inputs.provenance.blocks("parts"), expectations=expectations)


def _use_blocks(inputs: ReportInputs) -> list[Block]:
    """Commands that ask the model, and its size."""
    name, bundle = inputs.champion.content["model_name"], inputs.workspace.bundle(inputs.system)
    commands = {
        "predict": "mammo predict roi.png",
        "post": "curl --data-binary @roi.png http://localhost:8000/v1/rois",
        "serve": "mammo serve",
        "client": f"mlflow.pyfunc.load_model('models:/{name}@champion')",
    }
    mebibytes = (bundle / WEIGHTS_FILE).stat().st_size / 2**20
    codes = {key: Cell(text, code=True) for key, text in commands.items()}
    return inputs.model.blocks("use", size=f"{mebibytes:.2f} MiB", **codes)


def _explanations(inputs: ReportInputs) -> list[Block]:
    """A handful of ROIs of the test part, picked by rule, with vote map and Grad-CAM."""
    vote = VoteConfig(**inputs.model.content["vote"])
    examples = pick_examples(inputs.predictions, inputs.system, vote)
    model_name = inputs.champion.content["model_name"]
    drawn = draw_examples(inputs.workspace, inputs.config, inputs.system, model_name, examples)
    file = evaluation.PREDICTIONS_FILE
    pictures = [
        # A row of the table is the line after the header (RFC 7111 counts from 1).
        Picture(f"{example.reason}: {example.roi_id}.", png, f"{file}#row={example.row + 2}")
        for example, png in zip(examples, drawn, strict=True)
    ]
    command = Cell("mammo explain FILE_OR_ROI_ID", code=True)
    return inputs.results.blocks("explanations", rule=RULE, command=command, pictures=pictures)


def _settings_table(config: Config) -> Table:
    """The settings that made the systems."""
    names = ("ingest", "split", "patches", "model", "train", "vote")
    sections = {name: getattr(config, name) for name in names}
    sections |= {f"recipe {config.train.recipe}": config.recipe, "evaluate": config.evaluate}
    rows = [(name, _in_words(section.model_dump())) for name, section in sections.items()]
    rows.insert(0, ("settings_from", str(config.settings_from)))
    return Table("Settings of this report.", ("section", "values"), rows, "../params.yaml")


def _in_words(values: dict[str, Any]) -> str:
    nested = ((key, f"({_in_words(one)})" if isinstance(one, dict) else one) for key, one in values.items())
    return ", ".join(f"{key} {'null' if one is None else one}" for key, one in nested)


def _provenance_blocks(provenance: SourceFile) -> list[Block]:
    """Hashes of data, settings and weights, library versions, and how to find the MLflow run of each system."""
    query = "tags.`mammo.weights_sha256` = '{}'"
    return provenance.blocks("provenance", query=lambda one: Cell(query.format(one.value()), code=True))
