"""Files on the service's page: many, odd and hostile ones, and what happens when the service refuses."""

import csv
import io
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from mammo.serve.requests import FILM_BYTES
from tests.chromium import needs_chromium
from tests.disc_rois import disc_rois
from tests.serve.browsing import Served, choose

pytestmark = [pytest.mark.slow, needs_chromium]
HOSTILE = "=<img src=x onerror=alert(1)>'\"; $(rm) &amp;.png"


def by_earlier_code(route: Route) -> None:
    """Answer as a version did that knew one rule alone."""
    told = route.fetch().json()
    del told["rois"][0]["decided_by"]
    route.fulfill(json=told)


def test_many_files_fill_a_table_and_a_bad_one_loses_none_of_the_others(
    page: Page, served: Served, film: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path, image in zip(paths, disc_rois(3, 3, seed=9).images, strict=True):
        Image.fromarray(image).save(path)
    bad = [tmp_path / f"{name}.png" for name in ("small", "a", "b", "c", "broken")]
    with Image.open(paths[0]) as image:
        image.crop((0, 0, 100, 90)).save(bad[0])
    for path in bad[1:]:
        path.write_text("hello")
    choose(page, *bad[:4])
    expect(page.locator("#status")).to_have_text("0 of 4 pictures have an answer.")
    expect(page.locator("#error")).to_contain_text(
        "small.png: a ROI must be 120 × 120 pixels, and a film larger than 120, got 100 × 90"
    )
    expect(page.locator("#error")).to_contain_text("c.png: an image must be PNG")
    expect(page.get_by_role("button", name="Save all as CSV")).to_be_hidden()

    page.route("**/v1/rois?*", by_earlier_code, times=1)
    choose(page, *paths[:3], bad[4], *paths[3:], film)
    expect(page.locator("#status")).to_have_text("6 of 8 pictures have an answer.")
    taken = [*bad[:4], *paths[:3], bad[4], *paths[3:], film]
    expect(page.locator("#rows th[scope=row]")).to_have_text([path.name for path in taken])
    expect(page.locator("#rows tr").nth(7)).to_contain_text("no answer: an image must be PNG")
    expect(page.locator("#rows tr").nth(11)).to_contain_text("a film: choose a place")
    told = page.locator("#error").inner_text().splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "small.png",
        "a.png",
        "b.png",
        "2 more have no answer",
    ]
    page.get_by_role("button", name="4.png").click()
    expected = [served.row(path) for path in paths]
    expect(page.locator("#count")).to_contain_text(f"{sum(expected[4]['votes'])} of 25")

    with page.expect_download() as saved:
        page.locator("#save-all-csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert [row["file"] for row in rows] == [f"{index}.png" for index in range(6)]
    assert [float(row["probability"]) for row in rows] == [row["probability"] for row in expected]
    assert [row["prediction_id"] for row in rows] == [row["prediction_id"] for row in expected]


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


def test_a_hostile_name_is_text_on_the_page_and_in_the_saved_table(page: Page, roi: Path, tmp_path: Path) -> None:
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
    expect(page.locator("#error")).to_contain_text(f"has {FILM_BYTES + 1} bytes, the service takes {FILM_BYTES}")
    assert sent == []


def test_a_service_with_a_token_asks_for_it(opened: Callable[..., Page], roi: Path) -> None:
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
    page.get_by_label("access token").fill("open seasame")
    page.get_by_label("access token").press("Enter")
    expect(page.get_by_label("access token")).to_be_visible()
    page.get_by_label("access token").fill("\u200bopen sesame\u00a0")  # as a web page or a letter gives it
    page.get_by_label("access token").press("Enter")
    expect(page.locator("#answer")).to_be_visible()
    expect(page.locator("#files")).to_be_focused()
    expect(page.locator("#curl")).to_contain_text('--header "Authorization: Bearer $MAMMO_SERVE_TOKEN"')
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
