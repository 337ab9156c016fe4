"""The service's page in a real browser."""

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from mammo.serve.app import create_app
from mammo.serve.predict import predict_files

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: install Debian's package chromium"),
]


class Announcing(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture(scope="module")
def address(finished: tuple[Workspace, Config]) -> Iterator[str]:
    """The service on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Announcing(uvicorn.Config(create_app(finished[0]), port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.listening.wait(timeout=60)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The open page; an error on it, or a request to another host, fails the test."""
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
        "--no-first-run",
    ]
    trouble: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((address, "blob:", "data:")) else trouble.append(r.url),
        )
        page.goto(address)
        yield page
        browser.close()
    assert trouble == []


def test_a_dropped_roi_shows_the_label_and_the_vote_of_each_patch(
    page: Page, finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    picture = tmp_path / "roi.png"
    Image.fromarray(read_rois(finished[0].rois).images[1]).save(picture)
    expected = predict_files(finished[0], [picture])[0]
    page.locator("#file").set_input_files(str(picture))

    expect(page.locator("#label")).to_have_text(expected["label"])
    expect(page.locator("#map td")).to_have_count(len(expected["votes"]))
    expect(page.locator("#summary")).to_contain_text(
        f"{sum(expected['votes'])} of {len(expected['votes'])} patches"
    )
    expect(page.locator("#probability")).to_contain_text(f"{expected['probability']:.2f}")
    expect(page.locator("#threshold")).to_contain_text(f"above {expected['threshold']:.2f}")
    expect(page.locator("#set")).to_have_text(" or ".join(expected["prediction_set"]))
    expect(page.locator("#referral")).to_be_visible(visible=expected["referral"])
    page.locator("#map td").first.hover()
    expect(page.locator("#square")).to_be_visible()
    expect(page.locator("body")).to_contain_text("no medical device")
    expect(page.locator("#model")).to_contain_text("PHANTOM")


def test_a_picture_unlike_the_rois_of_training_is_referred_in_plain_words(page: Page, tmp_path: Path) -> None:
    Image.new("L", (120, 120), 7).save(tmp_path / "flat.png")
    page.locator("#file").set_input_files(str(tmp_path / "flat.png"))
    expect(page.locator("#referral")).to_be_visible()
    expect(page.locator("#why")).to_contain_text("it shows one grey value, 7; check the file.")


def test_a_bad_file_shows_the_reason_and_no_result(page: Page, tmp_path: Path) -> None:
    text = tmp_path / "no picture.png"
    text.write_text("hello")
    page.locator("#file").set_input_files(str(text))
    expect(page.locator("#error")).to_contain_text("PNG")
    expect(page.locator("#result")).to_be_hidden()
    # A browser tells the page of no change when the same file is chosen again, unless the choice was emptied.
    assert page.locator("#file").input_value() == ""


@pytest.mark.parametrize("trouble", ["a crash", "a stop"])
def test_no_earlier_result_stands_beside_a_picture_that_got_no_vote(
    page: Page, finished: tuple[Workspace, Config], tmp_path: Path, trouble: str
) -> None:
    picture = tmp_path / "roi.png"
    Image.fromarray(read_rois(finished[0].rois).images[1]).save(picture)
    page.locator("#file").set_input_files(str(picture))
    expect(page.locator("#result")).to_be_visible()

    def answer(route: Route) -> None:
        route.abort() if trouble == "a stop" else route.fulfill(status=500, body="Internal Server Error")

    page.route("**/api/vote", answer)
    other = tmp_path / "other.png"
    shutil.copy(picture, other)
    page.locator("#file").set_input_files(str(other))
    words = "no answer from the service" if trouble == "a stop" else "the service failed (500)"
    expect(page.locator("#error")).to_contain_text(f"other.png: {words}")
    expect(page.locator("#result")).to_be_hidden()
