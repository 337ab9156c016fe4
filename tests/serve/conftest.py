"""The service's page, open in a real browser before two versions that see discs."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from mammo.core.files import Workspace
from mammo.serve.app import create_app
from mammo.serve.service import Service
from tests.chromium import chromium
from tests.disc_rois import disc_rois
from tests.docker.processes import wait_until
from tests.serve.browsing import SCREENS, Served
from tests.serve.tiny_versions import NAME, film_of_discs, registered_versions

UNTIL_LOADED = """async number => {
  while ((await (await fetch("readyz")).json()).loaded !== number) await new Promise(requestAnimationFrame);
}"""
expect.set_options(timeout=30_000)  # votes share the processor with other tests
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, store_of: Callable[[Workspace], None]) -> Iterator[Served]:
    """The service on a free port, with both versions loaded."""
    space, client = registered_versions(tmp_path_factory.mktemp("discs"), store_of)
    service = Service(space)
    app = create_app(service, ["127.0.0.1"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        wait_until(lambda: service.follower.challenger is not None, 120, lambda: "both versions are loaded")
        yield Served(f"http://127.0.0.1:{free.getsockname()[1]}/", client)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Open]:
    """Opens the page; an error on it, a refusal by its policy, or a request to another host, fails the test."""
    trouble: list[str] = []
    contexts = []

    def watch(text: str) -> None:
        # Chromium reports every refused request too, which tests make on purpose.
        if "Failed to load resource" not in text:
            trouble.append(text)

    def open_page(**screen: Any) -> Page:
        contexts.append(browser.new_context(**(screen or SCREENS["light"])))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: watch(str(error)))
        page.on("console", lambda said: watch(said.text) if said.type in ("error", "warning") else None)
        known = (served.address, "blob:", "data:")
        page.on("request", lambda sent: None if sent.url.startswith(known) else trouble.append(sent.url))
        page.goto(served.address)
        expect(page.locator("#model-rows tr").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def page(opened: Open) -> Page:
    return opened()


@pytest.fixture
def crown(page: Page, served: Served) -> Iterator[Callable[[str], None]]:
    """Lets another version answer, and waits until it does; the first answers again after the test."""

    def crown(number: str) -> None:
        served.client.set_registered_model_alias(NAME, "champion", number)
        page.evaluate(UNTIL_LOADED, number)

    yield crown
    crown("1")


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    """A picture with a disc."""
    path = tmp_path / "roi.png"
    Image.fromarray(disc_rois(0, 1, seed=5).images[0]).save(path)
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film in a format that no browser shows."""
    path = tmp_path / "film.pgm"
    Image.fromarray(film_of_discs()).save(path)
    return path
