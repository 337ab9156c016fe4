"""Coverage and referral rate by fold against the promise: a markdown table and a sentence."""

import math
from collections.abc import Sequence
from typing import Any

from mammo.evaluation.conformal import RATES, FoldReferral, over_folds
from mammo.report.markdown import markdown_table
from mammo.report.tables import cell


def referral_table(folds: Sequence[FoldReferral]) -> list[str]:
    """Markdown rows: promise, coverage and referral rate of each fold with Wilson intervals."""
    rows = []
    for fold in folds:
        rates = [f"{cell(fold.rate(name).to_dict())}, n = {fold.rate(name).n}" for name in RATES]
        rows.append([str(fold.fold), str(fold.n_calibration), f"{fold.promise:.2f}", *rates, fold.verdict])
    headings = ["fold", "ROIs that fitted", "promise", *RATES.values(), "promise was"]
    return markdown_table(headings, rows)


def referral_summary(folds: Sequence[FoldReferral], over_runs: dict[str, dict[str, Any]]) -> str:
    """One sentence over several folds or fits of one system: promise, every rate with its interval, its spread.

    Whether the promise was kept is a question for these rates: coverage is promised on average over folds.

    Args:
        folds: the folds.
        over_runs: each of the `RATES` over all judged ROIs with its interval, as JSON holds it.
    """
    promised = " and ".join(f"{promise:.2f}" for promise in sorted({fold.promise for fold in folds}))
    spread = over_folds(folds, folds[0].coverage.confidence)
    rates = ", ".join(
        f"{title.lower().replace('normal', 'Normal').replace('tumor', 'Tumor')} {cell(over_runs[name])}"
        + ("" if math.isnan(spread[name].sd) else f" ± {spread[name].sd:.3f}")
        for name, title in RATES.items()
    )
    return (
        f"Mean over the runs with its interval, ± the standard deviation over {len(folds)} folds, at a promised "
        f"coverage of {promised}: {rates}."
    )
