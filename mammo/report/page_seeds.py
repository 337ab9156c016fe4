"""The section on the spread over training seeds."""

from mammo.evaluation.metrics import TITLES
from mammo.report.document import Cell, Inline, PageSection, Paragraph, SourceFile, Table
from mammo.report.report_inputs import ReportInputs
from mammo.report.seeds import COLUMNS


def seeds_section(inputs: ReportInputs) -> PageSection:
    """Mean and spread of the test results over training seeds."""
    source = SourceFile.read(inputs.space, "seeds/seeds.json")
    title = "Spread over training seeds"
    if source is None:
        return PageSection("seeds", title, missing="mammo seeds")
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
    return PageSection("seeds", title, (about, table), bool(source.content["data"]["synthetic"]))
