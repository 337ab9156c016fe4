"""The model card of a phantom workspace."""

import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.report.page import ReportInputs, gather, model_card

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module")
def inputs(space: Workspace, config: Config, tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """What the card of a copy of the finished workspace, with the project's own audit, is written from."""
    root = tmp_path_factory.mktemp("carded") / "workspace"
    shutil.copytree(space.root, root, ignore=shutil.ignore_patterns("mlruns"))
    shutil.copytree(REPORTS / "audit", root / "reports" / "audit")
    return gather(Workspace(root), config)


def test_the_model_card_has_the_usual_sections_and_links_its_numbers(
    inputs: ReportInputs,
) -> None:
    card = model_card(inputs)
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert headings == [
        "Model details",
        "Intended use",
        "Out of scope",
        "Data",
        "Results on the test part",
        "Slices",
        "Limits",
        "Ethical considerations",
        "Provenance",
    ]
    assert "PHANTOM (synthetic)" in card
    targets = dict(re.findall(r"^\[([^\]]+)\]: (.+)$", card, re.MULTILINE))
    assert set(re.findall(r"\]\[([^\]]+)\]", card)) <= set(targets)
    assert all((inputs.workspace.reports / path).is_file() for path in targets.values())
    cells = [cell for line in card.splitlines() if line.startswith("|") for cell in line.split("|")[2:-1]]
    numbers = [cell for cell in cells if re.search(r"\d\.\d", cell)]
    assert len(numbers) > 20
    assert all(cell.strip().startswith("[") for cell in numbers)


def test_the_card_of_the_archive_says_what_it_does_not_know(inputs: ReportInputs) -> None:
    inputs = deepcopy(inputs)
    for axis in inputs.slices.content["axes"].values():
        axis["systems"] = {}
    inputs.results.content["data"] |= {"synthetic": False, "protocol": "published"}
    card = model_card(inputs)
    assert card.count("unknown to the source for all of these ROIs") == 4
    assert "PHANTOM" not in card.replace("PHANTOM (synthetic) ROIs", "")
    assert "published split is by ROI" in card
