"""The report page and the model card of a phantom workspace, read as a doubting reader would."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, write_json
from mammo.evaluation.conformal import judge_fold
from mammo.report.page import gather, model_card, write_model_card, write_page
from tests.report.parsed_page import Element, parse

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def reported(
    finished: tuple[Workspace, Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Config]:
    """A copy of the finished workspace after the stage `report`."""
    root = tmp_path_factory.mktemp("reported") / "workspace"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("mlruns"))
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


def links(found: Element, path: str) -> dict[str, str]:
    """Place in a file of `reports/` → what is shown of it."""
    numbers = (a for a in found.all("a") if a.attributes["class"] == "num")
    split = ((a.attributes["href"].partition("#"), a.text) for a in numbers)
    return {place: text for (file, _, place), text in split if file == path}


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
            shown = [float(link.text[:-1]) / 100] if link.text.endswith("%") else numbers
            assert shown == [pytest.approx(value, abs=5.1e-4)], href
            checked += 1
        elif isinstance(value, dict) and "ci_low" in value and numbers:
            keys = ("value", "sd_runs", "ci_low", "ci_high")
            expected = [value[key] for key in keys if value.get(key) is not None]
            assert numbers == [pytest.approx(one, abs=5.1e-4) for one in expected], href
            assert f"n {value['n']}" in link.text, href
            checked += 1
        elif isinstance(value, int):
            assert link.text == str(value), href
            checked += 1
    assert checked > 120


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
    for key in ("seeds", "ledger", "ablate", "study", "tune"):
        assert f"mammo {key}" in section(page, key).text
        assert section(page, key).all("table") == []


def measured(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "ci_low": low, "ci_high": high, "method": "BCa", "n": 40}


LOSS, GAIN = measured(-0.02, -0.05, 0.01), measured(0.03, 0.01, 0.05)
METRICS = ("accuracy", "recall", "specificity", "precision", "auc_vote_share")
EFFECTS = dict.fromkeys(METRICS, LOSS) | {"auc_score": GAIN}
LEVELS = dict.fromkeys((*METRICS, "auc_score"), measured(0.75, 0.7, 0.8))
EFFECT = {
    "n_rois": 40,
    "cells": EFFECTS,
    "verdict": "AUC higher",
    "together": {"verdict": "not distinguishable"},
}
STUDY: dict[str, Any] = {
    "data": {
        "name": "PHANTOM (synthetic) ROIs",
        "n_rois": 40,
        "n_tumor": 20,
        "n_normal": 20,
        "n_groups": 33,
        "synthetic": True,
    },
    "settings": {"n_folds": 5, "n_repeats": 1, "n_seeds": 1, "protocol": "honest"},
    "confidence": 0.95,
    "system": "vgg16-model1",
    "reference": {"n_runs": 1, "cells": LEVELS, "overrides": {}},
}


def test_the_ledger_shows_levels_differences_gaps_and_what_the_sets_kept(
    undrawn: tuple[Workspace, Config],
) -> None:
    workspace, config = undrawn
    row = {"protocol": "honest", "name": "<b>vgg16</b>-model1", "kind": "system"}
    level = row | {"n_rois": 40, "n_tumor": 20, "n_groups": 33, "n_runs": 7, "cells": LEVELS}
    fold = judge_fold(
        "fold 3", 0.9, 9, np.array([0, 1]), np.array([[True, False], [True, False]]), confidence=0.95
    )
    ledger = STUDY | {
        "rows": [level],
        "flagged_rois": ["roi-1"],
        "minus_floor": [row | {"cells": EFFECTS}],
        "between_systems": [row | {"name": "vgg16-model1 minus vgg16-model2", "cells": EFFECTS}],
        "gaps": [{"name": "gap", "cells": EFFECTS, "same_rois": EFFECTS}],
        "referral": [fold.to_dict()],
    }
    write_json(workspace.reports / "ledger" / "ledger.json", ledger)
    shutil.copy(workspace.reports / "evaluate" / "curves.png", workspace.reports / "ledger" / "ledger.png")
    found = section(write(workspace, config), "ledger")
    shown = links(found, "ledger/ledger.json")

    assert shown["/rows/0/name"] == "<b>vgg16</b>-model1"
    assert shown["/rows/0/cells/auc_score"] == "0.750 (0.700 to 0.800), n 40"
    assert shown["/minus_floor/0/cells/auc_score"] == "+0.030 (+0.010 to +0.050), n 40"
    assert shown["/between_systems/0/name"] == "vgg16-model1 minus vgg16-model2"
    assert shown["/between_systems/0/cells/accuracy"] == "−0.020 (−0.050 to +0.010), n 40"
    assert shown["/gaps/0/same_rois/accuracy"] == "−0.020 (−0.050 to +0.010), n 40"
    assert shown["/referral/0/coverage"].startswith("0.500 (")
    assert shown["/flagged_rois"] == "1"
    assert found.all("b") == []
    assert len(found.all("img")) == 1
    assert all("PHANTOM" in caption.text for caption in found.all("caption"))


def test_the_ablation_shows_each_defects_effect_or_why_there_is_none(
    undrawn: tuple[Workspace, Config],
) -> None:
    workspace, config = undrawn
    about: dict[str, Any] = {"setting": "patches.last_offset", "in_reference": "no", "about": "it is so"}
    defects = [
        about | {"name": "last offset", "effect": EFFECT, "reason": None},
        about | {"name": "bounding box", "effect": None, "reason": "only films can be cut again"},
    ]
    write_json(workspace.reports / "ablate" / "ablate.json", STUDY | {"defects": defects})
    found = section(write(workspace, config), "ablate")
    _, shown, missing = found.all("tr")

    for words in (
        "+0.030 (+0.010 to +0.050), n 40",
        "AUC higher",
        "not distinguishable",
        "patches.last_offset",
    ):
        assert words in shown.text
    assert "only films can be cut again" in missing.text
    assert "last offset: it is so." in found.text


def test_every_study_of_settings_is_shown_with_its_reference(undrawn: tuple[Workspace, Config]) -> None:
    workspace, config = undrawn
    variant = {"name": "half", "overrides": {"train.epochs": 16}, "cells": LEVELS, "effect": EFFECT}
    for name, overrides in (("first", {"train.epochs": 32}), ("second", {})):
        reference = STUDY["reference"] | {"overrides": overrides}
        study = STUDY | {"name": name, "question": "Why?", "variants": [variant], "reference": reference}
        write_json(workspace.reports / "study" / f"{name}.json", study)
    found = section(write(workspace, config), "study")

    assert [len(table.all("tr")) for table in found.all("table")] == [2, 2]
    first, second = (caption.text for caption in found.all("caption"))
    assert "params.yaml with train.epochs: 32" in first
    assert "params.yaml as it was" in second
    assert "first: Why?" in found.text


def test_the_audit_shows_its_counts_and_tables_with_links_to_each_value(
    undrawn: tuple[Workspace, Config],
) -> None:
    workspace, config = undrawn
    folder = workspace.reports / "audit"
    counts = {"n_rois": 326, "pairs_by_kind": {"shifted": 4, "stretched": 1}, "pairs_by_parts": {}}
    write_json(folder / "summary.json", counts | {"shared_patients": None})
    (folder / "pairs.csv").write_text("a,overlap_px\nroi-1,8245\n" + "roi-2,7\n" * 50)
    (folder / "flagged_rois.csv").write_text("roi_id,split\n")
    found = section(write(workspace, config), "audit")
    shown = links(found, "audit/summary.json")
    assert (shown["/n_rois"], shown["/pairs_by_kind/shifted"], shown["/shared_patients"]) == (
        "326",
        "4",
        "n/a",
    )
    assert links(found, "audit/pairs.csv")["row=2"] == "8245"
    assert "of them shifted" in found.text
    assert "the first 40 of 51" in found.text
    assert "another part knows something: none" in found.text


def test_thresholds_calibration_and_referral_are_those_of_every_system(
    page: Element, reported: tuple[Workspace, Config]
) -> None:
    found, n_systems = section(page, "operation"), len(reported[1].systems)
    thresholds, points, calibration, referral = found.all("table")
    shown = links(found, "evaluate/results.json")

    assert len(thresholds.all("tr")) >= 1 + 2 * n_systems
    assert [len(table.all("tr")) for table in (points, calibration, referral)] == [
        1 + 6 * n_systems,
        1 + 2 * n_systems,
        1 + n_systems,
    ]
    system = f"/systems/{reported[1].systems[0]}"
    assert shown[f"{system}/thresholds/0/threshold"].startswith("fixed: 0.500")
    assert "(ships)" in thresholds.text
    assert shown[f"{system}/referral/promise"] == "0.90"


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
        "space": {
            "size_px": {"type": "int", "low": 64, "high": 104, "step": 8, "log": False},
            "fusion": {"type": "categorical", "choices": ["baseline", "model1"]},
        },
    }


def test_tuning_shows_the_choice_beside_the_settings_that_it_was_compared_with(
    undrawn: tuple[Workspace, Config],
) -> None:
    workspace, config = undrawn
    file = workspace.reports / "tune" / "study.json"
    settings = {"evidence": "vote share", "value": 0.8125, "params": {"size_px": 72, "fusion": "baseline"}}
    write_json(file, {"record": tuning_record(settings)})
    found = section(write(workspace, config), "tune")
    shown = links(found, "tune/study.json")
    assert "PHANTOM" in found.text
    assert shown["/record/best/value"] == "0.875"
    assert shown["/record/settings_of_params/value"] == "0.812"
    assert shown["/record/best/params/size_px"] == "88"
    assert shown["/record/settings_of_params/params/size_px"] == "72"
    assert shown["/record/importance/size_px"] == "0.750 (0.250 to 0.875), n 40"
    assert shown["/record/importance/fusion"] == "0.250, n 40"
    assert "64 to 104 by 8" in found.text
    assert "auc of the mean score 0.875" in found.text
    assert "as one of its trials: auc of the vote share 0.812" in found.text
    write_json(file, {"record": tuning_record("not in the workspace")})
    assert "as one of its trials" not in section(write(workspace, config), "tune").text


def test_nested_folds_show_what_was_promised_and_what_was_kept(undrawn: tuple[Workspace, Config]) -> None:
    workspace, config = undrawn
    promise = {"promised": 0.9, "kept_by_tuned": 0.7, "kept_by_settings": 0.725}
    fold = {"fold": 0, "n_rois": 8, "system": "vgg16-model1", "params": CHOICE | {"head_lr": 0.00202637}}
    nested = STUDY | {
        "question": "Is it?",
        "trials_of_each_study": 12,
        "metric": "auc",
        "tuned": {"cells": LEVELS},
        "effect": EFFECT,
        "promise": promise,
        "folds": [fold | promise],
    }
    write_json(workspace.reports / "tune" / "nested.json", nested)
    found = section(write(workspace, config), "tune")
    shown = links(found, "tune/nested.json")
    assert shown["/effect/cells/auc_score"] == "+0.030 (+0.010 to +0.050), n 40"
    assert shown["/tuned/cells/accuracy"] == "0.750 (0.700 to 0.800), n 40"
    assert shown["/folds/0/kept_by_settings"] == "0.725"
    assert shown["/folds/0/params/head_lr"] == "0.002026"
    assert shown["/effect/verdict"] == "AUC higher"
    assert "0.200 too high" in found.text


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
