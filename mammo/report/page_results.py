"""Sections of the report page that every finished pipeline has: data, results, choice, comparisons, slices."""

from mammo.evaluation.metrics import TITLES
from mammo.report.document import (
    Block,
    Cell,
    Inline,
    PageSection,
    Paragraph,
    Picture,
    SourceFile,
    Table,
    picture_of_file,
)
from mammo.report.report_inputs import ReportInputs
from mammo.report.tables import COLUMNS, FLOOR_TITLE, ONE_FIT

COUNTS = ("tp", "fn", "fp", "tn")


def data_section(inputs: ReportInputs) -> PageSection:
    """What the numbers rest on: source, parts, expectations."""
    results, provenance = inputs.results, inputs.provenance
    columns = ("n_rois", "n_tumor", "n_normal", "n_groups", "n_patients")
    parts = Table(
        "Parts of the split. Groups join ROIs that share a patient or pixels; n/a: the source does not know.",
        ("part", "ROIs", "Tumor", "Normal", "groups", "patients"),
        tuple(
            (name, *(provenance.cell("parts", name, column) for column in columns))
            for name in provenance.content["parts"]
        ),
        provenance.path,
    )
    about = Paragraph(
        (
            "Source ",
            results.cell("data", "source"),
            ", protocol ",
            results.cell("data", "protocol"),
            ". Tumor holds benign and malignant lesions alike: this is lesion against normal tissue, not cancer "
            "detection. The validation part chose epoch and system; the test part chose nothing.",
        )
    )
    blocks = [about, parts, *_expectations(inputs)]
    return PageSection("data", "Data and split", tuple(blocks), inputs.synthetic)


def _expectations(inputs: ReportInputs) -> list[Block]:
    rows: list[tuple[Inline, ...]] = []
    for name in ("rois", "leakage", "patches"):
        source = SourceFile.read(inputs.space, f"expectations/{name}.json")
        if source is not None:
            kept = sum(rule["kept"] for rule in source.content["expectations"].values())
            found = Cell(str(kept), source.href("expectations"))
            rows.append((name, source.cell("n_expectations"), found, source.cell("n_warnings")))
    caption = "Data expectations. A critical one that fails stops the pipeline."
    headings = ("table", "expectations", "kept", "warnings")
    return [Table(caption, headings, tuple(rows), "expectations/rois.json")] if rows else []


def results_section(inputs: ReportInputs) -> PageSection:
    """The systems beside the floor and the paper, at ROI level and at patch level."""
    results = inputs.results
    rows = [_system_row(results, name, ("systems", name)) for name in results.content["systems"]]
    rows.append(_system_row(results, FLOOR_TITLE, ("floor",)))
    data = results.content["data"]
    if data["source"] == "mias_rois" and data["protocol"] == "published":
        reported = results.content["paper"]["systems"]
        rows += [
            _system_row(results, f"paper: {entry['system']} (as reported)", ("paper", "systems", index))
            for index, entry in enumerate(reported)
            if entry["confusion"] is not None
        ]
    headings = ("system", "ROIs", "TP / FN / FP / TN", *(TITLES[name] for name in COLUMNS))
    confidence = results.cell("systems", inputs.system, "roi", "accuracy", "confidence", digits=2)
    notes = Paragraph(
        (
            "Intervals at confidence ",
            confidence,
            ": Wilson for accuracy, recall, specificity and precision; BCa bootstrap over groups for the AUCs. The "
            "floor sees eight intensity statistics and no texture. Where the paper's numbers are not at hand, no row "
            "is shown; its AUC is computed from decisions and left out. One training seed: see the spread below.",
        )
    )
    table = Table("Test part, ROI level.", headings, tuple(rows), results.path)
    return PageSection("results", "Results", (notes, table, _patch_table(results)), inputs.synthetic)


def _system_row(results: SourceFile, title: str, keys: tuple[str | int, ...]) -> tuple[Inline, ...]:
    counts = " / ".join(str(results.value(*keys, "confusion", name)) for name in COUNTS)
    n_rois = sum(results.value(*keys, "confusion", name) for name in COUNTS)
    estimates = (results.estimate(*keys, "roi", name) for name in COLUMNS)
    confusion = results.href(*keys, "confusion")
    return (title, Cell(str(n_rois), confusion), Cell(counts, confusion), *estimates)


def _patch_table(results: SourceFile) -> Table:
    names = ("accuracy", "recall", "specificity", "precision", "auc_score")
    titles = (TITLES[name].replace(" of the mean patch score", " of the patch score") for name in names)
    rows = tuple(
        (
            system,
            results.cell("systems", system, "n_patches"),
            *(results.estimate("systems", system, "patch", name) for name in names),
        )
        for system in results.content["systems"]
    )
    caption = (
        "Test part, patch level. Patches of one ROI are not independent: every interval resamples groups."
    )
    return Table(caption, ("system", "patches", *titles), rows, results.path)


def choice_section(inputs: ReportInputs) -> PageSection:
    """Which system was chosen, by what, and how it stands to the floor."""
    results, champion = inputs.results, inputs.champion
    chosen = Paragraph(
        (
            "Chosen on the validation part alone, by the best ",
            champion.cell("chosen_by"),
            " (",
            champion.cell("value", digits=4),
            "): ",
            Cell(inputs.system, champion.href("system"), strong=True),
            ". Its test AUC minus the floor's: ",
            results.difference("selected_minus_floor_auc"),
            ". An interval that holds 0 means: not shown to be better than eight intensity statistics.",
        )
    )
    rows = tuple(
        (
            Cell(name, strong=name == inputs.system),
            *(
                results.cell("systems", name, "validation", key, digits=4)
                for key in ("epoch", "n_epochs", "val_loss", "val_auc", "n_rois_val")
            ),
        )
        for name in results.content["systems"]
    )
    headings = ("system", "best epoch", "epochs", "validation loss", "validation AUC", "validation ROIs")
    table = Table("Validation part: what the choice rests on.", headings, rows, results.path)
    return PageSection("choice", "The chosen system", (chosen, table), inputs.synthetic)


def comparisons_section(inputs: ReportInputs) -> PageSection:
    """Whether the chosen system differs from the others, in words and in numbers."""
    results = inputs.results
    comparisons = results.content["comparisons"]
    verdicts = [
        Paragraph((entry["verdict"], " ", Cell("[source]", results.href("comparisons", index, "verdict"))))
        for index, entry in enumerate(comparisons)
    ]
    rows = tuple(
        (
            f"{entry['name_a']} and {entry['name_b']}",
            results.cell("comparisons", index, "n"),
            results.cell("comparisons", index, "accuracy_difference"),
            results.cell("comparisons", index, "mcnemar", "p_value"),
            results.difference("comparisons", index, "auc_difference"),
            results.cell("comparisons", index, "rois_needed"),
        )
        for index, entry in enumerate(comparisons)
    )
    headings = (
        "systems",
        "ROIs",
        "accuracy difference",
        "McNemar exact p",
        "AUC difference",
        "ROIs needed for 80% power",
    )
    table = Table("Paired comparisons on the test part.", headings, rows, results.path)
    return PageSection(
        "comparisons", "Are they different?", (Paragraph((ONE_FIT,)), *verdicts, table), inputs.synthetic
    )


def curves_section(inputs: ReportInputs) -> PageSection:
    """ROC, precision-recall and confusion pictures of the evaluation."""
    captions = {
        "curves": "ROC and precision-recall curves on the test part.",
        "confusion": "Confusion matrices.",
    }
    found = (
        picture_of_file(inputs.space, f"evaluate/{name}.png", caption) for name, caption in captions.items()
    )
    pictures = tuple(picture for picture in found if picture is not None)
    return PageSection(
        "curves", "Curves and confusion", pictures, inputs.synthetic, missing="dvc repro evaluate"
    )


def slices_section(inputs: ReportInputs) -> PageSection:
    """The chosen system and the floor by tissue, kind, severity and size of the lesion, where these are known."""
    slices = inputs.slices
    blocks: list[Block] = []
    for axis, entry in slices.content["axes"].items():
        if not entry["systems"]:
            blocks.append(
                Paragraph(
                    (f"{entry['title']}: unknown to the source for all ROIs of the test part. No slice.",)
                )
            )
            continue
        names = list(next(iter(entry["systems"].values()))[0]["metrics"])
        rows: tuple[tuple[Inline, ...], ...] = tuple(
            (
                f"{one['value']}: {system}",
                slices.cell("axes", axis, "systems", system, index, "n_rois"),
                slices.cell("axes", axis, "systems", system, index, "n_tumor"),
                *(slices.estimate("axes", axis, "systems", system, index, "metrics", name) for name in names),
            )
            for index, one in enumerate(entry["systems"][inputs.system])
            for system in (inputs.system, "floor")
        )
        note = " The AUC sets the slice's Tumor ROIs against all Normal ROIs." if entry["of_lesions"] else ""
        caption = f"{entry['title']}. n/a: the slice lacks what the metric needs.{note}"
        blocks.append(
            Table(
                caption,
                ("slice: system", "ROIs", "Tumor", *(TITLES[name] for name in names)),
                rows,
                slices.path,
            )
        )
    return PageSection("slices", "Slices", tuple(blocks), inputs.synthetic)


def errors_and_training(inputs: ReportInputs) -> list[PageSection]:
    """The wrong ROIs of the chosen system, and the training curves of all."""
    sheet = picture_of_file(
        inputs.space,
        f"evaluate/errors-{inputs.system}.png",
        f"Every ROI of the test part that {inputs.system} decided wrongly, with its votes.",
    )
    curves = (
        picture_of_file(
            inputs.space, f"evaluate/training-{name}.png", f"Training of {name} (numbers: train/{name}.csv)."
        )
        for name in inputs.results.content["systems"]
    )
    errors: tuple[Picture, ...] = () if sheet is None else (sheet,)
    return [
        PageSection("errors", "What it gets wrong", errors, inputs.synthetic, missing="dvc repro evaluate"),
        PageSection(
            "training",
            "Training",
            tuple(curve for curve in curves if curve is not None),
            inputs.synthetic,
            missing="dvc repro evaluate",
        ),
    ]
