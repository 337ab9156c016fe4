"""The evaluation in a sentence."""

from mammo.core.systems import FLOOR
from mammo.report.blocks import Inline, SourceFile


def verdict(results: SourceFile, title: str) -> list[Inline]:
    """Whether the chosen system, of this title, beats the floor, and which of the others it beats."""
    margin = results.content["selected_minus_floor_auc"]
    word = "is not shown to rank ROIs better than"
    if (margin["ci_low"] or 0) > 0:
        word = "ranks ROIs better than"
    elif (margin["ci_high"] or 0) < 0:
        word = "ranks ROIs worse than"
    standing: dict[str, list[str]] = {}
    for one in results.content["comparisons"]:
        if one["name_b"] == FLOOR:
            continue
        key = "is not distinguishable from"
        if one["decisions_differ"]:  # by McNemar's test
            key = f"decides {['fewer', 'more'][one['accuracy_difference'] > 0]} of them rightly than"
        elif one["scores_differ"]:
            key = f"ranks them {['worse', 'better'][one['auc_difference']['value'] > 0]} than"
        standing.setdefault(key, []).append(str(one["name_b"]))
    others = "; it ".join(f"{key} {', '.join(names)}" for key, names in standing.items())
    says = f" {word} the floor, eight intensity statistics without texture: AUC "
    return [
        title,
        says,
        results.cell("selected_minus_floor_auc", signed=True),
        ". ",
        *([f"On these ROIs it {others}."] if others else []),
    ]
