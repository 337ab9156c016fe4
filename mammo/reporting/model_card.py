"""The model card: data, intended use, limits, results with intervals, provenance."""

from typing import Any

from mammo.evaluation.metrics import TITLES
from mammo.layout import Workspace
from mammo.models.bundle import DESCRIPTION_FILE
from mammo.reporting.tables import cell, systems_table
from mammo.storage import read_json, write_bytes


def write_model_card(space: Workspace) -> None:
    """Write `reports/model_card.md` for the system that was registered last."""
    champion = read_json(space.reports / "champion.json")
    results = read_json(space.reports / "evaluate" / "results.json")
    description = read_json(space.bundle(champion["system"]) / DESCRIPTION_FILE)
    write_bytes(space.reports / "model_card.md", model_card(champion, results, description).encode())


def model_card(champion: dict[str, Any], results: dict[str, Any], description: dict[str, Any]) -> str:
    """The card as markdown."""
    data, system = results["data"], champion["system"]
    judged = results["systems"][system]
    synthetic = "**Trained and judged on PHANTOM (synthetic) films.** " if data["synthetic"] else ""
    lines = [
        f"# Model card: {champion['model_name']} ({system})",
        "",
        f"{synthetic}Research software, no medical device.",
        "",
        "## What it does",
        "",
        f"Classifies a 120 × 120 pixel region of interest (ROI) of a mammogram as Normal or Tumor. Patches of "
        f"{description['size_px']} pixels at a step of {description['stride_px']} vote; the rule is "
        f"{description['vote']['rule']}, ties go to {description['vote']['tie'].capitalize()}. Tumor holds benign and "
        "malignant lesions alike: this is lesion against normal tissue, not cancer detection.",
        "",
        "## Intended use",
        "",
        "Research on classification and on honest evaluation. Not for diagnosis, screening or any decision about "
        "a person.",
        "",
        "## Data",
        "",
        f"{data['note']}: {data['n_tumor']} Tumor, {data['n_normal']} Normal, {data['n_groups']} groups of ROIs "
        f"that share a patient or pixels; patients: {data['n_patients'] or 'unknown to the source'}. Method: Yu et "
        "al., Scientific Reports 10:14361 (2020), doi 10.1038/s41598-020-71431-x.",
        "",
        "## Results on the test part",
        "",
        *[
            f"- {TITLES[name]}: {cell(estimate)}, n = {estimate['n']}"
            for name, estimate in judged["roi"].items()
        ],
        "",
        f"AUC minus the floor's: {cell(results['selected_minus_floor_auc'])}.",
        "",
        *systems_table(results),
        "",
        "## Limits",
        "",
        "- Few test ROIs: the intervals are wide, and systems are often not distinguishable.",
        "- The published split is by ROI; ROIs of its parts share pixels, and patients are unknown there.",
        "- Digitised films of the 1990s from one country; other scanners and full-field digital mammograms are "
        "untested.",
        "- A ROI has to be found first: nothing here searches a whole mammogram.",
        "",
        "## Provenance",
        "",
        f"- weights SHA-256 `{description['weights_sha256']}`",
        f"- chosen by `{champion['chosen_by']}` = {champion['value']:.4f} on the validation part alone",
        *[f"- `{path}` md5 `{md5}`" for path, md5 in description["provenance"]["data_md5"].items()],
        "",
    ]
    return "\n".join(lines)
