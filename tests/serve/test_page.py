"""What the service's page shows, in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.chromium import needs_chromium
from tests.serve.browsing import SCREENS, Served, box_of, choose, violations

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_is_accessible_and_no_wider_than_the_screen(
    opened: Callable[..., Page], roi: Path, film: Path, tmp_path: Path, screen: str
) -> None:
    page = opened(**SCREENS[screen])
    assert violations(page) == ""

    choose(page, roi)
    expect(page.locator("#votes button")).to_have_count(25)
    page.locator("#show-cam").check()
    expect(page.locator("#cam")).to_be_visible()
    page.locator("#votes button").nth(7).focus()
    assert violations(page) == ""
    page.emulate_media(forced_colors="active")
    colour = "marks => new Set(marks.map(mark => getComputedStyle(mark).backgroundColor)).size"
    assert page.locator(".quiet .mark").evaluate_all(colour) == 2
    page.emulate_media(forced_colors="none")

    choose(page, film)
    expect(page.locator("#film")).to_be_visible()
    assert violations(page) == ""
    page.locator("#film").click(position={"x": 60, "y": 120})
    expect(page.locator("#name")).to_contain_text("film.pgm")
    text = tmp_path / "no picture.png"
    text.write_text("hello")
    choose(page, text)
    expect(page.locator("#error")).to_be_visible()
    page.get_by_role("button", name="film.pgm").click()
    assert violations(page) == ""
    page.emulate_media(media="print")
    expect(page.locator(".notice")).to_be_visible()
    expect(page.locator("#files")).to_be_hidden()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_for_programs_is_as_accessible(opened: Callable[..., Page], screen: str) -> None:
    page = opened(**SCREENS[screen])
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="POST /v1/rois")).to_be_visible()
    assert violations(page) == ""


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
    picture, mark, square = (box_of(page.locator(one)) for one in ("#picture", "#votes button:nth-child(9)", "#square"))
    pixel = picture["width"] / 120
    assert (mark["x"] + mark["width"] / 2 - picture["x"]) / pixel == pytest.approx(80, abs=0.5)
    assert (mark["y"] + mark["height"] / 2 - picture["y"]) / pixel == pytest.approx(40, abs=0.5)
    assert (square["x"] - picture["x"]) / pixel == pytest.approx(60, abs=0.5)
    assert (square["y"] - picture["y"]) / pixel == pytest.approx(20, abs=0.5)
    assert (square["width"] / pixel, square["height"] / pixel) == pytest.approx((40, 40), abs=0.5)
    expect(page.locator("#patch")).to_contain_text("Row 2, column 4: votes")


@pytest.mark.parametrize("suffix", ["pgm", "tiff"])
def test_a_format_that_no_browser_shows_is_drawn_as_the_model_saw_it(page: Page, roi: Path, suffix: str) -> None:
    other = roi.with_suffix(f".{suffix}")
    with Image.open(roi) as image:
        image.save(other)
    choose(page, other)
    expect(page.locator("#image")).to_have_attribute("alt", f"roi.{suffix} as the model saw it")
    assert page.locator("#image").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 120]


def answered_by(page: Page, row: dict[str, Any], of: dict[str, Any] | None = None) -> None:
    """Let the service answer with this row, and describe its champion so."""
    page.route("**/v1/rois?*", lambda route: route.fulfill(json={"rois": [row]}))
    if of is not None:
        described = {"champion": of, "challenger": None, "notice": "", "limits": {"film_bytes": 2**20}}
        page.route("**/v1/model", lambda route: route.fulfill(json=described))
        page.reload()


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
    opened: Callable[..., Page], served: Served, film: Path, screen: str
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


def test_a_place_chosen_while_another_waits_has_a_row_of_its_own_and_the_crosshair_stays(
    page: Page, served: Served, film: Path
) -> None:
    held: list[Route] = []
    page.route("**/v1/films?*", lambda route: held.append(route))
    rows, x = page.locator("#rows tr"), page.locator("#x")
    choose(page, film)
    expect(page.locator("#film")).to_be_visible()
    with page.expect_request("**/v1/films?*"):
        page.locator("#film").press("Enter")  # at the centre of 500 × 620 pixels
    x.fill("200")
    x.press("Enter")
    x.fill("7")
    with page.expect_request("**/v1/films?*"):
        held.pop().fallback()
    expect(x).to_have_value("7")
    held.pop().abort()
    expect(rows.last.locator("td")).to_contain_text(["200, 310", "no answer"])
    page.unroute("**/v1/films?*")
    rows.last.get_by_role("button").click()
    expect(x).to_have_value("200")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#prediction")).to_have_text(served.row(film, at="200,310")["prediction_id"])
    rows.first.get_by_role("button").click()
    expect(page.locator("#prediction")).to_have_text(served.row(film, at="250,310")["prediction_id"])


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
    expect(page.locator("#model-rows tr").first.locator("td").first).to_have_text("mammo-roi 2")
    expect(page.locator("#rule")).to_contain_text("a threshold (0.50")
    page.get_by_role("button", name="roi.png").first.click()
    expect(page.locator("#version")).to_have_text("mammo-roi version 1, compact-model2")
    expect(page.locator("#rule")).to_contain_text("a threshold (0.26")


def test_the_champion_stands_beside_the_challenger_with_numbers_and_intervals(page: Page) -> None:
    table = page.locator("#model-rows")
    expect(page.locator("#model-head th[scope=col]")).to_have_text(["Champion", "Challenger"])
    expect(table.get_by_role("row", name="AUC").get_by_role("cell")).to_have_text(["0.92 (0.84 to 0.97), 64 ROIs"] * 2)
    expect(table.get_by_role("row", name="Accuracy").get_by_role("cell")).to_have_text(
        ["0.84 (0.75 to 0.92), 64 ROIs", "not known"]
    )
    expect(table.get_by_role("rowheader", name="Rule")).to_be_visible()
    expect(page.locator("#phantom")).to_be_visible()


def test_an_estimate_without_an_interval_or_a_value_leaves_the_table_whole(page: Page) -> None:
    def undefined(route: Route) -> None:
        told = route.fetch().json()
        auc, accuracy = told["champion"]["estimates"]
        auc |= {"value": 1.0, "ci_low": None, "ci_high": None}
        accuracy |= {"value": None, "ci_low": None, "ci_high": None}
        route.fulfill(json=told | {"challenger": None})

    page.route("**/v1/model", undefined)
    page.reload()
    table = page.locator("#model-rows")
    expect(table.get_by_role("row", name="AUC").get_by_role("cell")).to_have_text("1.00 (no interval), 64 ROIs")
    expect(table.get_by_role("row", name="Accuracy").get_by_role("cell")).to_have_text("not known")
    expect(page.locator("#error")).to_be_hidden()
