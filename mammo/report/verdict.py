"""The evaluation in a sentence."""

from mammo.report.blocks import Inline, SourceFile
from mammo.systems.assess import FLOOR


def verdict(results: SourceFile, title: str) -> list[Inline]:
    """Whether the chosen system, of this title, beats the floor, and which of the others it beats."""
    margin = results.content["selected_minus_floor_auc"]
    word = "is not shown to rank ROIs better than"
    if (margin["ci_low"] or 0) > 0:
        word = "ranks ROIs better than"
    elif (margin["ci_high"] or 0) < 0:
        word = "ranks ROIs worse than"
    standing: dict[str, list[str]] = {"better than": [], "worse than": [], "not distinguishable from": []}
    for one in results.content["comparisons"]:
        if one["name_b"] == FLOOR:
            continue
        told = one["accuracy_difference"] if one["decisions_differ"] else one["auc_difference"]["value"]
        better = ["worse than", "better than"][told > 0]
        key = better if one["decisions_differ"] or one["scores_differ"] else "not distinguishable from"
        standing[key].append(str(one["name_b"]))
    others = "; ".join(f"{key} {', '.join(names)}" for key, names in standing.items() if names)
    says = f" {word} the floor, eight intensity statistics without texture: AUC "
    return [
        title,
        says,
        results.cell("selected_minus_floor_auc", signed=True),
        ". ",
        *([f"On these ROIs it is {others}."] if others else []),
    ]
