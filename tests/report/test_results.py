"""The evaluation in a sentence, and its slices: predictions joined with what the ROI table knows."""

import pandas as pd
import pytest

from mammo.core.config import EvaluateConfig
from mammo.core.records import ROI_SCHEMA, conform
from mammo.evaluation.slices import AXES
from mammo.report.blocks import SourceFile, inline_markdown
from mammo.report.results import slice_report, verdict
from tests.settings import section

CONFIG = section(EvaluateConfig, n_bootstrap=100)
DATA = {"synthetic": True}


def tables(**known: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four ROIs, two of them Tumor, judged by two systems in another order than the table's."""
    ids = ["n1", "t1", "n2", "t2"]
    rows: dict[str, object] = {column: [None] * 4 for column in ROI_SCHEMA}
    rows |= {"roi_id": ids, "source": "x", "label": [0, 1, 0, 1], "sha256": "0", "synthetic": True}
    judged = {
        "roi_id": ids[::-1],
        "group_id": ids[::-1],
        "label": ["Tumor", "Normal", "Tumor", "Normal"],
        "decision": ["Normal", "Normal", "Tumor", "Tumor"],
        "vote_share": [0.0, 0.0, 1.0, 1.0],
        "score": [0.2, 0.1, 0.9, 0.6],
        "probability": [0.1, 0.1, 0.8, 0.7],
    }
    systems = [pd.DataFrame(judged).assign(system=system) for system in ("mine", "floor")]
    return pd.concat(systems, ignore_index=True), conform(pd.DataFrame(rows | known), ROI_SCHEMA, "rois")


def test_what_the_source_does_not_know_gives_no_slice() -> None:
    report = slice_report(*tables(), CONFIG, DATA)
    assert list(report["axes"]) == list(AXES)
    assert all(axis["systems"] == {} and axis["n_known"] == 0 for axis in report["axes"].values())
    assert report["axes"]["tissue"]["n_rois"] == 4
    assert report["axes"]["severity"]["n_rois"] == 2


def test_each_roi_falls_into_the_slice_of_its_own_row() -> None:
    known = {"tissue": ["F", "F", "G", "G"], "abnormality": ["NORM", "CIRC", "NORM", "SPIC"]}
    axes = slice_report(*tables(**known), CONFIG, DATA)["axes"]
    tissue = {one["value"]: one for one in axes["tissue"]["systems"]["mine"]}
    assert tissue["F"]["metrics"]["recall"]["value"] == 1.0
    assert tissue["F"]["metrics"]["specificity"]["value"] == 0.0
    assert tissue["G"]["metrics"]["recall"]["value"] == 0.0
    assert tissue["D"]["n_rois"] == 0
    kinds = {one["value"]: one for one in axes["abnormality"]["systems"]["floor"]}
    assert "NORM" not in kinds
    assert kinds["CIRC"]["metrics"]["auc_score"]["value"] == 1.0
    assert kinds["SPIC"]["metrics"]["auc_score"]["value"] == 0.5


def test_partly_known_axes_say_how_much_is_known() -> None:
    axes = slice_report(*tables(severity=[None, "B", None, None]), CONFIG, DATA)["axes"]
    assert (axes["severity"]["n_known"], axes["severity"]["n_rois"]) == (1, 2)


@pytest.mark.parametrize(
    ("radii", "counts"),
    [((3, 19), [2, 0, 0, 0]), ((20, 39), [0, 2, 0, 0]), ((40, 59), [0, 0, 2, 0]), ((60, 197), [0, 0, 0, 2])],
)
def test_sizes_are_binned_at_20_40_and_60_pixels(radii: tuple[int, int], counts: list[int]) -> None:
    radius_px = [None, radii[0], None, radii[1]]
    axes = slice_report(*tables(radius_px=radius_px), CONFIG, DATA)["axes"]
    assert [one["n_tumor"] for one in axes["size"]["systems"]["mine"]] == counts


def comparison(other: str, accuracy: float, auc: float, told: tuple[bool, bool]) -> dict[str, object]:
    return {
        "name_b": other,
        "accuracy_difference": accuracy,
        "auc_difference": {"value": auc},
        "decisions_differ": told[0],
        "scores_differ": told[1],
    }


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.09, "ranks ROIs better than the floor"),
        (-0.02, 0.12, "is not shown to rank ROIs better than the floor"),
        (-0.2, -0.01, "ranks ROIs worse than the floor"),
    ],
)
def test_the_floor_is_beaten_only_where_the_whole_interval_says_so(low: float, high: float, words: str) -> None:
    margin = {"value": (low + high) / 2, "ci_low": low, "ci_high": high, "n": 64}
    compared = [
        comparison("a", 0.1, -0.1, (True, False)),
        comparison("b", 0.1, -0.1, (False, True)),
        comparison("c", 0.3, 0.3, (False, False)),
        comparison("d", -0.1, 0.0, (True, False)),
        comparison("floor", 0.1, 0.1, (True, True)),
    ]
    results = SourceFile("r.json", {"selected_minus_floor_auc": margin, "comparisons": compared})
    said = "".join(inline_markdown(part, linked=False) for part in verdict(results, "mine"))
    assert said.startswith(f"mine {words}, eight intensity statistics without texture: AUC ")
    assert said.endswith(
        "On these ROIs it decides more of them rightly than a; it ranks them worse than b; it is not distinguishable "
        "from c; it decides fewer of them rightly than d."
    )
