"""From trained networks to a system that decides, and its judgement of a part."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import Config
from mammo.core.files import HERE, Workspace
from mammo.core.processes import StepObserver
from mammo.core.records import Label
from mammo.core.systems import fits_of, has_floor, members_of
from mammo.data.rois import Rois
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.domain import fit_domain
from mammo.evaluation.metrics import auc
from mammo.evaluation.scores import Scores
from mammo.evaluation.stacking import fit_stack
from mammo.evaluation.voting import fitted, voted
from mammo.models.build import Classifier, joined
from mammo.models.bundle import Bundle
from mammo.systems.devices import choose_device, cpu_threads, precision_on
from mammo.systems.fit import EpochRecord
from mammo.systems.score import FloatArray, RoiScorer
from mammo.systems.train import train_network


@dataclass(frozen=True)
class TrainedSystem:
    """A system that decides, and its epochs; those of an ensemble are counted on, and `member` says whose they are."""

    bundle: Bundle
    history: pd.DataFrame


def train_system(
    system: str,
    config: Config,
    train: Rois,
    val: Rois,
    patch_sets: dict[str, pd.DataFrame],
    checkpoints: Path | None = None,
    workspace: Workspace = HERE,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: StepObserver | None = None,
) -> TrainedSystem:
    """One system, such as `compact-model2-floor`, trained on `train`; `val` chooses the epochs and how it decides.

    Args:
        system, config: its name, and all settings.
        train, val: the parts, with `patch_sets` of these names.
        checkpoints: folder that keeps the states of the networks' fits (`checkpoint_name`): another system that has
            one of these networks, with the same settings and data, takes its fit over.
        workspace: where HED's weights and the features of frozen backbones are kept.
        on_epoch, on_step: as in `fit`; the epochs of an ensemble's members are counted on.

    Raises:
        WeightsError: pretrained weights cannot be had or do not fit.
        ConfigError: the device does not exist, or training diverged.
        DataError: a part lacks a class.
    """
    members: list[Classifier] = []
    epochs: list[pd.DataFrame] = []
    for name, seed in fits_of(system, config.train.seed):
        before = sum(map(len, epochs))

        def report(record: EpochRecord, before: int = before) -> None:
            if on_epoch is not None:
                on_epoch(replace(record, epoch=before + record.epoch))

        def step(epoch: int, done: int, n_patches: int, before: int = before) -> None:
            if on_step is not None:
                on_step(before + epoch, done, n_patches)

        path = None if checkpoints is None else checkpoints / checkpoint_name(name, seed)
        trained = train_network(name, config, train, val, patch_sets, seed, path, workspace, report, step)
        members.append(trained.classifier)
        epochs.append(trained.history.assign(epoch=trained.history["epoch"] + before, member=len(epochs)))
    results, history = trained.results, trained.history
    if len(members) > 1:
        results, history = {"n_epochs": sum(map(len, epochs))}, pd.concat(epochs, ignore_index=True)
    grid, device = config.patches, choose_device(config.train.device)
    bundle = Bundle(
        network=joined(system, members),
        size_px=grid.size_px,
        stride_px=grid.stride_px,
        vote=config.vote,
        domain=fit_domain(train.images).with_false_alarms(val.images),
        results=results | {"n_rois_train": len(train.table), "n_rois_val": len(val.table)},
        synthetic=train.synthetic,
        corner_patches=grid.corner_patches,
        precision=precision_on(device, config.train.precision),
    )
    return TrainedSystem(decide_on_validation(bundle, train, val, config), history)


def checkpoint_name(network: str, seed: int) -> str:
    """File of the state of a network's fit."""
    return f"{network}-{seed}.pt"


def decide_on_validation(bundle: Bundle, train: Rois, val: Rois, config: Config) -> Bundle:
    """The bundle with threshold, calibrator and conformal limits fitted to its own scores of the validation part.

    Where the floor's evidence counts, it is fitted to the training part and stacked on those scores first.

    The scores come by the road of serving. The same ROIs have chosen the epoch, so what these numbers promise is
    somewhat optimistic; the test part says how much.

    Raises:
        DataError: a part lacks a class.
    """
    scored = score_part(bundle, val, config)
    if len(members_of(bundle.system)) > 1:
        bundle = replace(bundle, results=bundle.results | results_on_grid(val.labels, scored.patch_scores[0]))
    if has_floor(bundle.system):
        stack = fit_stack(train.images, train.labels, val.images, val.labels, scored.patch_scores[0])
        stacked = stack.apply(val.images, scored.patch_scores[0])
        bundle = replace(bundle, stack=stack, results=bundle.results | results_on_grid(val.labels, stacked))
        scored = voted(scored.roi_ids, val.labels, val.groups, stacked, config.vote)
    labels, (patch_scores,), (scores,) = scored.labels, scored.patch_scores, scored.scores
    referral = config.referral
    return replace(
        bundle,
        vote=fitted(labels, patch_scores, config.vote),
        calibrator=fit_platt(labels, scores),
        conformal=fit_conformal(
            labels, scores, coverage=referral.coverage, class_conditional=referral.class_conditional
        ),
    )


def results_on_grid(labels: npt.NDArray[np.int64], patch_scores: FloatArray) -> dict[str, float]:
    """`val_loss` and `val_auc` of patch scores `(n, n_patches)`, as a fit computes its network's on the grid."""
    of_label = np.where(labels[:, None] == Label.TUMOR, patch_scores, 1 - patch_scores)
    loss = float(-np.log(np.maximum(of_label, np.finfo(float).tiny)).mean())
    return {"val_loss": loss, "val_auc": auc(labels, patch_scores.mean(axis=1))}


def validation_results(bundle: Bundle) -> dict[str, float]:
    """What validation gave: the results of the chosen epoch, and the numbers that decide and calibrate."""
    found = bundle.results | {
        "threshold": bundle.vote.share_threshold,
        "calibrator_slope": bundle.calibrator.slope,
        "calibrator_intercept": bundle.calibrator.intercept,
        "limit_normal": bundle.conformal.limit_normal,
        "limit_tumor": bundle.conformal.limit_tumor,
    }
    if alarms := bundle.domain.false_alarms:
        of_alarms = {"": alarms.value, "_ci_low": alarms.ci_low, "_ci_high": alarms.ci_high}
        found |= {f"domain_false_alarms{end}": value for end, value in of_alarms.items()}
    return found


def score_part(bundle: Bundle, part: Rois, config: Config) -> Scores:
    """Judgement of a part's ROIs by the road that serving uses: a single run."""
    scorer = RoiScorer.on(bundle, choose_device(config.train.device))
    with cpu_threads(config.train.threads):
        scores = scorer.patch_scores(part.images)
    roi_ids = part.table["roi_id"].to_numpy(dtype=object)
    return voted(roi_ids, part.labels, part.groups, scores, bundle.vote, bundle.calibrator, bundle.conformal)
