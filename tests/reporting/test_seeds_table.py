"""The table over seeds: what each number rests on."""

from typing import Any

from mammo.evaluation.intervals import over_seeds, wilson
from mammo.evaluation.metrics import TITLES
from mammo.report.document import SourceFile
from mammo.report.seeds import seeds_markdown
from mammo.report.tables import signed


def summary() -> dict[str, Any]:
    spread = over_seeds([0.7, 0.8, 0.9], 0.9).to_dict()
    cells = {name: wilson(7, 10, 0.9).to_dict() for name in TITLES}
    system = {
        "validation": {"val_loss": 0.5},
        "test": dict.fromkeys(TITLES, spread)
        | {"precision": over_seeds([0.6, float("nan"), 0.8], 0.9).to_dict()},
        "minus_floor_auc": spread,
        "ensemble": {"roi": cells, "minus_floor_auc": wilson(7, 10, 0.9).to_dict()},
    }
    return {
        "data": {"note": "PHANTOM", "n_tumor": 5, "n_normal": 5},
        "n_seeds": 3,
        "confidence": 0.9,
        "selected": "compact-baseline",
        "selected_by": "mean val_loss over the seeds",
        "systems": {"compact-baseline": system},
        "floor": {"roi": cells},
    }


def test_a_metric_that_some_seeds_leave_undefined_says_how_many_it_rests_on() -> None:
    (row,) = [
        line for line in seeds_markdown(summary()).splitlines() if line.startswith("| **compact-baseline**")
    ]
    assert row.count("0.800 ± 0.100 |") == len(row.split("|")) - 5  # edges, name, loss, precision
    assert "| 0.700 ± 0.141 (2 of 3 seeds) |" in row


def test_intervals_carry_the_confidence_of_the_settings() -> None:
    text = seeds_markdown(summary())
    assert "ensemble of 3 seeds (90% interval)" in text
    assert "floor (one fit, 90% interval)" in text
    # Student's t of two degrees of freedom at 90% is 2.920, the standard error 0.1 / √3.
    assert "(90% t interval over 3 seeds +0.631 to +0.969" in text


def test_the_page_says_it_too() -> None:
    source = SourceFile("seeds/seeds.json", summary())
    test = ("systems", "compact-baseline", "test")
    assert source.spread(*test, "accuracy").text == "0.800 ± 0.100"
    assert source.spread(*test, "precision").text == "0.700 ± 0.141 (2 of 3 seeds)"


def test_a_difference_that_rounds_to_nothing_has_no_minus_but_the_end_of_an_interval_has() -> None:
    found = {"value": -0.0001, "ci_low": -0.2, "ci_high": -0.0001, "n": 3, "method": ""}
    assert signed(found) == "+0.000 (-0.200 to -0.000)"
    assert SourceFile("", {"effect": found}).difference("effect").text == "+0.000 (−0.200 to −0.000)"
