"""The service's page in a real browser; the screenshots lie in the test's folder."""

import csv
import io
import json
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from mammo.core.files import Workspace
from mammo.serve.app import create_app
from mammo.serve.requests import FILM_BYTES
from mammo.serve.service import Service
from tests.disc_rois import disc_rois
from tests.serve.tiny_versions import NAME, film_of_discs, registered_versions

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: install Debian's package chromium"),
]
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce"},
    "narrow and dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
UNTIL_LOADED = """async number => {
  while ((await (await fetch("readyz")).json()).loaded !== number) await new Promise(requestAnimationFrame);
}"""
HOSTILE = "=<img src=x onerror=alert(1)>'\"; $(rm) &amp;.png"
expect.set_options(timeout=30_000)  # votes share the processor with other tests
Open = Callable[..., Page]


class Announcing(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        self.listening.set()


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


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, store_of: Callable[[Workspace], None]
) -> Iterator[Served]:
    """The service on a free port."""
    space, client = registered_versions(tmp_path_factory.mktemp("discs"), store_of)
    app = create_app(Service(space), ["127.0.0.1"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Announcing(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        assert server.listening.wait(timeout=120)
        yield Served(f"http://127.0.0.1:{free.getsockname()[1]}/", client)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


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


def choose(page: Page, *paths: Path) -> None:
    page.locator("#files").set_input_files([str(path) for path in paths])


def answered_by(page: Page, row: dict[str, Any], of: dict[str, Any] | None = None) -> None:
    """Let the service answer with this row, and describe its champion so."""
    page.route("**/v1/rois?*", lambda route: route.fulfill(json={"rois": [row]}))
    if of is not None:
        described = {"champion": of, "challenger": None, "notice": "", "limits": {"film_bytes": 2**20}}
        page.route("**/v1/model", lambda route: route.fulfill(json=described))
        page.reload()


def violations(page: Page) -> str:
    """What axe-core finds, and whether the page scrolls sideways."""
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        return f"wider than {page.evaluate('innerWidth')} pixels"
    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_is_accessible_and_no_wider_than_the_screen(
    opened: Open, roi: Path, film: Path, tmp_path: Path, screen: str
) -> None:
    page = opened(**SCREENS[screen])
    assert violations(page) == ""
    page.screenshot(path=tmp_path / f"1 start, {screen}.png", full_page=True)

    choose(page, roi)
    expect(page.locator("#votes button")).to_have_count(25)
    page.locator("#show-cam").check()
    expect(page.locator("#cam")).to_be_visible()
    page.locator("#votes button").nth(7).focus()
    assert violations(page) == ""
    page.screenshot(path=tmp_path / f"2 a ROI, {screen}.png", full_page=True)

    choose(page, film)
    expect(page.locator("#film")).to_be_visible()
    assert violations(page) == ""
    page.screenshot(path=tmp_path / f"3 a film, {screen}.png", full_page=True)
    page.locator("#film").click(position={"x": 60, "y": 120})
    expect(page.locator("#name")).to_contain_text("film.pgm")
    text = tmp_path / "no picture.png"
    text.write_text("hello")
    choose(page, text)
    expect(page.locator("#error")).to_be_visible()
    page.get_by_role("button", name="film.pgm").click()
    assert violations(page) == ""
    page.screenshot(path=tmp_path / f"4 a place, {screen}.png", full_page=True)
    page.emulate_media(media="print")
    page.screenshot(path=tmp_path / f"5 printed, {screen}.png", full_page=True)
    expect(page.locator(".notice")).to_be_visible()
    expect(page.locator("#files")).to_be_hidden()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_for_programs_is_as_accessible(opened: Open, tmp_path: Path, screen: str) -> None:
    page = opened(**SCREENS[screen])
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="POST /v1/rois")).to_be_visible()
    assert violations(page) == ""
    page.screenshot(path=tmp_path / f"docs, {screen}.png", full_page=True)


def test_a_chosen_roi_shows_its_answer_in_words_and_the_vote_of_each_patch(
    page: Page, served: Served, roi: Path
) -> None:
    choose(page, roi)
    expect(page.locator("#votes button")).to_have_count(25)
    row = served.row(roi)
    expect(page.locator("#label")).to_have_text(row["label"])
    expect(page.locator("#count")).to_have_text(f"{sum(row['votes'])} of 25 patches vote Tumor")
    expect(page.locator("#status")).to_contain_text(f"roi.png: {row['label']}. {sum(row['votes'])} of 25")
    expect(page.locator("#probability")).to_contain_text(
        f"Of 100 ROIs that the model rates so, about {100 * row['probability']:.0f} are Tumor."
    )
    expect(page.locator("#rule")).to_contain_text("7 of 25 are enough for Tumor")  # 0.26 of 25 is 6.5
    expect(page.locator("#referral")).to_be_visible(visible=row["referral"])
    expect(page.locator("#prediction")).to_have_text(row["prediction_id"])
    expect(page.locator("#synthetic")).to_contain_text("PHANTOM")
    expect(page.locator(".notice")).to_have_text("Research software, no medical device.")
    for index, (vote, score) in enumerate(zip(row["votes"], row["patch_scores"], strict=True)):
        expect(page.locator("#votes button").nth(index)).to_have_accessible_name(
            f"row {index // 5 + 1}, column {index % 5 + 1}: votes {('Normal', 'Tumor')[vote]}, score {score:.2f}"
        )


def test_the_votes_lie_where_their_patches_do(page: Page, roi: Path) -> None:
    choose(page, roi)
    page.locator("#votes button").nth(8).hover()  # of patches of 40 pixels every 20: from row 20, column 60
    picture, mark, square = (
        box_of(page.locator(one)) for one in ("#picture", "#votes button:nth-child(9)", "#square")
    )
    pixel = picture["width"] / 120
    assert (mark["x"] + mark["width"] / 2 - picture["x"]) / pixel == pytest.approx(80, abs=0.5)
    assert (mark["y"] + mark["height"] / 2 - picture["y"]) / pixel == pytest.approx(40, abs=0.5)
    assert (square["x"] - picture["x"]) / pixel == pytest.approx(60, abs=0.5)
    assert (square["y"] - picture["y"]) / pixel == pytest.approx(20, abs=0.5)
    assert (square["width"] / pixel, square["height"] / pixel) == pytest.approx((40, 40), abs=0.5)
    expect(page.locator("#patch")).to_contain_text("Row 2, column 4: votes")


def box_of(found: Locator) -> Any:
    """Where an element lies on the screen."""
    box = found.bounding_box()
    assert box is not None
    return box


@pytest.mark.parametrize("suffix", ["pgm", "tiff"])
def test_a_format_that_no_browser_shows_is_drawn_as_the_model_saw_it(
    page: Page, roi: Path, suffix: str
) -> None:
    other = roi.with_suffix(f".{suffix}")
    with Image.open(roi) as image:
        image.save(other)
    choose(page, other)
    expect(page.locator("#image")).to_have_attribute("alt", f"roi.{suffix} as the model saw it")
    assert page.locator("#image").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 120]


ROW: dict[str, Any] = {
    "label": "Tumor",
    "vote_share": 0.48,
    "votes": [1] * 12 + [0] * 13,
    "patch_scores": [0.6] * 12 + [0.4] * 13,
    "score": 0.496,
    "model_name": "mammo-roi",
    "model_version": "7",
    "prediction_id": "v7.c74c813a.1f0c2a9b7d3e4455",
    "probability": 0.46,
    "threshold": 0.26,
    "prediction_set": ["Normal", "Tumor"],
    "referral": True,
    "in_domain": True,
    "domain_reason": None,
    "picture": "",
}
OF: dict[str, Any] = {
    "model_name": "mammo-roi",
    "model_version": "7",
    "system": "compact-model2",
    "synthetic": False,
    "data": "MIAS ROIs",
    "size_px": 72,
    "corners_px": [[12 * row, 12 * column] for row in range(5) for column in range(5)],
    "vote": {"rule": "majority", "tie": "tumor", "threshold": "validation", "share_threshold": 0.26},
    "coverage": 0.9,
    "estimates": [],
}
MEAN = OF | {"vote": {"rule": "mean_score", "tie": "normal", "threshold": "fixed", "share_threshold": 0.5}}


@pytest.mark.parametrize(
    ("changes", "of", "where", "words"),
    [
        (
            {},
            OF,
            "#rule",
            "The votes, against a threshold (0.26, chosen on validation data): 7 of 25 are enough for Tumor, and this "
            "ROI has 12. So the label is Tumor, though more than half of the patches vote Normal. The probability "
            "does not decide: taken alone it would say Normal.",
        ),
        (
            {"label": "Normal", "threshold": 0.5},
            MEAN,
            "#rule",
            "The mean score of the patches, 0.50, against a threshold (0.50, one half); the number of votes does not "
            "decide.",
        ),
        (
            {},
            OF,
            "#possible",
            "At the level of certainty that this model promises (it holds in 90 of 100 ROIs like those of the "
            "validation data), Normal and Tumor both remain possible: a reader has to decide.",
        ),
        ({"prediction_set": ["Tumor"], "referral": False}, OF, "#possible", "only Tumor remains possible."),
        ({"probability": 0.002}, OF, "#probability", "rates so, fewer than 1 are Tumor."),
        ({"probability": 0.999}, OF, "#probability", "rates so, more than 99 are Tumor."),
        ({"probability": 0.01}, OF, "#probability", "rates so, about 1 is Tumor."),
        ({}, OF, "#domain", "Yes, it is like the ROIs that the model learned from."),
        (
            {"in_domain": False, "domain_reason": "shows one grey value, 7; check the file"},
            OF,
            "#why",
            "do not rely on the label: it shows one grey value, 7; check the file.",
        ),
        ({"model_version": "6"}, OF, "#version", "mammo-roi version 6, which the service does not describe"),
    ],
)
def test_an_answer_is_told_in_plain_words(
    page: Page, roi: Path, changes: dict[str, Any], of: dict[str, Any], where: str, words: str
) -> None:
    answered_by(page, ROW | changes, of)
    choose(page, roi)
    expect(page.locator(where)).to_contain_text(words)


def test_everything_can_be_done_by_keyboard(page: Page, served: Served, film: Path) -> None:
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    assert page.locator("#drop").evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the example
    expect(page.locator("#name")).to_have_text("example.png")
    page.keyboard.press("Tab")
    expect(page.locator("#votes button").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#patch")).to_contain_text("Row 2, column 2: votes")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#votes")).to_be_hidden()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#cam-key")).to_contain_text("red speaks for Tumor, hatched blue for Normal")

    choose(page, film)
    expect(page.locator("#film")).to_be_visible()
    page.locator("#film").focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    # From the centre of 500 × 620 pixels by a hundredth of the longer side, and one pixel.
    expect(page.locator("#name")).to_have_text("film.pgm, x 242, y 303")
    expect(page.locator("#film")).to_be_focused()
    page.locator("#x").fill("1")
    page.locator("#x").press("Enter")
    expect(page.locator("#name")).to_have_text("film.pgm, x 1, y 303")
    row = served.row(film, at="242,303")
    page.get_by_role("button", name="film.pgm").first.click()
    expect(page.locator("#prediction")).to_have_text(row["prediction_id"])


@pytest.mark.parametrize("screen", ["light", "narrow"])
def test_a_click_on_a_film_votes_at_the_clicked_place(
    opened: Open, served: Served, film: Path, screen: str
) -> None:
    page = opened(**SCREENS[screen])
    choose(page, film)
    for n_places, (x, y) in enumerate(((200, 380), (499, 2), (3, 618)), start=1):
        expect(page.locator("#film-image")).to_be_visible()
        of_pixel = box_of(page.locator("#film-image"))["width"] / 500  # it is smaller beside an answer
        page.locator("#film").click(position={"x": x * of_pixel, "y": y * of_pixel})
        expect(page.locator("#rows tr")).to_have_count(n_places)
        expect(page.locator("#status")).to_contain_text("of 25 patches")
        place = page.locator("#rows tr").last.locator("td").first.text_content()
        assert place is not None
        found = [int(one) for one in place.split(", ")]
        assert abs(found[0] - x) <= 1 / of_pixel
        assert abs(found[1] - y) <= 1 / of_pixel
        row = served.row(film, at=f"{found[0]},{found[1]}")
        expect(page.locator("#prediction")).to_have_text(row["prediction_id"])
        frame, image = box_of(page.locator("#box")), box_of(page.locator("#film-image"))
        assert 500 * frame["width"] / image["width"] == pytest.approx(120, abs=1)  # of a ROI
    expect(page.locator("#count")).to_have_text(f"{sum(row['votes'])} of 25 patches vote Tumor")


def test_the_version_shown_is_the_answers_even_when_the_champion_changed_since_the_page_was_opened(
    page: Page, crown: Callable[[str], None], roi: Path
) -> None:
    choose(page, roi)
    expect(page.locator("#version")).to_have_text("mammo-roi version 1, compact-model2")
    crown("2")
    page.locator("#show-cam").check()
    expect(page.locator("#error")).to_contain_text("version 2 serves by now")
    expect(page.locator("#cam")).to_be_hidden()
    choose(page, roi)
    expect(page.locator("#version")).to_have_text("mammo-roi version 2, compact-model2")
    expect(page.locator("#rule")).to_contain_text("a threshold (0.50")
    page.get_by_role("button", name="roi.png").first.click()
    expect(page.locator("#version")).to_have_text("mammo-roi version 1, compact-model2")
    expect(page.locator("#rule")).to_contain_text("a threshold (0.26")


def test_the_champion_stands_beside_the_challenger_with_numbers_and_intervals(page: Page) -> None:
    table = page.locator("#model-rows")
    expect(page.locator("#model-head th[scope=col]")).to_have_text(["Champion", "Challenger"])
    expect(table.get_by_role("row", name="AUC").get_by_role("cell")).to_have_text(
        ["0.92 (0.84 to 0.97), 64 ROIs"] * 2
    )
    expect(table.get_by_role("row", name="Accuracy").get_by_role("cell")).to_have_text(
        ["0.84 (0.75 to 0.92), 64 ROIs", "not known"]
    )
    expect(table.get_by_role("rowheader", name="Rule")).to_be_visible()
    expect(page.locator("#phantom")).to_be_visible()


def test_many_files_fill_a_table_and_a_bad_one_loses_none_of_the_others(
    page: Page, served: Served, film: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path, image in zip(paths, disc_rois(3, 3, seed=9).images, strict=True):
        Image.fromarray(image).save(path)
    (tmp_path / "broken.png").write_text("hello")
    choose(page, *paths[:3], tmp_path / "broken.png", *paths[3:], film)
    expect(page.locator("#status")).to_have_text("6 of 8 pictures have an answer.")
    expect(page.locator("#rows th[scope=row]")).to_have_text(
        ["0.png", "1.png", "2.png", "broken.png", "3.png", "4.png", "5.png", "film.pgm"]
    )
    expect(page.locator("#rows tr").nth(3)).to_contain_text("no answer: an image must be PNG")
    expect(page.locator("#rows tr").nth(7)).to_contain_text("a film: choose a place")
    expect(page.locator("#error")).to_contain_text("broken.png: an image must be PNG")
    page.get_by_role("button", name="4.png").click()
    expected = [served.row(path) for path in paths]
    expect(page.locator("#count")).to_contain_text(f"{sum(expected[4]['votes'])} of 25")
    page.screenshot(path=tmp_path / "many.png", full_page=True)

    with page.expect_download() as saved:
        page.locator("#save-all-csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert [row["file"] for row in rows] == [f"{index}.png" for index in range(6)]
    assert [float(row["probability"]) for row in rows] == [row["probability"] for row in expected]


def test_a_saved_answer_is_the_services_row(page: Page, served: Served, roi: Path) -> None:
    choose(page, roi)
    with page.expect_download() as saved:
        page.locator("#save-json").click()
    row = json.loads(Path(saved.value.path()).read_text())
    sent = served.row(roi)
    left_out = {"name", "picture"}
    assert row == {"file": "roi.png", "at": None} | {k: v for k, v in sent.items() if k not in left_out}
    assert saved.value.suggested_filename == f"mammo-{sent['prediction_id']}.json"


def test_the_curl_line_gets_the_same_answer_whatever_the_file_is_called(
    page: Page, served: Served, roi: Path, film: Path
) -> None:
    odd = roi.with_name('it\'s $(a) `odd` "one".png')
    shutil.copy(roi, odd)
    for path, place in ((odd, {}), (film, {"at": "250,310"})):
        choose(page, path)
        if path == film:
            expect(page.locator("#film")).to_be_visible()
            page.locator("#film").press("Enter")
        expect(page.locator("#name")).to_contain_text(path.name)
        line = page.locator("#curl").text_content()
        assert line is not None
        command = shlex.split(line)
        assert command[:3] == ["curl", "--data-binary", f"@./{path.name}"]
        if shutil.which("curl"):
            said = subprocess.run([*command, "--silent"], capture_output=True, check=True, cwd=path.parent)
            assert json.loads(said.stdout)["rois"][0] == served.row(path, **place)


def test_a_hostile_name_is_text_on_the_page_and_in_the_saved_table(
    page: Page, roi: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / HOSTILE
    shutil.copy(roi, hostile)
    bad = tmp_path / f"bad {HOSTILE}"
    bad.write_text("hello")
    choose(page, hostile, bad)
    expect(page.locator("#name")).to_have_text(HOSTILE)
    expect(page.locator("#error")).to_contain_text(f"bad {HOSTILE}: ")
    expect(page.locator("#rows th").first).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    with page.expect_download() as saved:
        page.locator("#save-csv").click()
    (row,) = csv.DictReader(io.StringIO(Path(saved.value.path()).read_text()))
    assert row["file"] == f"'{HOSTILE}"  # or a table program takes it for a formula


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"status": 422, "json": {"error": "body: a ROI must be grey"}},
            "other.png: a ROI must be grey",
        ),
        ({"status": 413, "body": "<html>"}, "the file is larger than the service takes; crop it"),
        ({"status": 429, "headers": {"Retry-After": "0"}}, "too many requests from here"),
        ({"status": 503, "headers": {"Retry-After": "0"}}, "the service is too busy"),
        ({"status": 408}, "arrived too slowly"),
        ({"status": 500, "body": "Internal Server Error"}, "the service failed (500); its log says why"),
        (None, "no answer from the service; nothing is lost: check that it runs, then try again"),
    ],
    ids=["422", "413", "429", "503", "408", "500", "gone"],
)
def test_trouble_is_told_in_words_and_trying_again_goes_on_where_it_was(
    page: Page, roi: Path, answer: dict[str, Any] | None, words: str
) -> None:
    choose(page, roi)
    expect(page.locator("#answer")).to_be_visible()
    page.route("**/v1/rois?*", lambda route: route.abort() if answer is None else route.fulfill(**answer))
    other = roi.with_name("other.png")
    shutil.copy(roi, other)
    choose(page, other)
    expect(page.locator("#error")).to_contain_text(words)
    expect(page.locator("#answer")).to_be_hidden()  # no earlier answer stands beside what got none
    expect(page.locator("#rows tr")).to_have_count(2)
    page.unroute("**/v1/rois?*")
    if answer is not None and answer["status"] in (413, 422):  # it would be refused again
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        return
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#name")).to_have_text("other.png")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_busy_service_is_asked_again_when_it_says(page: Page, roi: Path) -> None:
    refusals = iter([429, 503])

    def busy(route: Route) -> None:
        status = next(refusals, None)
        if status is None:
            route.fallback()
        else:
            route.fulfill(status=status, headers={"Retry-After": "0"})

    page.route("**/v1/rois?*", busy)
    choose(page, roi)
    expect(page.locator("#answer")).to_be_visible()
    expect(page.locator("#error")).to_be_hidden()


def test_a_file_larger_than_the_service_takes_is_not_sent(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.dcm"
    large.write_bytes(bytes(FILM_BYTES + 1))
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    choose(page, large)
    expect(page.locator("#error")).to_contain_text(
        f"has {FILM_BYTES + 1} bytes, the service takes {FILM_BYTES}"
    )
    assert sent == []


def test_a_service_with_a_token_asks_for_it(opened: Open, roi: Path) -> None:
    page = opened()

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.fallback()
        else:
            route.fulfill(status=401, json={"error": "authorization: must be `Bearer TOKEN`"})

    page.route("**/v1/**", guarded)
    page.reload()
    expect(page.locator("#error")).to_contain_text("authorization: must be")
    choose(page, roi)
    expect(page.locator("#error")).to_contain_text("roi.png: authorization")
    page.get_by_label("access token").fill("open sesame")
    page.get_by_label("access token").press("Enter")
    expect(page.locator("#answer")).to_be_visible()
    expect(page.locator("#model-rows tr").first).to_be_visible()
    expect(page.get_by_label("access token")).to_be_hidden()


def test_files_can_be_dropped_anywhere_and_chosen_twice(page: Page, roi: Path) -> None:
    content = list(roi.read_bytes())
    dropped = page.evaluate_handle(
        "content => { const data = new DataTransfer(); "
        "data.items.add(new File([new Uint8Array(content)], 'dropped.png')); return data; }",
        content,
    )
    page.dispatch_event("#model-title", "drop", {"dataTransfer": dropped})
    expect(page.locator("#name")).to_have_text("dropped.png")
    for n_answers in (2, 3):
        choose(page, roi)
        expect(page.locator("#rows tr")).to_have_count(n_answers)
        # A browser tells the page of no change when the same file is chosen again, unless the choice was emptied.
        assert page.locator("#files").input_value() == ""
