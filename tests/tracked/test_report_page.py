"""The report page of a phantom workspace, read as a doubting reader would."""

import json
import re
import shutil
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_json, write_json
from mammo.report.page import gather, write_model_card, write_page
from tests.chromium import chromium, needs_chromium

REPORTS = Path(__file__).parents[2] / "reports"
STUDIES = ("seeds", "ledger", "ablate", "study", "tune")


@pytest.fixture(scope="module")
def reported(finished: tuple[Workspace, Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Config]:
    """A copy of the finished workspace, with the project's own studies and audit, after the stage `report`."""
    root = tmp_path_factory.mktemp("reported") / "workspace"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("mlruns"))
    for name in (*STUDIES, "audit"):
        shutil.copytree(REPORTS / name, root / "reports" / name)
    for path in (path for name in STUDIES for path in (root / "reports" / name).glob("*.json")):
        study = json.loads(path.read_text())
        of = study.get("data") or study["study"]
        of |= {"source": "phantom", "synthetic": True}  # as if of this workspace's data
        path.write_text(json.dumps(study))
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


def parse(html: str) -> Element:
    """The page's tree, read strictly: a tag that is not closed in order, or a repeated attribute, fails the test."""
    return ElementTree.fromstring(re.sub(r"<((?:meta|link|img|br)\b[^>]*)>", r"<\1/>", html))


def every(found: Element, *tags: str) -> list[Element]:
    return [element for element in found.iter() if element.tag in tags and element is not found]


def text(found: Element) -> str:
    return "".join(found.itertext())


def loose_text(cell: Element) -> str:
    """The text that is in no link."""
    found = text(cell)
    for link in every(cell, "a"):
        found = found.replace(text(link), "", 1)
    return found


def write(workspace: Workspace, config: Config) -> Element:
    inputs = gather(workspace, config)
    write_model_card(inputs)
    write_page(inputs)
    return parse((workspace.reports / "index.html").read_text())


@pytest.fixture(scope="module")
def page(reported: tuple[Workspace, Config]) -> Element:
    return parse((reported[0].reports / "index.html").read_text())


def section(page: Element, key: str) -> Element:
    return next(found for found in every(page, "section") if found.attrib["id"] == key)


def test_the_page_needs_nothing_beside_itself(page: Element) -> None:
    assert every(page, "iframe", "object", "embed", "base", "form") == []
    assert [script.attrib for script in every(page, "script")] == [{}]
    assert [image.attrib["src"][:23] for image in every(page, "img") if image.attrib["src"][:5] != "data:"] == []
    assert [link.attrib for link in every(page, "link")] == [{"rel": "icon", "href": "data:,"}]
    style = text(every(page, "style")[0])
    assert "@import" not in style
    assert "url(" not in style
    outside = [a.attrib["href"] for a in every(page, "a") if ":" in a.attrib["href"].split("#")[0]]
    assert outside == ["https://doi.org/10.1038/s41598-020-71431-x"]


@pytest.mark.parametrize(
    ("key", "named"), [("ledger", "ledger/ledger.json"), ("tune", "tune/study.json, tune/nested.json")]
)
def test_studies_of_other_data_are_named_and_not_shown_and_the_command_makes_ones_own(
    key: str, named: str, undrawn: tuple[Workspace, Config]
) -> None:
    for file in named.split(", "):
        shutil.copy(REPORTS / file, undrawn[0].reports / file)
    found = section(write(*undrawn), key)
    assert f"Of other data, and not shown here: {named}\n" in text(found)
    assert f"Not there yet: mammo {key} makes it" in text(found)
    assert every(found, "table", "img") == []


def test_only_a_study_that_knew_no_patients_is_said_to_know_none(undrawn: tuple[Workspace, Config]) -> None:
    file = undrawn[0].reports / "tune" / "study.json"
    (file.parent / "nested.json").unlink()
    said = []
    for n_patients in (None, 24):
        study = read_json(file)
        write_json(file, study | {"study": study["study"] | {"n_patients": n_patients}})
        said.append("patients were unknown" in text(section(write(*undrawn), "tune")))
    assert said == [True, False]


def test_the_page_is_whole_html_with_unique_anchors(page: Element) -> None:
    assert (page.tag, page.attrib["lang"], [element.tag for element in page]) == (
        "html",
        "en",
        ["head", "body"],
    )
    ids = [element.attrib["id"] for element in every(page, "section")]
    assert len(ids) == len(set(ids))
    anchors = [a.attrib["href"][1:] for a in every(page, "a") if a.attrib["href"].startswith("#")]
    assert [anchor for anchor in anchors if anchor != "top"] == ids
    assert anchors.count("top") == len(ids)
    assert all(image.attrib["alt"] for image in every(page, "img"))


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
    checked = {section.attrib["id"]: 0 for section in every(page, "section")}
    for found in every(page, "section"):
        for link in every(found, "a"):
            href, words = link.attrib["href"], text(link).replace("−", "-")
            value = linked_value(reported[0], href)
            if link.get("class") != "num" or not urlsplit(href).fragment:
                continue
            numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", words)]
            if isinstance(value, float):
                shown = [float(words[:-1]) / 100] if words.endswith("%") else numbers or [float(words)]
                assert shown == [pytest.approx(value, abs=5.1e-4)], href
            elif isinstance(value, dict) and "ci_low" in value and numbers:
                keys = ("mean", "sd") if "mean" in value else ("value", "sd_runs", "ci_low", "ci_high")
                expected = [value[key] for key in keys if value.get(key) is not None]
                assert numbers == [pytest.approx(one, abs=5.1e-4) for one in expected], href
                assert "mean" in value or f"n {value['n']}" in words, href
            elif isinstance(value, int) and not isinstance(value, bool):
                assert words == str(value), href
            else:
                continue
            checked[found.attrib["id"]] += 1
    assert {key for key, n in checked.items() if n >= 8} >= {
        *("data", "audit", "results", "choice", "comparisons", "operation", "slices", *STUDIES)
    }


def test_every_number_of_a_table_is_inside_a_link(page: Element) -> None:
    loose = [
        text(cell)
        for found in every(page, "section")
        for cell in every(found, "td")
        if found.attrib["id"] not in {"settings", "provenance", "tune"}
        and re.search(r"\d", re.sub(r"disc-\d+", "", loose_text(cell)))
    ]
    assert loose == []


def test_every_table_and_picture_names_its_file_and_says_phantom(page: Element) -> None:
    assert len(every(page, "img")) >= 8
    for found in every(page, "section"):
        captions = every(found, "figcaption")
        assert len(captions) == len(every(found, "table")) + len(every(found, "img"))
        for caption in captions:
            assert "PHANTOM" in text(caption), text(caption)
            assert [a for a in every(caption, "a") if a.attrib["class"] == "source"], text(caption)
    assert "PHANTOM" in text(every(page, "header")[0])
    assert "no medical device" in text(every(page, "header")[0])


@pytest.mark.parametrize(
    ("key", "file", "parts"),
    [
        ("seeds", "seeds/seeds.json", "systems floor selected"),
        ("ledger", "ledger/ledger.json", "rows minus_floor between_systems gaps referral flagged_rois"),
        ("ablate", "ablate/ablate.json", "defects reference settings"),
        ("study", "study/choices.json", "variants reference question"),
        ("tune", "tune/study.json", "record"),
        ("tune", "tune/nested.json", "tuned reference effect folds promise"),
        ("audit", "audit/summary.json", "n_rois pairs_by_kind shared_patients"),
    ],
)
def test_a_section_shows_every_part_of_its_file(page: Element, key: str, file: str, parts: str) -> None:
    split = (a.attrib["href"].partition("#") for a in every(section(page, key), "a"))
    assert {place.split("/")[1] for path, _, place in split if path == file and place} >= set(parts.split())


def test_phantom_slices_are_known_and_an_empty_one_says_so(page: Element) -> None:
    rows = [text(row) for row in every(section(page, "slices"), "tr")]
    fatty = next(row for row in rows if row.startswith("F: "))
    assert "n/a" in fatty
    assert any(row.startswith("CIRC: ") and "n/a" not in row for row in rows)


def test_explanations_are_those_of_the_stated_rule(page: Element, reported: tuple[Workspace, Config]) -> None:
    figures = every(section(page, "explanations"), "figure")
    lines = (reported[0].reports / "evaluate" / "predictions.csv").read_text().splitlines()
    assert figures
    for figure in figures:
        link = every(figure, "a")[0].attrib["href"]
        line = lines[int(link.rpartition("=")[2]) - 1]
        roi_id = re.search(r"disc-\d+", text(figure))
        assert roi_id is not None
        assert roi_id.group() in line


def test_a_section_without_files_names_the_command_that_makes_them(
    undrawn: tuple[Workspace, Config],
) -> None:
    for key in STUDIES:
        shutil.rmtree(undrawn[0].reports / key)
    page = write(*undrawn)
    for key in STUDIES:
        assert f"mammo {key}" in text(section(page, key))
        assert every(section(page, key), "table") == []


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
    assert "<b>vgg16</b>-model1" in text(section(page, "ledger"))
    assert every(page, "b") == []
    assert "as one of its trials" not in text(section(page, "tune"))
    assert "the first 40 of 51" in text(section(page, "audit"))
    assert "another part knows something: none" in text(section(page, "audit"))


def test_thresholds_calibration_and_referral_are_those_of_every_system(
    page: Element, reported: tuple[Workspace, Config]
) -> None:
    thresholds, *others = every(section(page, "operation"), "table")
    n = len(reported[1].systems)
    assert len(every(thresholds, "tr")) >= 1 + 2 * n
    assert [len(every(table, "tr")) for table in others] == [1 + 6 * n, 1 + 2 * n, 1 + n]
    assert "(ships)" in text(thresholds)


def test_the_same_files_give_the_same_bytes(own: tuple[Workspace, Config]) -> None:
    workspace, config = own
    names = ("index.html", "model_card.md", "slices.json", "provenance.json")
    before = {name: (workspace.reports / name).read_bytes() for name in names}
    write(workspace, config)
    assert {name: (workspace.reports / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("name", ["results.json", "predictions.csv"])
def test_without_an_evaluation_the_stage_says_what_to_run(name: str, own: tuple[Workspace, Config]) -> None:
    workspace, config = own
    (workspace.reports / "evaluate" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: does not exist; run `dvc repro`"):
        gather(workspace, config)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_shows_the_page_alone_without_a_request(
    reported: tuple[Workspace, Config], tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    # Alone in a folder: whatever else it wanted would be missing.
    alone = shutil.copy(reported[0].reports / "index.html", tmp_path)
    trouble: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("request", lambda r: None if r.url.startswith("data:") else trouble.append(r.url))
        page.goto(f"file://{alone}")
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        shot = page.screenshot(full_page=True)
        folded = page.locator("#ledger details")
        assert folded.get_attribute("open") is None
        for _ in ("folded", "folded again"):
            folded.evaluate("details => { details.open = false; }")
            page.locator("nav a[href='#ledger']").click()
            page.wait_for_function("document.querySelector('#ledger details').open")
        printed = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert printed <= 12
    assert trouble == [f"file://{alone}"]
    assert min(widths) > 0
    assert len(shot) > 50_000
