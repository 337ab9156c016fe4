"""One study: made once, joined by its workers, and refused to whoever has other settings or data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import optuna
import pandas as pd
from optuna.storages import BaseStorage, JournalStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, sha256_of
from mammo.core.provenance import fingerprint, git_commit, library_versions
from mammo.core.records import SPLITS
from mammo.data.splits import Fold
from mammo.systems.devices import choose_device
from mammo.tuning.objective import WORKER, finished, trial_folds
from mammo.tuning.space import base_settings
from mammo.tuning.storage import GRACE_BEATS, alone, journal_path, using_storage

SAMPLER_NOTE: Final = (
    "TPE, multivariate, constant liar; a generator of its own for every trial, seeded by (seed, index)"
)
BEYOND_RESULTS: Final = {"trials", "heartbeat_s", "nested_folds", "nested_seeds", "held_out_fold"}
"""Settings of `tune` that may change while a study goes on, or that show in its ROIs."""
COMMAND: Final = "command"
"""Signs a trial with the command that it is done for, as the last thing while it is taken."""
ANEW: Final = "restore params.yaml and data, or start anew with --fresh"
RESTS_ON: Final = "rests_on"
N_TRIALS: Final = "n_trials"
"""Trials of the study in all, as the last command asked for."""
N_WORKERS: Final = "n_workers"
"""How many workers were on a study at once at most, whoever started them."""


@dataclass(frozen=True)
class OpenStudy:
    """A study and what is needed to take its trials."""

    workspace: Workspace
    config: Config
    storage: BaseStorage
    study: optuna.Study
    command: str
    """Signs the trials that this command, or one of its workers, takes."""

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
        fail_stale_trials(self.study)
        for trial in self.running:
            signed = trial.user_attrs.get(COMMAND)
            if signed is None or (isinstance(self.storage, JournalStorage) and signed != self.command):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def study_name(config: Config) -> str:
    """Studies of one source and one protocol share a name, but for the fold that they must not see."""
    name, fold = f"mammo-{config.ingest.source}-{config.split.protocol}", config.tune.held_out_fold
    return name if fold is None else f"{name}-without-fold-{fold}"


def foundations(config: Config, folds: Sequence[Fold]) -> dict[str, Any]:
    """The settings, the data and the weights that a trial's value rests on, beside its parameters and index.

    A study may go on with other code, libraries or another machine of the same kind of device; they are not in it.
    """
    system, base = base_settings(config)
    weights, device = Path(base.model.weights), choose_device(base.train.device)
    return {
        "tune": config.tune.model_dump(mode="json", exclude=BEYOND_RESULTS),
        "tune.system with the first fusion of the space": system,
        "model": base.model.model_dump(mode="json"),
        f"recipes.{config.tune.recipe}": base.recipe.model_dump(mode="json"),
        "patches": base.patches.model_dump(mode="json", exclude={"seed"}),
        "vote": base.vote.model_dump(mode="json"),
        "train.precision and the kind of device": [base.train.precision, device.type],
        "the ROIs and their folds (a hash)": rois_mark(folds),
        **({"the file of model.weights (a hash)": sha256_of(weights)} if weights.is_file() else {}),
        **({"train.features": "kept"} if base.train.features == "kept" else {}),
    }


def rois_mark(folds: Sequence[Fold]) -> str:
    """A hash of pixels, labels and folds."""
    rois = folds[0].rois
    rows = [[np.flatnonzero(fold.rois.table["split"] == part).tolist() for part in SPLITS] for fold in folds]
    return fingerprint([list(rois.table["sha256"]), rois.labels.tolist(), rows])


def study_mark(config: Config, folds: Sequence[Fold]) -> str:
    """A hash of what a trial's value rests on."""
    return fingerprint(list(foundations(config, folds).values()))


def make_study(
    workspace: Workspace, config: Config, storage: BaseStorage, folds: Sequence[Fold], *, fresh: bool
) -> OpenStudy:
    """Make the study, or go on with the one that is there.

    Raises:
        MammoError: the study there was made with other settings or data, or is to be deleted while others work on it.
    """
    name, command = study_name(config), uuid4().hex[:12]

    def opened() -> OpenStudy:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        one = OpenStudy(workspace, config, storage, study, command)
        one.reap()
        return one

    with alone(workspace, storage, name):
        one = opened()
        if fresh:
            if at_work := ", ".join(str(trial.user_attrs.get(WORKER)) for trial in one.running):
                raise MammoError(
                    f"study {name}: nobody may be at work on a study that --fresh forgets, but {at_work} "
                    "(host:process) is; stop it, or leave --fresh out. A worker that was killed counts as at work for "
                    f"{GRACE_BEATS * config.tune.heartbeat_s} s"
                )
            optuna.delete_study(study_name=name, storage=storage)
            one = opened()
        # The mark comes last: a study without it was killed while it was made, and is made to the end.
        if "mark" not in one.study.user_attrs:
            about = folds[0].rois.describe()
            identity = {
                "id": uuid4().hex[:12],
                "tune": config.tune.model_dump(mode="json"),
                "sampler": SAMPLER_NOTE,
                "commit": git_commit(workspace.root) or "not in git",
                "versions": library_versions(),
                **{key: about[key] for key in ("source", "n_rois", "n_tumor", "n_groups", "n_patients", "synthetic")},
                RESTS_ON: foundations(config, folds),
                "mark": study_mark(config, folds),
            }
            for key, value in identity.items():
                one.study.set_user_attr(key, value)
            _describe(one.study, config, folds[0].rois.name_of_data)
    _check_foundations(one.study, config, folds, ANEW)
    return one


def _describe(study: optuna.Study, config: Config, data: str) -> None:
    """What optuna-dashboard shows: the value's name, and what the study is about."""
    from optuna_dashboard import save_note  # a web server's libraries

    tune = config.tune
    metric = f"{tune.metric}, mean of the folds"
    study.set_metric_names([metric])
    save_note(
        study,
        f"**{data}** ROIs. Value: {metric}, of {tune.n_folds} folds inside train and val; the test part is never seen. "
        f"Searched: {', '.join(tune.space)}. Trials are kept by `mammo tune`; `reports/tune/` has the record.",
    )


def join_study(
    workspace: Workspace, config: Config, storage: BaseStorage, folds: Sequence[Fold], command: str
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
    _check_foundations(study, config, folds, "give this workspace the study's params.yaml and data")
    return OpenStudy(workspace, config, storage, study, command)


def kept_trials(workspace: Workspace, config: Config, url: str | None) -> list[FrozenTrial]:
    """The ended trials of the study that `mammo tune` would go on with; nothing is made where there is none."""
    if url is None and not journal_path(workspace).is_file():
        return []
    with using_storage(workspace, url, heartbeat_s=None) as storage:
        if study_name(config) not in optuna.get_all_study_names(storage):
            return []
        study = optuna.load_study(study_name=study_name(config), storage=storage)
        _check_foundations(study, config, trial_folds(workspace, config), ANEW)
        return OpenStudy(workspace, config, storage, study, command="").ended


def _check_foundations(study: optuna.Study, config: Config, folds: Sequence[Fold], remedy: str) -> None:
    if study.user_attrs.get("mark") == study_mark(config, folds):
        return
    # Dotted keys, in the form in which a storage gives them back.
    there, here = (
        pd.json_normalize(json.loads(json.dumps(values))).to_dict("records")[0]
        for values in (study.user_attrs.get(RESTS_ON, {}), foundations(config, folds))
    )
    lines = "".join(
        f"\n  {key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} here"
        for key in dict.fromkeys((*there, *here))
        if there.get(key, "nothing") != here.get(key, "nothing")
    )
    raise MammoError(
        f"study {study.study_name}: its trials must share settings, data and device, but it was made with others:"
        f"{lines}\n{remedy}"
    )
