"""What the tests of the service's page do in the browser."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from axe_playwright_python.sync_playwright import Axe
from mlflow import MlflowClient
from playwright.sync_api import Locator, Page

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "reduced_motion": "reduce",
    },
}


@dataclass
class Served:
    """The service behind the page, and the registry that it follows."""

    address: str
    client: MlflowClient

    def row(self, path: Path, **query: str) -> dict[str, Any]:
        """Its answer about a file; `at` names the place in a film."""
        road = "v1/films" if "at" in query else "v1/rois"
        sent = Request(f"{self.address}{road}?{urlencode(query)}", path.read_bytes())
        sent.add_header("Content-Type", "application/octet-stream")
        with urlopen(sent) as answer:
            (row,) = json.load(answer)["rois"]
        return dict(row)


def choose(page: Page, *paths: Path) -> None:
    page.locator("#files").set_input_files([str(path) for path in paths])


def violations(page: Page) -> str:
    """What axe-core finds, and whether the page scrolls sideways."""
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        return f"wider than {page.evaluate('innerWidth')} pixels"
    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""


def box_of(found: Locator) -> Any:
    """Where an element lies on the screen."""
    box = found.bounding_box()
    assert box is not None
    return box
