"""The model card in the usual sections (Mitchell et al. 2019, doi 10.1145/3287560.3287596), as markdown.

Every number is a link to the file that it came from, written as a reference so that the text stays readable.
"""

from typing import Final

from mammo.core.errors import NOTICE, PHANTOM
from mammo.core.files import write_bytes
from mammo.evaluation.metrics import TITLES
from mammo.report.document import Inline, Table
from mammo.report.markdown import markdown_table
from mammo.report.page_results import results_section
from mammo.report.report_inputs import ReportInputs

CARD_FILE: Final = "model_card.md"


def write_model_card(inputs: ReportInputs) -> None:
    """Write `reports/model_card.md` for the system that was registered last."""
    write_bytes(inputs.space.reports / CARD_FILE, model_card(inputs).encode())


def model_card(inputs: ReportInputs) -> str:
    """The card as markdown."""
    sections = (
        _details(inputs),
        _intended_use(),
        _data(inputs),
        _results(inputs),
        _slices(inputs),
        _limits(inputs),
        _ethics(inputs),
        _provenance(inputs),
    )
    lines = [line for section in sections for line in (*section, "")]
    sources = (inputs.results, inputs.champion, inputs.model, inputs.slices, inputs.provenance)
    return "\n".join([*lines, *[f"[{_reference(source.path)}]: {source.path}" for source in sources], ""])


def _phantom(inputs: ReportInputs) -> str:
    return f"**{PHANTOM}.** " if inputs.synthetic else ""


def _details(inputs: ReportInputs) -> list[str]:
    champion, model, system = inputs.champion, inputs.model, inputs.system
    vote = model.content["vote"]
    trained = f"**Trained and judged on {PHANTOM} films.** " if inputs.synthetic else ""
    return [
        f"# Model card: {champion.content['model_name']} ({system})",
        "",
        f"{trained}{NOTICE} The whole report: [index.html](index.html).",
        "",
        "## Model details",
        "",
        f"- Classifies a 120 × 120 pixel region of interest (ROI) of a mammogram as Normal or Tumor. Patches of "
        f"{_link(model.cell('size_px'))} pixels at a step of {_link(model.cell('stride_px'))} vote; rule "
        f"`{vote['rule']}`, threshold {_link(model.cell('vote', 'share_threshold'))}, ties go to "
        f"{vote['tie'].capitalize()}.",
        f"- System `{system}`: backbone and fusion, built after Yu et al., Scientific Reports 10:14361 (2020), "
        "doi 10.1038/s41598-020-71431-x.",
        f"- Chosen by `{champion.content['chosen_by']}` = {_link(champion.cell('value', digits=4))} on the validation "
        "part alone.",
        "- Code under the MIT licence; weights as safetensors, never a pickle.",
    ]


def _intended_use() -> list[str]:
    return [
        "## Intended use",
        "",
        "Research on classification, on patch voting and on honest evaluation, by people who know what a ROI is.",
        "",
        "## Out of scope",
        "",
        "- Diagnosis, screening, triage, or any decision about a person.",
        "- Cancer detection: Tumor holds benign and malignant lesions alike. This is lesion against normal tissue.",
        "- Whole mammograms: a ROI has to be found first, and nothing here searches for it.",
        "- Other scanners, full-field digital mammograms, tomosynthesis, other sizes of a ROI: untested.",
    ]


def _data(inputs: ReportInputs) -> list[str]:
    results, provenance = inputs.results, inputs.provenance
    columns = ("n_rois", "n_tumor", "n_normal", "n_groups", "n_patients")
    rows = tuple(
        (name, *(provenance.cell("parts", name, column) for column in columns))
        for name in provenance.content["parts"]
    )
    headings = ("part", "ROIs", "Tumor", "Normal", "groups", "patients")
    table = Table("Parts of the split; n/a: the source does not know.", headings, rows, provenance.path)
    return [
        "## Data",
        "",
        f"{_phantom(inputs)}{_link(results.cell('data', 'note'))}. A group joins ROIs that share a patient or pixels.",
        "",
        *_markdown(table),
    ]


def _results(inputs: ReportInputs) -> list[str]:
    results, system = inputs.results, inputs.system
    lines = [
        f"- {TITLES[name]}: {_link(results.estimate('systems', system, 'roi', name))}, n = {estimate['n']}"
        for name, estimate in results.value("systems", system, "roi").items()
    ]
    systems = next(block for block in results_section(inputs).blocks if isinstance(block, Table))
    return [
        "## Results on the test part",
        "",
        f"{_phantom(inputs)}Values with intervals: Wilson for proportions, BCa bootstrap over groups for the rest.",
        "",
        *lines,
        "",
        f"AUC minus the floor's (logistic regression on 8 intensity statistics): "
        f"{_link(results.difference('selected_minus_floor_auc'))}. An interval that holds 0 means: not shown "
        "to be better.",
        "",
        f"{_phantom(inputs)}All systems, the floor and the paper:",
        "",
        *_markdown(systems),
    ]


def _slices(inputs: ReportInputs) -> list[str]:
    """The chosen system on each slice; n/a where a slice lacks what a metric needs."""
    lines = ["## Slices", ""]
    slices = inputs.slices
    for axis, entry in slices.content["axes"].items():
        if not entry["systems"]:
            lines += [f"- {entry['title']}: unknown to the source for all ROIs of the test part."]
            continue
        judged = entry["systems"][inputs.system]
        names = list(judged[0]["metrics"])
        keys = ("axes", axis, "systems", inputs.system)
        rows = tuple(
            (
                one["value"],
                slices.cell(*keys, index, "n_rois"),
                slices.cell(*keys, index, "n_tumor"),
                *(slices.estimate(*keys, index, "metrics", name) for name in names),
            )
            for index, one in enumerate(judged)
        )
        headings = ("slice", "ROIs", "Tumor", *(TITLES[name] for name in names))
        against = " The AUC is against all Normal ROIs." if entry["of_lesions"] else ""
        title = f"{_phantom(inputs)}{entry['title']}; n/a: undefined on this slice.{against}"
        lines += ["", title, "", *_markdown(Table("", headings, rows, slices.path))]
    return lines


def _limits(inputs: ReportInputs) -> list[str]:
    split = (
        [
            "- The published split is by ROI, and the source does not name patients; ROIs of its parts share pixels."
        ]
        if inputs.results.content["data"]["protocol"] == "published"
        else []
    )
    films = (
        ["- Phantoms: numbers on synthetic films say that the pipeline works, and nothing about mammograms."]
        if inputs.synthetic
        else [
            "- Digitised films of the 1990s from one country and one scanner.",
        ]
    )
    return [
        "## Limits",
        "",
        "- Few test ROIs: the intervals are wide, and systems are often not distinguishable.",
        *split,
        *films,
        "- Brightness alone tells many lesions from normal tissue: compare with the floor.",
        "- Corner patches of a Tumor ROI may not hold the lesion and are trained as Tumor all the same.",
        "- Grad-CAM is a first-order guess about the network; it does not show where a lesion is.",
    ]


def _ethics(inputs: ReportInputs) -> list[str]:
    films = (
        "- The films are synthetic and show no patient; what holds for them need not hold for people."
        if inputs.synthetic
        else "- The ROIs are of patients, from an archive that is licensed for research; the report shows a few as "
        "figures."
    )
    return [
        "## Ethical considerations",
        "",
        films,
        "- Age, ethnicity and other traits of the patients are unknown, so fairness across them cannot be judged.",
        "- A missed Tumor and a false alarm do not weigh the same in practice; no such costs set a threshold here.",
    ]


def _provenance(inputs: ReportInputs) -> list[str]:
    provenance = inputs.provenance
    digest = inputs.champion.content["weights_sha256"]
    return [
        "## Provenance",
        "",
        f"- weights SHA-256 {_link(inputs.champion.cell('weights_sha256'), code=True)}; its MLflow run: search "
        f"`tags.mammo.weights_sha256 = '{digest}'`",
        f"- settings fingerprint {_link(provenance.cell('params_fingerprint'), code=True)}",
        *[
            f"- `{path}` md5 {_link(provenance.cell('data_md5', path), code=True)}"
            for path in provenance.content["data_md5"]
        ],
        "- libraries: "
        + ", ".join(
            f"{name} {_link(provenance.cell('libraries', name))}" for name in provenance.content["libraries"]
        ),
    ]


def _markdown(table: Table) -> list[str]:
    caption = [table.caption, ""] if table.caption else []
    rows = [[_link(part) for part in row] for row in table.rows]
    return [*caption, *markdown_table(table.headings, rows)]


def _link(part: Inline, *, code: bool = False) -> str:
    """`[0.812 (0.700 to 0.889)][results.json]`."""
    if isinstance(part, str):
        return part
    text = f"`{part.text}`" if code else part.text
    return f"[{text}][{_reference(part.href.split('#')[0])}]" if part.href else text


def _reference(path: str) -> str:
    return path.rpartition("/")[2]
