"""The evaluation in a sentence."""

import pytest

from mammo.report.blocks import SourceFile, inline_markdown
from mammo.report.verdict import verdict


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
def test_the_floor_is_beaten_only_where_the_whole_interval_says_so(
    low: float, high: float, words: str
) -> None:
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
