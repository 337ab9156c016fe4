"""Every system judged on the test part, beside the floor and the paper's numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammo.core.config import Config, EvaluateConfig
from mammo.core.errors import data_name
from mammo.core.files import Workspace
from mammo.data.rois import Rois
from mammo.data.splits import read_parts
from mammo.evaluation.baselines import DOI, PAPER_RESULTS, fit_floor
from mammo.evaluation.comparison import Judged, compare, paired_bootstrap_auc
from mammo.evaluation.conformal import FoldReferral
from mammo.evaluation.intervals import Estimate, bootstrap, summarise
from mammo.evaluation.metrics import F1, PROPORTIONS, balanced_accuracy, cells, confusion, weighted_auc
from mammo.models.bundle import Bundle, load_bundle
from mammo.systems.operation import describe_operation, referral_of
from mammo.systems.train import Scored, best_system, predictions, score_part

FLOOR = "floor"


@dataclass(frozen=True)
class Assessment:
    """Judgements of the test part.

    Attributes:
        results: all numbers, ready for JSON.
        scored: the systems' judgements, by name.
        floor: the floor's; its single "patch" is the whole ROI.
        predictions: one row for each system and ROI.
        test: the part that was judged.
        bundles: the systems, by name.
        referrals: what each system's prediction sets do there.
    """

    results: dict[str, Any]
    scored: dict[str, Scored]
    floor: Scored
    predictions: pd.DataFrame
    test: Rois
    bundles: dict[str, Bundle]
    referrals: dict[str, FoldReferral]


def assess(space: Workspace, config: Config) -> Assessment:
    """Score the test part with every trained system and with the floor, and state the intervals.

    The floor is fitted on the training part, thresholds on the validation part; nothing here is chosen by the
    test part.
    """
    rois = read_parts(space)
    train, val, test = (rois.part(name) for name in ("train", "val", "test"))
    bundles = {system: load_bundle(space.bundle(system)) for system in config.systems}
    scored = {system: score_part(bundle, test, config) for system, bundle in bundles.items()}
    floor = score_floor(train, test)
    selected = best_system(
        {name: bundle.results for name, bundle in bundles.items()}, config.register_.select_by
    )
    results = {
        "data": describe_data(config, test),
        "selected": {"system": selected, "by": config.register_.select_by, **bundles[selected].results},
        "systems": {
            name: judge(judged, config.evaluate, bundles[name].vote.patch_threshold)
            | describe_operation(bundles[name], score_part(bundles[name], val, config), judged, config)
            | {"validation": bundles[name].results}
            for name, judged in scored.items()
        },
        FLOOR: judge(floor, config.evaluate),
        "paper": _paper(config),
        "selected_minus_floor_auc": auc_difference(scored[selected], floor, config.evaluate).to_dict(),
        "comparisons": _comparisons(selected, scored, floor, config.evaluate),
    }
    rows = pd.concat([predictions(judged, test) for judged in [*scored.values(), floor]], ignore_index=True)
    referrals = {name: referral_of(bundles[name], judged, config) for name, judged in scored.items()}
    return Assessment(results, scored, floor, rows, test, bundles, referrals)


def score_floor(train: Rois, test: Rois) -> Scored:
    """The logistic regression on intensity statistics, fitted on `train`, as a system with one vote."""
    scores = fit_floor(train.images, train.labels).score(test.images)
    decided = (scores > 0.5).astype(np.int64)
    return Scored(FLOOR, test.labels, test.groups, scores[:, None], decided.astype(float), decided)


def judge(scored: Scored, config: EvaluateConfig, patch_threshold: float | None = None) -> dict[str, Any]:
    """Confusion counts and every metric with its interval at ROI level, and at patch level if its threshold is given.

    What votes once has no AUC of the vote share.
    """
    table = confusion(scored.labels, scored.decided)
    roi = summarise(
        scored.labels,
        scored.decided,
        scored.scores if config.auc_of == "scores" else scored.decided.astype(float),
        scored.vote_shares,
        scored.groups,
        **config.resampling,
    )
    if scored.patch_scores.shape[1] == 1:
        del roi["auc_vote_share"]  # a single vote is the decision, whose AUC is the balanced accuracy
    judged: dict[str, Any] = {
        "confusion": {"tp": table.tp, "fn": table.fn, "fp": table.fp, "tn": table.tn},
        "n_rois": table.n,
        "roi": {name: estimate.to_dict() for name, estimate in roi.items()},
    }
    if patch_threshold is not None:
        level = patch_level(scored, config, patch_threshold)
        judged["patch"] = {name: estimate.to_dict() for name, estimate in level.items()}
        judged["n_patches"] = int(scored.patch_scores.size)
    return judged


def patch_level(scored: Scored, config: EvaluateConfig, threshold: float) -> dict[str, Estimate]:
    """Metrics of single patches, which vote Tumor above `threshold`.

    Patches of one ROI are not independent, so all intervals resample groups.
    """
    n_patches = scored.patch_scores.shape[1]
    labels, groups = np.repeat(scored.labels, n_patches), np.repeat(scored.groups, n_patches)
    scores = scored.patch_scores.ravel()
    evidence = scores if config.patch_auc_of == "tumor" else np.maximum(scores, 1 - scores)
    cell_of = cells(labels, (scores > threshold).astype(np.int64))
    rates = {**PROPORTIONS, "f1": F1}

    def estimate(statistic: Any) -> Estimate:
        return bootstrap(
            statistic,
            groups,
            **config.resampling,
        )

    estimates = {name: estimate(lambda w, rate=rate: rate.of(w @ cell_of)) for name, rate in rates.items()}
    estimates["balanced_accuracy"] = estimate(lambda w: balanced_accuracy(w @ cell_of))
    estimates["auc_score"] = estimate(lambda w: weighted_auc(labels, evidence, w))
    return estimates


def auc_difference(a: Scored, b: Scored, config: EvaluateConfig) -> Estimate:
    """AUC of the mean patch score, a minus b, paired on the same ROIs."""
    return paired_bootstrap_auc(
        a.labels,
        a.scores,
        b.scores,
        a.groups,
        **config.resampling,
    )


def describe_data(config: Config, part: Rois) -> dict[str, Any]:
    """What was judged: source, protocol, counts; patients are null where the source does not know them."""
    patients = part.table["patient_id"]
    synthetic = bool(part.table["synthetic"].any())
    name = data_name(synthetic)
    return {
        "source": config.ingest.source,
        "protocol": config.split.protocol,
        "part": part.name,
        "synthetic": synthetic,
        "n_rois": len(part.table),
        "n_tumor": int(part.labels.sum()),
        "n_normal": int((1 - part.labels).sum()),
        "n_patients": None if patients.isna().any() else int(patients.nunique()),
        "n_groups": len(np.unique(part.groups)),
        "note": f"{name} ROIs, {config.split.protocol.replace('_', ' ')} split, {len(part.table)} {part.name} ROIs"
        + _defects_of_auc(config.evaluate),
    }


def _defects_of_auc(config: EvaluateConfig) -> str:
    """A warning where an AUC is computed in the paper's way, for every table and picture."""
    warnings = []
    if config.auc_of == "decisions":
        warnings.append("AUC of the ROIs from decisions: it is the balanced accuracy")
    if config.patch_auc_of == "larger":
        warnings.append("AUC of the patches from the larger probability")
    return f" ({'; '.join(warnings)})" if warnings else ""


def _paper(config: Config) -> dict[str, Any]:
    reported = []
    for result in PAPER_RESULTS:
        counts = result.confusion
        estimates = result.estimates(config.evaluate.confidence)
        reported.append(
            {
                "system": result.system,
                "confusion": None
                if counts is None
                else {k: getattr(counts, k) for k in ("tp", "fn", "fp", "tn")},
                "roi": {name: estimate.to_dict() for name, estimate in estimates.items()},
            }
        )
    return {"doi": DOI, "data": "MIAS ROIs, published split, 64 test ROIs", "systems": reported}


def _comparisons(
    selected: str, scored: dict[str, Scored], floor: Scored, config: EvaluateConfig
) -> list[dict[str, Any]]:
    one = scored[selected]
    others = [judged for name, judged in scored.items() if name != selected] + [floor]
    return [
        compare(
            one.labels,
            Judged(selected, one.decided, one.scores),
            Judged(other.system, other.decided, other.scores),
            one.groups,
            **config.resampling,
        ).to_dict()
        for other in others
    ]
