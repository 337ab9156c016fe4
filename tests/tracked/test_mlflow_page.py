"""MLflow's own page, as `mammo ui` opens it, in a real browser; the screenshots lie in the test's folder."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mammo.core.config import Config
from mammo.core.errors import TERMINATED
from mammo.core.files import Workspace
from mammo.track.registry import champion
from tests.chromium import chromium, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def address(space: Workspace) -> Iterator[str]:
    """What `mammo ui` says once its server answers; the server ends with the command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mammo", "ui", "--port", str(port), "--workspace", str(space.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = (re.search(r"MLflow UI: (\S+)", line) for line in server.stderr)
        yield next(found for found in said if found).group(1)
        server.terminate()
        assert server.wait(timeout=60) == TERMINATED
    socket.create_server(("127.0.0.1", port)).close()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A browser of a laptop's size at that address."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        yield page


def test_two_systems_are_compared_in_three_clicks_and_the_test_auc_is_seen_without_scrolling(
    page: Page, config: Config, tmp_path: Path
) -> None:
    expect(page.get_by_text("test/auc", exact=True)).to_be_in_viewport(ratio=1, timeout=30_000)
    page.screenshot(path=tmp_path / "1-runs.png")
    for box in page.get_by_label(re.compile("toggle row selection")).all():
        box.click()
    page.screenshot(path=tmp_path / "2-selected.png")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    expect(page.locator(".js-plotly-plot").get_by_text("test/auc")).to_be_in_viewport(ratio=1)
    for system in config.systems:
        expect(page.get_by_role("cell", name=system, exact=True).first).to_be_visible()
    page.screenshot(path=tmp_path / "3-compared.png")


def test_run_model_version_and_data_link_to_each_other(page: Page, space: Workspace) -> None:
    page.set_viewport_size({"width": 1920, "height": 1080})
    system = champion(space, "mammo-roi").system
    page.get_by_role("link", name=system, exact=True).click()
    expect(page.get_by_text("PHANTOM: AUC")).to_be_in_viewport()
    with page.context.expect_page() as tab:
        page.get_by_role("row", name="test/auc").get_by_role("link", name=system).click()
    page = tab.value
    expect(page.get_by_role("button", name="Register model")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("phantom-test").first).to_be_visible()
    page.get_by_role("link", name="mammo-roi").click()
    expect(page.get_by_text("PHANTOM: AUC")).to_be_in_viewport()
    expect(page.get_by_text("champion")).to_be_visible()
    page.get_by_role("link", name=system, exact=True).first.click()
    expect(page.get_by_text("PHANTOM: AUC")).to_be_in_viewport()
    # MLflow shows one of the two data sets that it trained on, whichever comes first, and counts the other.
    expect(page.get_by_role("button", name=re.compile(r"^phantom-(train|val) ")).first).to_be_visible()
