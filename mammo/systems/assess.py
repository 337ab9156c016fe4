"""Every system judged on the test part, beside the floor and the paper's numbers. Nothing is chosen by that part."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammo.core.choice import best_system
from mammo.core.config import Config, EvaluateConfig, VoteConfig
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.core.systems import FLOOR
from mammo.data.rois import Rois
from mammo.data.splits import read_parts
from mammo.evaluation.baselines import DOI, PAPER_RESULTS, floor_scores
from mammo.evaluation.calibration import (
    calibration_estimates,
    operating_points,
    perfect_calibration_error,
    reliability,
)
from mammo.evaluation.comparison import auc_difference, compare
from mammo.evaluation.conformal import RATES, judge_fold
from mammo.evaluation.intervals import Estimate, summarise
from mammo.evaluation.metrics import TITLES, FloatArray, confusion
from mammo.evaluation.scores import Scores
from mammo.evaluation.voting import prediction_sets, voted, with_validation_threshold
from mammo.models.bundle import Bundle, load_bundle
from mammo.systems.decide import score_part


@dataclass(frozen=True)
class Assessment:
    """Judgements of the part `test`: all numbers in `results`, ready for JSON, and what pictures need.

    The judgements of each system, a single run, are in `scored`, by name like `bundles`; the single "patch" of the
    `floor` is the whole ROI. `predictions` has one row for each system and ROI.
    """

    results: dict[str, Any]
    scored: dict[str, Scores]
    floor: Scores
    predictions: pd.DataFrame
    test: Rois
    bundles: dict[str, Bundle]


def assess(workspace: Workspace, config: Config) -> Assessment:
    """Every trained system and the floor, fitted on the training part, on the test part, with intervals."""
    rois = read_parts(workspace)
    train, val, test = (rois.part(name) for name in ("train", "val", "test"))
    bundles = {system: load_bundle(workspace.bundle(system)) for system in config.systems}
    scored = {system: score_part(bundle, test, config) for system, bundle in bundles.items()}
    floor, evaluate = score_floor(train, test), config.evaluate
    by = config.register_.select_by
    selected = best_system({name: bundle.results for name, bundle in bundles.items()}, by)
    others = {name: scores for name, scores in scored.items() if name != selected}
    results = {
        "data": describe_data(config, test, bundles[selected].provenance.get("weights")),
        "selected": {"system": selected, "by": by, **bundles[selected].results},
        "systems": {
            name: judge(scores, evaluate, bundles[name].vote.patch_threshold)
            | describe_operation(bundles[name], score_part(bundles[name], val, config), scores, config)
            | {"validation": bundles[name].results}
            for name, scores in scored.items()
        },
        FLOOR: judge(floor, evaluate),
        "paper": {
            "doi": DOI,
            "data": "MIAS ROIs, published split, 64 test ROIs",
            "systems": [
                {
                    "system": result.system,
                    "confusion": None if result.confusion is None else asdict(result.confusion),
                    "roi": _to_dicts(result.estimates(evaluate.confidence)),
                }
                for result in PAPER_RESULTS
            ],
        },
        "selected_minus_floor_auc": auc_difference(scored[selected], floor, **evaluate.resampling).to_dict(),
        # That with the floor is the question; those with the other systems are asked together.
        "comparisons": [
            compare(selected, scored[selected], name, other, n, **evaluate.resampling)
            for compared, n in ((others, len(others)), ({FLOOR: floor}, 1))
            for name, other in compared.items()
        ],
    }
    rows = [predictions(name, scores, test.name) for name, scores in (scored | {FLOOR: floor}).items()]
    return Assessment(results, scored, floor, pd.concat(rows, ignore_index=True), test, bundles)


def score_floor(train: Rois, judged: Rois) -> Scores:
    """The logistic regression on intensity statistics, fitted on `train`, as a system with one vote."""
    scores = floor_scores(train.images, train.labels, judged.images)
    decided = (scores > 0.5).astype(np.int64)
    whose = judged.table["roi_id"].to_numpy(dtype=object), judged.labels, judged.groups
    return Scores.single(*whose, scores[:, None], decided.astype(float), decided)


def judge(scores: Scores, config: EvaluateConfig, patch_threshold: float | None = None) -> dict[str, Any]:
    """Confusion counts and every metric with its interval at ROI level, and at patch level if its threshold is given.

    What votes once has no AUC of the vote share: a single vote is the decision, whose AUC is the balanced accuracy.
    """
    n_patches = scores.patch_scores.shape[2]
    ranked = scores if config.auc_of == "scores" else scores.with_scores(scores.decisions.astype(float))
    metrics = [name for name in TITLES if n_patches > 1 or name != "auc_vote_share"]
    judged: dict[str, Any] = {
        "confusion": _counts(scores),
        "n_rois": len(scores.labels),
        "roi": _to_dicts(summarise(ranked, metrics=metrics, **config.resampling)),
    }
    if patch_threshold is not None:
        patches = scores.by_patch(patch_threshold)
        if config.patch_auc_of == "larger":
            patches = patches.with_scores(np.maximum(patches.scores, 1 - patches.scores))
        names = [name for name in TITLES if name != "auc_vote_share"]
        found = summarise(patches, metrics=names, independent=False, **config.resampling)
        judged["patch"] = _to_dicts(found)
        judged["n_patches"] = int(scores.patch_scores.size)
    return judged


def _counts(scores: Scores) -> dict[str, int]:
    (decided,) = scores.decisions
    return asdict(confusion(scores.labels, decided))


def _to_dicts(estimates: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def describe_data(config: Config, part: Rois, weights: str | None) -> dict[str, Any]:
    """What was judged: source, protocol, counts; patients are null where the source does not know them.

    The note, for every table and picture, warns where an AUC is computed in the paper's way, and where the `weights`
    that training started from are not ImageNet's own.
    """
    n_rois, n_tumor = len(part.table), int(part.labels.sum())
    warnings = []
    if config.evaluate.auc_of == "decisions":
        warnings.append("AUC of the ROIs from decisions: it is the balanced accuracy")
    if config.evaluate.patch_auc_of == "larger":
        warnings.append("AUC of the patches from the larger probability")
    if weights == "hed":
        warnings.append("vgg16 (HED): ImageNet's weights, fine-tuned for edges")
    split = f"{config.split.protocol.replace('_', ' ')} split"
    return {
        "source": config.ingest.source,
        "protocol": config.split.protocol,
        "part": part.name,
        "synthetic": part.synthetic,
        "n_rois": n_rois,
        "n_tumor": n_tumor,
        "n_normal": n_rois - n_tumor,
        "n_patients": part.n_patients,
        "n_groups": len(np.unique(part.groups)),
        "note": f"{part.name_of_data}, {split}, {n_rois} {part.name} ROIs"
        + (f" ({'; '.join(warnings)})" if warnings else ""),
    }


def predictions(system: str, scores: Scores, part: str) -> pd.DataFrame:
    """One row for each ROI: truth, decision, vote share, score, probability, prediction set, referral.

    The last three are null where nothing was calibrated.
    """
    (decided,), (shares,), (mean,) = scores.decisions, scores.shares, scores.scores
    nothing, sets = [None] * len(mean), None if scores.sets is None else scores.sets[0]
    names = np.array([label.title for label in Label], dtype=object)
    return pd.DataFrame(
        {
            "system": system,
            "part": part,
            "roi_id": scores.roi_ids,
            "group_id": scores.groups,
            "label": names[scores.labels],
            "decision": names[decided],
            "vote_share": shares,
            "score": mean.round(6),
            "probability": nothing if scores.probabilities is None else scores.probabilities[0].round(6),
            "prediction_set": nothing if sets is None else [" or ".join(names[held]) for held in sets],
            "referral": nothing if sets is None else sets.all(axis=1),
        }
    )


def describe_operation(bundle: Bundle, val: Scores, test: Scores, config: Config) -> dict[str, Any]:
    """Thresholds (chosen by validation), operating points, calibration and referral of a system, ready for JSON."""
    evaluate = config.evaluate
    (val_scores,), (scores,) = val.scores, test.scores
    points = operating_points(val.labels, val_scores, test.labels, scores, confidence=evaluate.confidence)
    return {
        "thresholds": _thresholds(bundle.vote, val, test, evaluate),
        "operating_points": points,
        "calibration": {
            "calibrator": bundle.calibrator.to_dict(),
            "binning": evaluate.binning,
            "n_bins": evaluate.n_bins,
            "raw": _calibration(test, scores, evaluate),
            "calibrated": _calibration(test, bundle.calibrator.apply(scores), evaluate),
        },
        "referral": _referral(bundle, test, config),
    }


def _thresholds(vote: VoteConfig, val: Scores, test: Scores, config: EvaluateConfig) -> list[dict[str, Any]]:
    """The vote's rule at the paper's threshold and at validation's, whichever of them ships."""
    rules = {"fixed": vote.model_copy(update={"threshold": "fixed", "share_threshold": 0.5})}
    fitted = vote.threshold == "validation"
    rules["validation"] = vote if fitted else with_validation_threshold(val.labels, val.patch_scores[0], vote)
    if vote.share_threshold not in [rule.share_threshold for rule in rules.values()]:
        rules["shipped"] = vote
    changed = ("accuracy", "recall", "specificity", "balanced_accuracy")
    rows = []
    for name, rule in rules.items():
        scores = voted(test.roi_ids, test.labels, test.groups, test.patch_scores[0], rule)
        row = {"name": name, "rule": rule.rule, "threshold": rule.share_threshold}
        row |= {"ships": rule.share_threshold == vote.share_threshold, "confusion": _counts(scores)}
        rows.append(row | {"roi": _to_dicts(summarise(scores, metrics=changed, **config.resampling))})
    return rows


def _calibration(test: Scores, scores: FloatArray, config: EvaluateConfig) -> dict[str, Any]:
    binned: dict[str, Any] = {"binning": config.binning, "n_bins": config.n_bins}
    estimates = calibration_estimates(test.labels, scores, test.groups, **binned, **config.resampling)
    bins = reliability(test.labels, scores, **binned, confidence=config.confidence)
    return {
        **_to_dicts(estimates),
        "calibration_error_if_perfect": perfect_calibration_error(scores, **binned, **config.resampling),
        "bins": bins.to_dict("records"),
    }


def _referral(bundle: Bundle, test: Scores, config: Config) -> dict[str, Any]:
    """What the shipped prediction sets do on the test part of the current split: one fold."""
    split, limits = config.split, bundle.conformal
    fold = "published split" if split.protocol == "published" else f"repeat {split.repeat}, fold {split.fold}"
    return judge_fold(
        f"{bundle.system}, {fold}",
        limits.coverage,
        limits.n_calibration,
        test.labels,
        prediction_sets(test.patch_scores[0], bundle.vote, limits),
        confidence=config.evaluate.confidence,
    )


def operation_estimates(judged: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The estimates of one system's operation under flat names, for MLflow and `dvc metrics diff`."""
    kinds = [(name, kind) for name in ("brier", "calibration_error") for kind in ("raw", "calibrated")]
    flat = {f"{name}_{kind}": judged["calibration"][kind][name] for name, kind in kinds}
    for point in judged["operating_points"]:
        other = "recall" if point["fixed"] == "specificity" else "specificity"
        flat[f"{other}_at_{point['fixed']}_{point['target']:.2f}"] = point[other]
    for row in judged["thresholds"]:
        flat |= {f"{metric}_at_{row['name']}_threshold": value for metric, value in row["roi"].items()}
    return flat | {name: judged["referral"][name] for name in RATES}
