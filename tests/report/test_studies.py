"""The studies' tables: what each number rests on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammo.core.files import Workspace, read_json
from mammo.evaluation.conformal import RATES, judge_fold
from mammo.evaluation.intervals import over_seeds, wilson
from mammo.evaluation.metrics import TITLES
from mammo.report.blocks import SourceFile, Table, plain
from mammo.report.studies import ledger_blocks, variants_blocks, write_ledger, write_study

REPORTS = Path(__file__).parents[2] / "reports"


def seeds_summary() -> dict[str, Any]:
    spread = over_seeds([0.7, 0.8, 0.9], 0.9)
    cells = {name: wilson(7, 10, 0.9).to_dict() for name in TITLES}
    system = {
        "validation": {"val_loss": 0.5},
        "test": dict.fromkeys(TITLES, spread) | {"precision": over_seeds([0.6, None, 0.8], 0.9)},
        "minus_floor_auc": spread,
        "ensemble": {"roi": cells, "minus_floor_auc": wilson(7, 10, 0.9).to_dict()},
    }
    return {
        "data": {"note": "PHANTOM", "n_tumor": 5, "n_normal": 5, "synthetic": True},
        "n_seeds": 3,
        "confidence": 0.9,
        "selected": "compact-baseline",
        "selected_by": "mean val_loss over the seeds",
        "systems": {"compact-baseline": system},
        "floor": {"roi": cells},
    }


def test_seeds_are_written_as_json_and_as_the_markdown_that_is_shown(tmp_path: Path) -> None:
    workspace, summary = Workspace(tmp_path), seeds_summary()
    text = write_study(workspace, "seeds", summary)
    assert read_json(workspace.reports / "seeds" / "seeds.json") == summary
    assert (workspace.reports / "seeds" / "seeds.md").read_text() == text
    assert text.startswith("# Test results over 3 training seeds\n\n**PHANTOM (synthetic).** Research software, no")
    # A metric that some seeds leave undefined says how many it rests on.
    (row,) = [line for line in text.splitlines() if line.startswith("| **compact-baseline**")]
    assert row.count("0.800 ± 0.100 (3 seeds) |") == len(row.split("|")) - 5  # edges, name, loss, precision
    assert "| 0.700 ± 0.141 (2 seeds) |" in row
    assert "Ensembles and floor: 90% intervals." in text
    # Student's t of two degrees of freedom at 90% is 2.920, the standard error 0.1 / √3.
    assert "(90% t interval over 3 seeds +0.631 to +0.969, these test ROIs held fixed)" in text


def referral_rows(**ledger: Any) -> list[tuple[str, ...]]:
    grid = {"n_folds": 3, "n_repeats": 1, "n_seeds": 1}
    table = ledger_blocks(SourceFile("", {"settings": grid, "confidence": 0.95, **ledger}))[-1]
    assert isinstance(table, Table)
    return [tuple(plain(part) for part in row) for row in table.rows]


def test_the_ledger_sets_hand_counted_rates_beside_the_promise_and_gives_mean_and_spread() -> None:
    def fold(name: str, labels: list[int], sets: list[list[int]]) -> dict[str, Any]:
        return judge_fold(name, 0.9, 65, np.array(labels), np.array(sets, dtype=bool), confidence=0.95)

    row, *_, spread = referral_rows(referral=[fold("fold 0", [0, 0, 0, 1], [[1, 0], [1, 1], [0, 1], [1, 1]])])
    assert row[:4] == ("fold 0", "65", "0.90", "0.750 (0.301 to 0.954), n 4")
    assert row[4].startswith("0.667 (")
    assert row[-1] == "missed within chance"
    assert spread[3:7] == ("n/a",) * 4

    folds = [fold("a", [0, 1], [[1, 0], [0, 1]]), fold("b", [0, 1], [[1, 1], [1, 0]])]
    over_runs = {name: wilson(3, 4, 0.95).to_dict() for name in RATES}
    *_, means, spread = referral_rows(referral=folds, referral_over_runs=over_runs)
    assert means[3:7] == ("0.750 (0.301 to 0.954), n 4",) * 4
    assert spread[0] == "standard deviation over 2 folds"
    assert spread[3:7] == ("0.354", "0.000", "0.707", "0.354")


def test_a_study_says_in_words_what_helped() -> None:
    verdicts = (
        "AUC higher",
        "accuracy lower",
        "AUC higher, accuracy lower",
        "not distinguishable",
        "AUC higher",
    )
    variants = [
        {"name": f"v{index}", "overrides": {}, "effect": {"together": {"verdict": verdict}}}
        for index, verdict in enumerate(verdicts)
    ]
    grid = {"n_folds": 3, "n_repeats": 1, "n_seeds": 1}
    study = {"settings": grid, "confidence": 0.95, "reference": {"overrides": {}}, "variants": variants}
    words = "All rows together. Helped: v0, v4. Hurt: v1. Mixed: v2. Not distinguishable: v3."
    assert [plain(part) for part in variants_blocks(SourceFile("", study))[-1].parts] == [words]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("ablate", "ablate/ablate.json"),
        ("study", "study/choices.json"),
        ("nested", "tune/nested.json"),
        ("films", "films/extra_rois.json"),
        ("seeds", "from_scratch/seeds.json"),
    ],
)
def test_the_tables_in_the_repository_are_those_of_the_numbers_beside_them(
    tmp_path: Path, kind: str, file: str
) -> None:
    numbers = REPORTS / file
    written = write_study(Workspace(tmp_path), kind, read_json(numbers))
    assert written == numbers.with_suffix(".md").read_text()


@pytest.mark.parametrize("numbers", sorted(REPORTS.glob("*/ledger.json")), ids=lambda path: path.parent.name)
def test_so_are_those_of_the_ledgers(tmp_path: Path, numbers: Path) -> None:
    written = write_ledger(Workspace(tmp_path), read_json(numbers))
    assert written == numbers.with_suffix(".md").read_text()
