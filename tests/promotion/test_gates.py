"""Each gate holds on good evidence, and fails alone on evidence made to fail it, with value and bound."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.serve_config import PromoteConfig
from mammo.evaluation.intervals import wilson
from mammo.promotion.gates import Evidence, Gate, judged
from mammo.track.registry import Version
from tests.promotion.evidence import LEAKED, predictions, write_beside_results
from tests.settings import settings

Change = Callable[[Path], object]
CANDIDATE, CHAMPION = "compact-model1", "compact-baseline"


def version(number: str, system: str, synthetic: bool | None = False) -> Version:
    return Version(number, (), system, f"run-of-{number}", "w", "b", synthetic)


@pytest.fixture
def candidate(tmp_path: Path) -> Evidence:
    return evidence(tmp_path / "2", version("2", CANDIDATE))


@pytest.fixture
def champion(tmp_path: Path) -> Evidence:
    return evidence(tmp_path / "1", version("1", CHAMPION))


def evidence(folder: Path, of: Version) -> Evidence:
    write_beside_results(folder, of.system)
    (folder / "evaluate" / "results.json").write_text(json.dumps({"data": {"source": "mias_rois"}}))
    return Evidence(of, folder)


def asked(**changes: Any) -> Config:
    config = settings(evaluate={"n_bootstrap": 200})
    bounds = {"margin_auc": 0.1, "calibration_error": 0.2, "recall": 0.6, "latency_s": 1.0, "over_floor": 0.0}
    fixed = PromoteConfig.model_validate(config.promote.model_dump() | bounds | changes)
    return config.model_copy(update={"promote": fixed})


def failed(candidate: Evidence, champion: Evidence | None, config: Config | None = None) -> list[Gate]:
    return [one for one in judged(config or asked(), candidate, champion, lambda: 0.01) if not one.passed]


def rewritten(change: Callable[[pd.DataFrame], object]) -> Change:
    def rewrite(folder: Path) -> None:
        table = predictions(CANDIDATE)
        change(table)
        table.to_csv(folder / "evaluate" / "predictions.csv", index=False)

    return rewrite


def with_scores(table: pd.DataFrame, n_swapped: int) -> None:
    """The candidate ranks some Tumor ROIs below every Normal one, and still finds them at its threshold."""
    own = table[(table["system"] == CANDIDATE) & (table["label"] == "Tumor") & (table["roi_id"] != LEAKED)]
    table.loc[own.index[:n_swapped], "score"] = 0.0


def half_sure(table: pd.DataFrame) -> None:
    own = table["system"] == CANDIDATE
    table.loc[own, "probability"] = table.loc[own, "label"].map({"Normal": 0.6, "Tumor": 0.4})


def misses(table: pd.DataFrame) -> None:
    own = table[(table["system"] == CANDIDATE) & (table["label"] == "Tumor") & (table["roi_id"] != LEAKED)]
    table.loc[own.index[:10], "decision"] = "Normal"


def floor_is_perfect(table: pd.DataFrame) -> None:
    own = table[table["system"] == CANDIDATE].set_index("roi_id")["score"]
    floor = table["system"] == "floor"
    table.loc[floor, "score"] = table.loc[floor, "roi_id"].map(own)


def broken_rule(folder: Path) -> None:
    rules = {"roi_id_unique": {"severity": "critical", "kept": False}}
    (folder / "expectations" / "patches.json").write_text(json.dumps({"expectations": rules}))


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def list_of_another_split(folder: Path) -> None:
    (folder / "audit" / "flagged_rois.csv").write_text("roi_id,split,tissue_in,patient_in\n")


def test_good_evidence_passes_every_gate(candidate: Evidence, champion: Evidence) -> None:
    gates = judged(asked(), candidate, champion, lambda: 0.01)
    assert [gate for gate in gates if not gate.passed] == []
    found = {gate.name: gate.value for gate in gates}
    assert found["recall"] == "19 of 19"  # the leaked ROI, which it misses, does not count
    assert found["calibration error"] == "0.100"  # every probability is 0.1 away from the truth
    assert found["no leaked ROI"] == "39 of 40 counted, 1 left out"
    assert found["not worse than the champion"].startswith("+0.000 (no interval; 39 ROIs, 10 groups)")
    assert found["expectations"] == "6 judged, no critical one broken"


@pytest.mark.parametrize(
    ("change", "name", "value", "bound"),
    [
        (rewritten(floor_is_perfect), "beats the floor", "+0.000 (", "more than 0.000"),
        (
            rewritten(lambda t: with_scores(t, 2)),
            "not worse than the champion",
            "-0.105 (",
            "not below -0.100",
        ),
        (rewritten(half_sure), "calibration error", "0.600", "at most 0.200"),
        (rewritten(misses), "recall", "9 of 19", "at least 0.600"),
        (broken_rule, "expectations", "roi_id_unique", "all critical ones"),
        (
            without("expectations/leakage.json"),
            "expectations",
            "leakage.json is not with its run",
            "critical",
        ),
        (list_of_another_split, "no leaked ROI", "40 of 40 counted, 1 left out", "no other part shows"),
    ],
    ids=["floor", "champion", "calibration", "recall", "expectations", "no expectations", "leak list"],
)
def test_a_gate_fails_alone_and_says_value_and_bound(
    candidate: Evidence, champion: Evidence, change: Change, name: str, value: str, bound: str
) -> None:
    change(candidate.folder)
    config = asked(over_floor=None) if name == "not worse than the champion" else asked()
    (gate,) = failed(candidate, champion, config)
    assert gate.name == name
    assert value in gate.value
    assert bound in gate.bound
    assert value in str(gate)
    assert bound in str(gate)


def test_a_margin_that_the_interval_keeps_lets_a_slightly_worse_one_pass(
    candidate: Evidence, champion: Evidence
) -> None:
    """One of 19 Tumor ROIs below all Normal ones costs 1/19 of AUC; the interval reaches further."""
    rewritten(lambda table: with_scores(table, 1))(candidate.folder)
    assert failed(candidate, champion, asked(over_floor=None, margin_auc=0.4)) == []
    (gate,) = failed(candidate, champion, asked(over_floor=None, margin_auc=0.05))
    assert gate.value.startswith("-0.053 (")


def test_a_loss_without_an_interval_does_not_pass(candidate: Evidence, champion: Evidence) -> None:
    """Of two groups one holds Normal ROIs alone: without the other there is no AUC, hence no jackknife."""

    def in_two_groups(table: pd.DataFrame) -> None:
        with_scores(table, 1)
        table["group_id"] = table["roi_id"].str.startswith("test/Normal (1").map({True: "p", False: "q"})

    rewritten(in_two_groups)(candidate.folder)
    (gate,) = failed(candidate, champion, asked(over_floor=None, margin_auc=0.4))
    assert gate.value == "-0.053 (no interval; 39 ROIs, 2 groups)"


def test_a_missing_list_of_leaks_fails_its_gate(candidate: Evidence, champion: Evidence) -> None:
    without("audit/flagged_rois.csv")(candidate.folder)
    (gate,) = failed(candidate, champion)
    assert gate.name == "no leaked ROI"
    assert "audit/flagged_rois.csv is not with its run run-of-2" in gate.value


def test_a_version_without_evidence_fails_every_gate_that_needs_it(tmp_path: Path, champion: Evidence) -> None:
    bare = Evidence(replace(version("7", "", None), run_id=""), tmp_path / "none")
    names = [gate.name for gate in failed(bare, champion)]
    assert names == [
        "beats the floor",
        "not worse than the champion",
        "calibration error",
        "recall",
        "expectations",
        "no leaked ROI",
        "no phantom over real",
    ]


def test_slow_and_damaged_versions_fail_their_gates(candidate: Evidence, champion: Evidence) -> None:
    def damaged() -> float:
        raise TrackingError("version 2: cannot be loaded")

    slow = {gate.name: gate for gate in judged(asked(), candidate, champion, lambda: 2.5)}
    assert [name for name, gate in slow.items() if not gate.passed] == ["latency"]
    assert str(slow["latency"]) == "latency: must be at most 1 s for a vote, got 2.500 s"
    lame = [gate for gate in judged(asked(), candidate, champion, damaged) if not gate.passed]
    assert [gate.name for gate in lame] == ["loads and votes", "latency"]
    assert "version 2: cannot be loaded" in lame[0].value


@pytest.mark.parametrize("real", [False, None], ids=["real", "unknown"])
def test_a_phantom_takes_no_real_one_s_place(candidate: Evidence, champion: Evidence, real: bool | None) -> None:
    phantom = replace(candidate, version=replace(candidate.version, synthetic=True))
    other = replace(champion, version=replace(champion.version, synthetic=real))
    (gate,) = failed(phantom, other)
    assert (gate.name, gate.value) == ("no phantom over real", "of phantoms")
    assert failed(phantom, replace(champion, version=replace(champion.version, synthetic=True))) == []
    assert failed(phantom, None) == []


def test_a_real_one_takes_a_phantom_s_place_though_they_were_judged_on_other_rois(
    candidate: Evidence, champion: Evidence
) -> None:
    (champion.folder / "evaluate" / "results.json").write_text(json.dumps({"data": {"source": "phantom"}}))
    assert failed(candidate, replace(champion, version=replace(champion.version, synthetic=True))) == []
    (gate,) = failed(candidate, champion)
    assert (gate.name, gate.value) == (
        "not worse than the champion",
        "judged on ROIs of mias_rois, the champion on those of phantom",
    )


def test_a_champion_that_judged_no_roi_in_common_cannot_be_compared_with(
    candidate: Evidence, champion: Evidence
) -> None:
    path = champion.folder / "evaluate" / "predictions.csv"
    path.write_text(path.read_text().replace("test/", "another test/"))
    (gate,) = failed(candidate, champion)
    assert gate.name == "not worse than the champion"


def test_a_gate_that_is_null_is_not_asked(tmp_path: Path, champion: Evidence) -> None:
    bare = Evidence(version("7", "", None), tmp_path / "none")
    nothing = dict.fromkeys(("over_floor", "margin_auc", "calibration_error", "recall", "latency_s"))
    off = dict.fromkeys(("expectations", "leak_free", "never_phantom_over_real"), False)
    assert failed(bare, champion, asked(**nothing, **off)) == []


def in_shadow(candidate: Evidence, champion: Evidence | None, agreed: int, n: int) -> Gate:
    """The gate of a version that agrees on so many of n ROIs."""
    agreement = wilson(agreed, n, 0.95) if n else None
    return judged(asked(shadow_agreement=0.7), candidate, champion, lambda: 0.01, lambda: agreement)[-1]


@pytest.mark.parametrize(
    ("agreed", "n", "found", "passes"),
    [
        # Wilson's interval of n of n begins at n / (n + 1.96²).
        (10, 10, "1.000 (95% interval 0.722 to 1.000; 10 ROIs)", True),
        (8, 8, "1.000 (95% interval 0.676 to 1.000; 8 ROIs)", False),
        (0, 0, "no answer of both in predictions/ here: see serve.shadow_share", False),
    ],
)
def test_agreement_in_shadow_can_be_asked_for(
    candidate: Evidence, champion: Evidence, agreed: int, n: int, found: str, passes: bool
) -> None:
    gate = in_shadow(candidate, champion, agreed, n)
    assert (gate.value, gate.passed) == (found, passes)
    assert gate.bound == "surely at least 0.700 of the answers: lower end of the interval"


def test_no_agreement_is_asked_where_there_is_nothing_to_agree_with(candidate: Evidence, champion: Evidence) -> None:
    gate = in_shadow(candidate, None, 0, 10)
    assert (gate.value, gate.passed) == ("there is no champion", True)
    phantom = replace(champion, version=replace(champion.version, synthetic=True))
    gate = in_shadow(candidate, phantom, 0, 10)
    assert (gate.value, gate.passed) == ("the champion knows phantoms alone: not compared", True)
