"""One study: made once, joined by its workers, and refused to whoever has other settings or data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import optuna
from optuna.storages import BaseStorage, JournalStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, sha256_of
from mammo.core.provenance import fingerprint, git_commit, library_versions
from mammo.systems.devices import choose_device
from mammo.tuning.objective import WORKER, finished
from mammo.tuning.rois import TrialRois
from mammo.tuning.space import base_settings
from mammo.tuning.storage import GRACE_BEATS, alone, experimental

SAMPLER_NOTE: Final = (
    "TPE, multivariate, constant liar; a generator of its own for every trial, seeded by (seed, index)"
)
BEYOND_RESULTS: Final = {"trials", "heartbeat_s", "nested_folds", "nested_seeds", "held_out_fold"}
"""Settings of `tune` that may change while a study goes on, or that show in its ROIs."""
COMMAND: Final = "command"
"""Signs a trial with the command that it is done for, as the last thing while it is taken."""
RESTS_ON: Final = "rests_on"


@dataclass(frozen=True)
class OpenStudy:
    """A study and what is needed to take its trials.

    Attributes:
        space: the workspace.
        config: all settings.
        storage: where it is kept.
        study: Optuna's.
        command: signs the trials that this command, or one of its workers, takes.
    """

    space: Workspace
    config: Config
    storage: BaseStorage
    study: optuna.Study
    command: str

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every try, as stored.

        Raises:
            MammoError: the study was deleted meanwhile.
        """
        try:
            return self.study.get_trials(deepcopy=False)
        except KeyError as error:
            raise MammoError(
                f"study {self.study.study_name}: must stay while it is worked on, and was deleted meanwhile (by `mammo "
                "tune --fresh` elsewhere?); start again to work on the one that took its place"
            ) from error

    @property
    def ended(self) -> list[FrozenTrial]:
        """One trial for each finished index."""
        return finished(self.trials)

    @property
    def running(self) -> list[FrozenTrial]:
        """Trials that are taken and have not ended."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def id(self) -> str:
        """What tells this study from those of the same name before it."""
        return str(self.study.user_attrs["id"])

    def reap(self) -> None:
        """Tell the trials of dead workers FAIL, so that their indices are free again. Call it alone.

        PostgreSQL's workers are dead when their heartbeats are missed. The journal has one command at a time, so the
        trials of any other are dead. Whoever died while he took a trial has not signed it.
        """
        with experimental():
            fail_stale_trials(self.study)
        for trial in self.running:
            signed = trial.user_attrs.get(COMMAND)
            if signed is None or (isinstance(self.storage, JournalStorage) and signed != self.command):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def study_name(config: Config) -> str:
    """Studies of one source and one protocol share a name, but for the fold that they must not see."""
    name, fold = f"mammo-{config.ingest.source}-{config.split.protocol}", config.tune.held_out_fold
    return name if fold is None else f"{name}-without-fold-{fold}"


def foundations(config: Config, rois: TrialRois) -> dict[str, Any]:
    """The settings, the data and the weights that a trial's value rests on, beside its parameters and index.

    A study may go on with other code, libraries or another machine of the same kind of device; they are not in it.
    """
    system, base = base_settings(config)
    weights = Path(base.model.weights)
    return {
        "tune": config.tune.model_dump(mode="json", exclude=BEYOND_RESULTS),
        "tune.system with the first fusion of the space": system,
        "model": base.model.model_dump(mode="json"),
        f"recipes.{config.tune.recipe}": base.recipe.model_dump(mode="json"),
        "patches": base.patches.model_dump(mode="json", exclude={"seed"}),
        "vote": base.vote.model_dump(mode="json"),
        "train.precision and the kind of device": [
            config.train.precision,
            choose_device(config.train.device).type,
        ],
        "the ROIs and their folds (a hash)": rois.mark,
        **({"the file of model.weights (a hash)": sha256_of(weights)} if weights.is_file() else {}),
    }


def study_mark(config: Config, rois: TrialRois) -> str:
    """A hash of what a trial's value rests on."""
    return fingerprint(list(foundations(config, rois).values()))


def make_study(
    space: Workspace, config: Config, storage: BaseStorage, rois: TrialRois, *, fresh: bool
) -> OpenStudy:
    """Make the study, or go on with the one that is there.

    Raises:
        MammoError: the study there was made with other settings or data, or is to be deleted while others work on it.
    """
    name, command = study_name(config), uuid4().hex[:12]
    with alone(space, storage, name):
        if fresh and name in optuna.get_all_study_names(storage):
            _delete(
                OpenStudy(
                    space, config, storage, optuna.load_study(study_name=name, storage=storage), command
                )
            )
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        # The mark comes last: a study without it was killed while it was made, and is made to the end.
        if "mark" not in study.user_attrs:
            for key, value in _identity(space, config, rois).items():
                study.set_user_attr(key, value)
        opened = OpenStudy(space, config, storage, study, command)
        opened.reap()
    _check_foundations(
        study, config, rois, "restore params.yaml and data, or start anew with `mammo tune --fresh`"
    )
    return opened


def _delete(opened: OpenStudy) -> None:
    """Forget a study.

    Raises:
        MammoError: a worker of another machine or workspace is on one of its trials.
    """
    opened.reap()
    name, at_work = opened.study.study_name, ", ".join(str(t.user_attrs.get(WORKER)) for t in opened.running)
    if at_work:
        raise MammoError(
            f"study {name}: nobody may be at work on a study that --fresh forgets, but {at_work} (host:process) is; "
            "stop it, or leave --fresh out. A worker that was killed counts as at work for "
            f"{GRACE_BEATS * opened.config.tune.heartbeat_s} s"
        )
    optuna.delete_study(study_name=name, storage=opened.storage)


def join_study(
    space: Workspace, config: Config, storage: BaseStorage, rois: TrialRois, command: str
) -> OpenStudy:
    """Open a study that `mammo tune` has made.

    Raises:
        MammoError: there is none, or this workspace's settings or data differ from it.
    """
    name = study_name(config)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        raise MammoError(
            f"study {name}: must be made before workers join it, and the storage has none; run `mammo tune` with this "
            "--storage first"
        ) from error
    _check_foundations(study, config, rois, "give this workspace the study's params.yaml and data")
    return OpenStudy(space, config, storage, study, command)


def _check_foundations(study: optuna.Study, config: Config, rois: TrialRois, remedy: str) -> None:
    if study.user_attrs.get("mark") == study_mark(config, rois):
        return
    here = json.loads(json.dumps(foundations(config, rois)))
    found = differences(study.user_attrs.get(RESTS_ON, {}), here)
    lines = "".join(f"\n  {key}: {there} there, {value} here" for key, (there, value) in found.items())
    raise MammoError(
        f"study {study.study_name}: its trials must share settings, data and device, but it was made with others:"
        f"{lines}\n{remedy}"
    )


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Dotted key → value in `old` and in `new`, where these nested settings differ; "nothing" where one lacks it."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*old, *new)):
        was, becomes = old.get(key, "nothing"), new.get(key, "nothing")
        if isinstance(was, Mapping) and isinstance(becomes, Mapping):
            found |= differences(was, becomes, f"{prefix}{key}.")
        elif was != becomes:
            found[f"{prefix}{key}"] = (was, becomes)
    return found


def _identity(space: Workspace, config: Config, rois: TrialRois) -> dict[str, Any]:
    return {
        "id": uuid4().hex[:12],
        "tune": config.tune.model_dump(mode="json"),
        "sampler": SAMPLER_NOTE,
        "commit": git_commit(space.root) or "not in git",
        "versions": library_versions(),
        "n_rois": len(rois.rois.table),
        "n_tumor": int(rois.rois.labels.sum()),
        "n_groups": int(rois.rois.table["group_id"].nunique()),
        "synthetic": rois.rois.synthetic,
        RESTS_ON: foundations(config, rois),
        "mark": study_mark(config, rois),
    }
