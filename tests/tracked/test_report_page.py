"""The report page and the model card of a phantom workspace, read as a doubting reader would."""

import json
import re
import shutil
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_json, write_json
from mammo.report.page import gather, model_card, write_model_card, write_page
from tests.report.parsed_page import Element, parse

CHROMIUM = shutil.which("chromium")
REPORTS = Path(__file__).parents[2] / "reports"
STUDIES = ("seeds", "ledger", "ablate", "study", "tune")


@pytest.fixture(scope="module")
def reported(
    finished: tuple[Workspace, Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Config]:
    """A copy of the finished workspace, with the project's own studies and audit, after the stage `report`."""
    root = tmp_path_factory.mktemp("reported") / "workspace"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("mlruns"))
    for name in (*STUDIES, "audit"):
        shutil.copytree(REPORTS / name, root / "reports" / name)
    workspace, config = Workspace(root), finished[1]
    write(workspace, config)
    return workspace, config


@pytest.fixture
def own(reported: tuple[Workspace, Config], tmp_path: Path) -> tuple[Workspace, Config]:
    """A copy to change."""
    shutil.copytree(reported[0].root, tmp_path / "own")
    return Workspace(tmp_path / "own"), reported[1]


@pytest.fixture
def undrawn(own: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Config]:
    """A copy to change, whose page explains no ROI."""
    monkeypatch.setattr("mammo.report.page.pick_examples", lambda *_: [])
    return own


def write(workspace: Workspace, config: Config) -> Element:
    inputs = gather(workspace, config)
    write_model_card(inputs)
    write_page(inputs)
    return parse((workspace.reports / "index.html").read_text())


@pytest.fixture(scope="module")
def page(reported: tuple[Workspace, Config]) -> Element:
    return parse((reported[0].reports / "index.html").read_text())


def section(page: Element, key: str) -> Element:
    return next(found for found in page.all("section") if found.attributes["id"] == key)


def test_the_page_needs_nothing_beside_itself(page: Element) -> None:
    assert page.all("script", "iframe", "object", "embed", "base", "form") == []
    assert [
        image.attributes["src"][:23] for image in page.all("img") if image.attributes["src"][:5] != "data:"
    ] == []
    assert [link.attributes for link in page.all("link")] == [{"rel": "icon", "href": "data:,"}]
    style = page.all("style")[0].text
    assert "@import" not in style
    assert "url(" not in style
    outside = [a.attributes["href"] for a in page.all("a") if ":" in a.attributes["href"].split("#")[0]]
    assert outside == ["https://doi.org/10.1038/s41598-020-71431-x"]


def test_the_page_is_whole_html_with_unique_anchors(page: Element) -> None:
    html = page.all("html")[0]
    assert html.attributes["lang"] == "en"
    assert [element.tag for element in html.inside] == ["head", "body"]
    ids = [element.attributes["id"] for element in page.all("section")]
    assert len(ids) == len(set(ids))
    anchors = [a.attributes["href"][1:] for a in page.all("a") if a.attributes["href"].startswith("#")]
    assert anchors == ids
    assert all(image.attributes["alt"] for image in page.all("img"))


def linked_value(workspace: Workspace, href: str) -> object:
    """What lies where a link of the page points to; the file must exist."""
    parts = urlsplit(href)
    path = workspace.reports / unquote(parts.path)
    assert path.exists(), href
    if not parts.fragment or path.suffix != ".json":
        return None
    found = json.loads(path.read_text())
    for key in unquote(parts.fragment).removeprefix("/").split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def test_every_number_is_the_one_at_the_place_that_it_links_to(
    page: Element, reported: tuple[Workspace, Config]
) -> None:
    checked = {section.attributes["id"]: 0 for section in page.all("section")}
    for found in page.all("section"):
        for link in found.all("a"):
            href, text = link.attributes["href"], link.text.replace("−", "-")
            value = linked_value(reported[0], href)
            if link.attributes.get("class") != "num" or not urlsplit(href).fragment:
                continue
            numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", text)]
            if isinstance(value, float):
                shown = [float(text[:-1]) / 100] if text.endswith("%") else numbers or [float(text)]
                assert shown == [pytest.approx(value, abs=5.1e-4)], href
            elif isinstance(value, dict) and "ci_low" in value and numbers:
                keys = ("mean", "sd") if "mean" in value else ("value", "sd_runs", "ci_low", "ci_high")
                expected = [value[key] for key in keys if value.get(key) is not None]
                assert numbers == [pytest.approx(one, abs=5.1e-4) for one in expected], href
                assert "mean" in value or f"n {value['n']}" in text, href
            elif isinstance(value, int) and not isinstance(value, bool):
                assert text == str(value), href
            else:
                continue
            checked[found.attributes["id"]] += 1
    assert {key for key, n in checked.items() if n >= 8} >= {
        *("data", "audit", "results", "choice", "comparisons", "operation", "slices", *STUDIES)
    }


def test_every_number_of_a_table_is_inside_a_link(page: Element) -> None:
    loose = [
        cell.text
        for found in page.all("section")
        for cell in found.all("td")
        if found.attributes["id"] not in {"settings", "provenance", "tune"}
        and re.search(r"\d", re.sub(r"disc-\d+", "", cell.text_outside("a")))
    ]
    assert loose == []


def test_every_table_and_picture_names_its_file_and_says_phantom(page: Element) -> None:
    assert len(page.all("img")) >= 8
    for found in page.all("section"):
        captions = found.all("caption", "figcaption")
        assert len(captions) == len(found.all("table")) + len(found.all("img"))
        for caption in captions:
            assert ("PHANTOM" in caption.text) == (found.attributes["id"] not in STUDIES), caption.text
            assert [a for a in caption.all("a") if a.attributes["class"] == "source"], caption.text
    assert "PHANTOM" in page.all("header")[0].text
    assert "no medical device" in page.all("header")[0].text


@pytest.mark.parametrize(
    ("key", "file", "parts"),
    [
        ("seeds", "seeds/seeds.json", "systems floor selected"),
        ("ledger", "ledger/ledger.json", "rows minus_floor between_systems gaps referral flagged_rois"),
        ("ablate", "ablate/ablate.json", "defects reference settings"),
        ("study", "study/choices.json", "variants reference question"),
        ("study", "study/tuned.json", "variants reference question"),
        ("tune", "tune/study.json", "record"),
        ("tune", "tune/nested.json", "tuned reference effect folds promise"),
        ("audit", "audit/summary.json", "n_rois pairs_by_kind shared_patients"),
    ],
)
def test_a_section_shows_every_part_of_its_file(page: Element, key: str, file: str, parts: str) -> None:
    split = (a.attributes["href"].partition("#") for a in section(page, key).all("a"))
    assert {place.split("/")[1] for path, _, place in split if path == file and place} >= set(parts.split())


def test_phantom_slices_are_known_and_an_empty_one_says_so(page: Element) -> None:
    rows = [row.text for row in section(page, "slices").all("tr")]
    fatty = next(row for row in rows if row.startswith("F: "))
    assert "n/a" in fatty
    assert any(row.startswith("CIRC: ") and "n/a" not in row for row in rows)


def test_explanations_are_those_of_the_stated_rule(page: Element, reported: tuple[Workspace, Config]) -> None:
    figures = section(page, "explanations").all("figure")
    lines = (reported[0].reports / "evaluate" / "predictions.csv").read_text().splitlines()
    assert figures
    for figure in figures:
        link = figure.all("a")[0].attributes["href"]
        line = lines[int(link.rpartition("=")[2]) - 1]
        roi_id = re.search(r"disc-\d+", figure.text)
        assert roi_id is not None
        assert roi_id.group() in line


def test_a_section_without_files_names_the_command_that_makes_them(
    undrawn: tuple[Workspace, Config],
) -> None:
    for key in STUDIES:
        shutil.rmtree(undrawn[0].reports / key)
    page = write(*undrawn)
    for key in STUDIES:
        assert f"mammo {key}" in section(page, key).text
        assert section(page, key).all("table") == []


def test_a_page_of_odd_files_is_escaped_and_says_what_is_left_out(undrawn: tuple[Workspace, Config]) -> None:
    reports = undrawn[0].reports
    ledger, study = read_json(reports / "ledger" / "ledger.json"), read_json(reports / "tune" / "study.json")
    ledger["rows"][0]["name"] = "<b>vgg16</b>-model1"
    write_json(reports / "ledger" / "ledger.json", ledger)
    study["record"]["settings_of_params"] = "not in the workspace"
    write_json(reports / "tune" / "study.json", study)
    (reports / "audit" / "pairs.csv").write_text("a,overlap_px\nroi-1,8245\n" + "roi-2,7\n" * 50)
    (reports / "audit" / "flagged_rois.csv").write_text("roi_id,split\n")
    page = write(*undrawn)
    assert "<b>vgg16</b>-model1" in section(page, "ledger").text
    assert page.all("b") == []
    assert "as one of its trials" not in section(page, "tune").text
    assert "the first 40 of 51" in section(page, "audit").text
    assert "another part knows something: none" in section(page, "audit").text


def test_thresholds_calibration_and_referral_are_those_of_every_system(
    page: Element, reported: tuple[Workspace, Config]
) -> None:
    thresholds, *others = section(page, "operation").all("table")
    n = len(reported[1].systems)
    assert len(thresholds.all("tr")) >= 1 + 2 * n
    assert [len(table.all("tr")) for table in others] == [1 + 6 * n, 1 + 2 * n, 1 + n]
    assert "(ships)" in thresholds.text


def test_the_same_files_give_the_same_bytes(own: tuple[Workspace, Config]) -> None:
    workspace, config = own
    names = ("index.html", "model_card.md", "slices.json", "provenance.json")
    before = {name: (workspace.reports / name).read_bytes() for name in names}
    write(workspace, config)
    assert {name: (workspace.reports / name).read_bytes() for name in names} == before


def test_without_an_evaluation_the_stage_says_what_to_run(own: tuple[Workspace, Config]) -> None:
    workspace, config = own
    (workspace.reports / "evaluate" / "results.json").unlink()
    with pytest.raises(DataError, match=r"results\.json: does not exist; run `dvc repro`"):
        gather(workspace, config)


def test_the_model_card_has_the_usual_sections_and_links_its_numbers(
    reported: tuple[Workspace, Config],
) -> None:
    card = (reported[0].reports / "model_card.md").read_text()
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
    assert all((reported[0].reports / path).is_file() for path in targets.values())
    cells = [cell for line in card.splitlines() if line.startswith("|") for cell in line.split("|")[2:-1]]
    numbers = [cell for cell in cells if re.search(r"\d\.\d", cell)]
    assert len(numbers) > 20
    assert all(cell.strip().startswith("[") for cell in numbers)


def test_the_card_of_the_archive_says_what_it_does_not_know(own: tuple[Workspace, Config]) -> None:
    workspace, config = own
    inputs = gather(workspace, config)
    for axis in inputs.slices.content["axes"].values():
        axis["systems"] = {}
    inputs.results.content["data"] |= {"synthetic": False, "protocol": "published"}
    card = model_card(inputs)
    assert card.count("unknown to the source for all ROIs of the test part") == 4
    assert "PHANTOM" not in card.replace("PHANTOM (synthetic) ROIs", "")
    assert "published split is by ROI" in card


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: install Debian's package chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_shows_the_page_alone_without_a_request(
    reported: tuple[Workspace, Config], tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    # Alone in a folder: whatever else it wanted would be missing.
    alone = shutil.copy(reported[0].reports / "index.html", tmp_path)
    trouble: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("request", lambda r: None if r.url.startswith("data:") else trouble.append(r.url))
        page.goto(f"file://{alone}")
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        shot = page.screenshot(full_page=True)
        browser.close()
    assert trouble == [f"file://{alone}"]
    assert min(widths) > 0
    assert overflow <= 0
    assert len(shot) > 50_000
