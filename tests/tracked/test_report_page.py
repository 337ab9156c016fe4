"""The report page and the model card of a phantom workspace, read as a doubting reader would."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_json, write_json
from mammo.report.model_card import model_card, write_model_card
from mammo.report.page import write_page
from mammo.report.report_inputs import gather
from tests.reporting.parsed_page import Element, parse

CHROMIUM = shutil.which("chromium")
DATA = {"synthetic": True, "note": "PHANTOM (synthetic) ROIs"}


@pytest.fixture(scope="module")
def reported(
    finished: tuple[Workspace, Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Config]:
    """A copy of the finished workspace after the stage `report`."""
    root = tmp_path_factory.mktemp("reported") / "space"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("mlruns"))
    space, config = Workspace(root), finished[1]
    write(space, config)
    return space, config


@pytest.fixture
def own(reported: tuple[Workspace, Config], tmp_path: Path) -> tuple[Workspace, Config]:
    """A copy to change."""
    shutil.copytree(reported[0].root, tmp_path / "own")
    return Workspace(tmp_path / "own"), reported[1]


def write(space: Workspace, config: Config) -> Element:
    inputs = gather(space, config)
    write_model_card(inputs)
    write_page(inputs)
    return parse((space.reports / "index.html").read_text())


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


def linked_value(space: Workspace, href: str) -> object:
    """What lies where a link of the page points to; the file must exist."""
    parts = urlsplit(href)
    path = space.reports / unquote(parts.path)
    assert path.exists(), href
    if not parts.fragment or path.suffix != ".json":
        return None
    found = json.loads(path.read_text())
    for key in unquote(parts.fragment).removeprefix("/").split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def as_number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_every_number_is_the_one_at_the_place_that_it_links_to(
    page: Element, reported: tuple[Workspace, Config]
) -> None:
    checked = 0
    for link in page.all("a"):
        href = link.attributes["href"]
        if href.startswith(("#", "https:")):
            continue
        value = linked_value(reported[0], href)
        if link.attributes.get("class") != "num" or not urlsplit(href).fragment:
            continue
        numbers = [as_number(text) for text in re.findall(r"[-−]?\d+\.\d+", link.text)]
        if isinstance(value, float):
            assert numbers == [pytest.approx(value, abs=5.1e-4)], href
            checked += 1
        elif isinstance(value, dict) and "ci_low" in value and numbers:
            expected = [value[key] for key in ("value", "ci_low", "ci_high")][: len(numbers)]
            assert numbers == [pytest.approx(one, abs=5.1e-4) for one in expected], href
            checked += 1
        elif isinstance(value, int):
            assert link.text == str(value), href
            checked += 1
    assert checked > 60


def test_every_number_of_a_table_is_inside_a_link(page: Element) -> None:
    loose = [
        cell.text
        for found in page.all("section")
        for cell in found.all("td")
        if found.attributes["id"] not in {"settings", "provenance"}
        and re.search(r"\d", re.sub(r"disc-\d+", "", cell.text_outside("a")))
    ]
    assert loose == []


def test_every_table_and_picture_names_its_file_and_says_phantom(page: Element) -> None:
    captions = page.all("caption", "figcaption")
    assert len(captions) == len(page.all("table")) + len(page.all("img"))
    assert len(page.all("img")) >= 8
    for caption in captions:
        assert "PHANTOM" in caption.text, caption.text
        assert [a for a in caption.all("a") if a.attributes["class"] == "source"], caption.text
    assert "PHANTOM" in page.all("header")[0].text
    assert "no medical device" in page.all("header")[0].text


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


def test_a_section_without_files_names_the_command_that_makes_them(page: Element) -> None:
    for key in ("seeds", "ledger", "study", "tune"):
        assert f"mammo {key}" in section(page, key).text
        assert section(page, key).all("table") == []


def measured(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "ci_low": low, "ci_high": high, "method": "BCa", "n": 40}


GRID = {"n_folds": 5, "n_repeats": 1, "n_seeds": 1, "seed": 0}
MATERIAL = {
    "name": "PHANTOM (synthetic) ROIs",
    "n_rois": 40,
    "n_tumor": 20,
    "n_groups": 33,
    "synthetic": True,
}
GAIN = dict.fromkeys(("accuracy", "recall", "specificity", "precision"), measured(-0.02, -0.05, 0.01)) | {
    "auc_score": measured(0.03, 0.01, 0.05)
}

VERDICTS = {"verdict": "AUC higher", "together": {"verdict": "not distinguishable"}}


def test_the_ledger_shows_levels_differences_gaps_and_what_the_sets_kept(
    own: tuple[Workspace, Config],
) -> None:
    space, config = own
    levels = dict.fromkeys(("accuracy", "recall", "precision", "auc_score"), measured(0.75, 0.7, 0.8))
    row = {"protocol": "honest", "name": "<b>vgg16</b>-model1", "kind": "system"}
    fold = {"fold": "repeat 0, fold 3, seed 0", "promise": 0.9, "verdict": "missed within chance"}
    ledger = {
        "data": MATERIAL,
        "settings": GRID,
        "rows": [row | {"n_rois": 40, "n_runs": 7, "cells": levels}],
        "minus_floor": [row | {"cells": GAIN}],
        "between_systems": [row | {"name": "vgg16-model1 minus vgg16-model2", "cells": GAIN}],
        "gaps": [{"name": "gap", "cells": GAIN, "same_rois": GAIN}],
        "referral": [fold | {"coverage": measured(0.85), "referral_rate": measured(0.125)}],
    }
    write_json(space.reports / "ledger" / "ledger.json", ledger)
    shutil.copy(space.reports / "evaluate" / "curves.png", space.reports / "ledger" / "ledger.png")
    found = section(write(space, config), "ledger")
    links = {a.attributes["href"]: a.text for a in found.all("a") if a.attributes["class"] == "num"}

    assert links["ledger/ledger.json#/rows/0/name"] == "<b>vgg16</b>-model1"
    assert links["ledger/ledger.json#/rows/0/cells/auc_score"] == "0.750 (0.700 to 0.800)"
    assert links["ledger/ledger.json#/minus_floor/0/cells/auc_score"] == "+0.030 (+0.010 to +0.050)"
    assert links["ledger/ledger.json#/between_systems/0/name"] == "vgg16-model1 minus vgg16-model2"
    assert links["ledger/ledger.json#/between_systems/0/cells/accuracy"] == "−0.020 (−0.050 to +0.010)"
    assert links["ledger/ledger.json#/gaps/0/same_rois/accuracy"] == "−0.020 (−0.050 to +0.010)"
    assert links["ledger/ledger.json#/referral/0/coverage"] == "0.850"
    assert found.all("b") == []
    assert len(found.all("img")) == 1
    assert all("PHANTOM" in caption.text for caption in found.all("caption"))


def test_the_ablation_shows_each_defects_effect_or_why_there_is_none(own: tuple[Workspace, Config]) -> None:
    space, config = own
    about: dict[str, Any] = {"setting": "patches.last_offset", "in_reference": "no"}
    effect = {"n_rois": 40, "cells": {"auc_score": measured(0.03, 0.01, 0.05)}, **VERDICTS}
    defects = [
        about | {"name": "last offset", "effect": effect, "reason": None},
        about | {"name": "bounding box", "effect": None, "reason": "only films can be cut again"},
    ]
    ablation = {"data": MATERIAL, "settings": GRID, "system": "vgg16-model1", "defects": defects}
    write_json(space.reports / "ablate" / "ablate.json", ablation)
    _, shown, missing = section(write(space, config), "ablate").all("tr")

    assert "+0.030 (+0.010 to +0.050)" in shown.text
    assert "AUC higher" in shown.text
    assert "not distinguishable" in shown.text
    assert "only films can be cut again" in missing.text


def test_every_study_of_settings_is_shown_with_its_reference(own: tuple[Workspace, Config]) -> None:
    space, config = own
    variant: dict[str, Any] = {
        "name": "half",
        "effect": {"n_rois": 40, "cells": GAIN, **VERDICTS},
    }
    for name, overrides in (("first", {"train.epochs": 32}), ("second", {})):
        study: dict[str, Any] = {
            "name": name,
            "question": "Why?",
            "data": MATERIAL,
            "settings": GRID,
            "system": "vgg16-model1",
        }
        study["reference"], study["variants"] = {"overrides": overrides}, [variant]
        write_json(space.reports / "study" / f"{name}.json", study)
    found = section(write(space, config), "study")

    assert [len(table.all("tr")) for table in found.all("table")] == [2, 2]
    first, second = (caption.text for caption in found.all("caption"))
    assert "params.yaml with train.epochs: 32" in first
    assert "params.yaml as it was" in second
    assert "first: Why?" in found.text


def test_the_audit_shows_its_counts_and_tables_with_links_to_each_value(
    own: tuple[Workspace, Config],
) -> None:
    space, config = own
    folder = space.reports / "audit"
    counts = {"n_rois": 326, "pairs_by_kind": {"shifted": 4, "stretched": 1}, "pairs_by_parts": {}}
    write_json(folder / "summary.json", counts | {"shared_patients": None})
    (folder / "pairs.csv").write_text("a,overlap_px\nroi-1,8245\n" + "roi-2,7\n" * 50)
    (folder / "flagged_rois.csv").write_text("roi_id,split\n")
    found = section(write(space, config), "audit")
    links = {a.attributes["href"]: a.text for a in found.all("a") if a.attributes["class"] == "num"}
    assert links["audit/summary.json#/n_rois"] == "326"
    assert links["audit/summary.json#/pairs_by_kind/shifted"] == "4"
    assert links["audit/summary.json#/shared_patients"] == "n/a"
    assert links["audit/pairs.csv#row=2"] == "8245"
    assert "of them shifted" in found.text
    assert "the first 40 of 51" in found.text
    assert "another part knows something: none" in found.text


def test_thresholds_calibration_and_referral_are_shown_once_the_evaluation_knows_them(
    own: tuple[Workspace, Config],
) -> None:
    space, config = own
    path = space.reports / "evaluate" / "results.json"
    results = read_json(path)
    selected = results["selected"]["system"]
    results["systems"] = {selected: results["systems"][selected]}
    estimate = results["systems"][selected]["roi"]["accuracy"]
    judged = {"brier": estimate, "calibration_error": estimate}
    roi = dict.fromkeys(("accuracy", "recall", "specificity", "balanced_accuracy"), estimate)
    rates = dict.fromkeys(("coverage", "coverage_normal", "coverage_tumor", "referral_rate"), estimate)
    results["systems"][selected] |= {
        "thresholds": [{"name": "fixed", "threshold": 0.5, "ships": True, "roi": roi}],
        "operating_points": [
            {
                "fixed": "recall",
                "target": 0.9,
                "threshold": 0.321,
                "recall": estimate,
                "specificity": estimate,
            }
        ],
        "calibration": {"raw": judged, "calibrated": judged},
        "referral": {"promise": 0.9, "verdict": "kept", **rates},
    }
    write_json(path, results)
    found = section(write(space, config), "operation")
    assert [len(table.all("tr")) for table in found.all("table")] == [2, 2, 2, 2]
    assert "fixed: 0.500 (ships)" in found.text
    assert "0.321" in found.text


def test_the_same_files_give_the_same_bytes(own: tuple[Workspace, Config]) -> None:
    space, config = own
    names = ("index.html", "model_card.md", "slices.json", "provenance.json")
    before = {name: (space.reports / name).read_bytes() for name in names}
    write(space, config)
    assert {name: (space.reports / name).read_bytes() for name in names} == before


def test_without_an_evaluation_the_stage_says_what_to_run(own: tuple[Workspace, Config]) -> None:
    space, config = own
    (space.reports / "evaluate" / "results.json").unlink()
    with pytest.raises(DataError, match=r"results\.json: does not exist; run `dvc repro`"):
        gather(space, config)


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
    space, config = own
    inputs = gather(space, config)
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


SPACE = {
    "size_px": {"type": "int", "low": 64, "high": 104, "step": 8, "log": False},
    "fusion": {"type": "categorical", "choices": ["baseline", "model1"]},
}
CHOICE = {"size_px": 88, "fusion": "model1"}


def tuning_record(own: dict[str, Any] | str) -> dict[str, Any]:
    return {
        "study": {"n_rois": 32, "n_tumor": 16, "synthetic": True},
        "budget": {"n_folds": 5},
        "trials": {"ended": 12, "complete": 5, "pruned": 7},
        "pruning": {"saved_share": 0.25},
        "best": {
            "trial": 3,
            "metric": "auc",
            "evidence": "mean score",
            "value": 0.875,
            "fold_standard_error": 0.03125,
            "params": CHOICE,
        },
        "settings_of_params": own,
        "importance": {"size_px": measured(0.75, 0.25, 0.875), "fusion": measured(0.25)},
        "space": SPACE,
    }


def test_tuning_shows_the_choice_beside_the_settings_that_it_was_compared_with(
    own: tuple[Workspace, Config],
) -> None:
    space, config = own
    settings = {"evidence": "vote share", "value": 0.8125, "params": {"size_px": 72, "fusion": "baseline"}}
    write_json(space.reports / "tune" / "study.json", {"record": tuning_record(settings)})
    found = section(write(space, config), "tune")
    assert "PHANTOM" in found.text
    links = {a.attributes["href"]: a.text for a in found.all("a") if a.attributes["class"] == "num"}
    assert links["tune/study.json#/record/best/value"] == "0.875"
    assert links["tune/study.json#/record/settings_of_params/value"] == "0.812"
    assert links["tune/study.json#/record/best/params/size_px"] == "88"
    assert links["tune/study.json#/record/settings_of_params/params/size_px"] == "72"
    assert links["tune/study.json#/record/importance/size_px"] == "0.750 (0.250 to 0.875)"
    assert links["tune/study.json#/record/importance/fusion"] == "0.250"
    assert "64 to 104 by 8" in found.text
    assert "auc of the mean score 0.875" in found.text
    assert "as one of its trials: auc of the vote share 0.812" in found.text
    write_json(space.reports / "tune" / "study.json", {"record": tuning_record("not in the space")})
    assert "settings of params.yaml as one of its trials" not in section(write(space, config), "tune").text


def test_nested_folds_show_what_was_promised_and_what_was_kept(own: tuple[Workspace, Config]) -> None:
    space, config = own
    cells = dict.fromkeys((*GAIN, "auc_vote_share"), measured(0.75, 0.7, 0.8))
    fold = {"fold": 0, "n_rois": 8, "promised": 0.9, "kept_by_tuned": 0.7, "kept_by_settings": 0.725}
    nested = {
        "data": MATERIAL,
        "settings": GRID,
        "trials_of_each_study": 12,
        "metric": "auc",
        "tuned": {"cells": cells},
        "reference": {"cells": cells},
        "effect": {"cells": GAIN, "n_rois": 40, "verdict": "not distinguishable"},
        "promise": {"promised": 0.9, "kept_by_tuned": 0.7, "kept_by_settings": 0.725},
        "folds": [fold | {"system": "vgg16-model1", "params": CHOICE}],
    }
    write_json(space.reports / "tune" / "nested.json", nested)
    found = section(write(space, config), "tune")
    links = {a.attributes["href"]: a.text for a in found.all("a") if a.attributes["class"] == "num"}
    assert links["tune/nested.json#/effect/cells/auc_score"] == "+0.030 (+0.010 to +0.050)"
    assert links["tune/nested.json#/tuned/cells/accuracy"] == "0.750 (0.700 to 0.800)"
    assert links["tune/nested.json#/folds/0/kept_by_settings"] == "0.725"
    assert links["tune/nested.json#/effect/verdict"] == "not distinguishable"
