"""One study: made once, joined by its workers, and refused to whoever has other settings or data."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import optuna
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, sha256_of
from mammo.core.provenance import fingerprint, git_commit, library_versions
from mammo.systems.devices import choose_device
from mammo.tuning.differences import differences
from mammo.tuning.material import TrialRois, material_mark
from mammo.tuning.quiet import experimental
from mammo.tuning.sampler import SAMPLER_NOTE, IndexedSampler
from mammo.tuning.space import base_settings, own_params
from mammo.tuning.storage import GRACE_BEATS, exclusively
from mammo.tuning.trials import INDEX, OWN, WORKER, finished

BEYOND_RESULTS: Final = frozenset(
    {"trials", "max_retries", "heartbeat_s", "nested_folds", "nested_seeds", "held_out_fold"}
)
"""Settings of `tune` that may change while a study goes on, or that show in its ROIs."""
RESTS_ON: Final = "rests_on"
REPLACES: Final = "replaces"
"""The id of the study that this one was made in place of, whose MLflow runs it ends."""


@dataclass(frozen=True)
class OpenStudy:
    """A study and what is needed to take its trials."""

    space: Workspace
    config: Config
    storage: BaseStorage
    study: optuna.Study

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every try, as stored."""
        return self.study.get_trials(deepcopy=False)

    @property
    def ended(self) -> list[FrozenTrial]:
        """One trial for each finished index."""
        return finished(self.trials)

    @property
    def id(self) -> str:
        """What tells this study from those of the same name before it."""
        return str(self.study.user_attrs["id"])


def study_name(config: Config) -> str:
    """Studies of one source and one protocol share a name, but for the fold that they must not see."""
    name, fold = f"mammo-{config.ingest.source}-{config.split.protocol}", config.tune.held_out_fold
    return name if fold is None else f"{name}-without-fold-{fold}"


def foundations(config: Config, material: TrialRois) -> dict[str, Any]:
    """The settings, the data and the weights that a trial's value rests on, beside its parameters and index.

    A study may go on with other code, libraries or another machine of the same kind of device; they are not in it.
    """
    system, base = base_settings(config)
    weights = Path(base.model.weights)
    return {
        "tune": config.tune.model_dump(mode="json", exclude=set(BEYOND_RESULTS)),
        "tune.system with the first fusion of the space": system,
        "model": base.model.model_dump(mode="json"),
        f"recipes.{config.tune.recipe}": base.recipe.model_dump(mode="json"),
        "patches": base.patches.model_dump(mode="json", exclude={"seed"}),
        "vote": base.vote.model_dump(mode="json"),
        "train.precision and the kind of device": [
            config.train.precision,
            choose_device(config.train.device).type,
        ],
        "the ROIs and their folds (a hash)": material_mark(material),
        **({"the file of model.weights (a hash)": sha256_of(weights)} if weights.is_file() else {}),
    }


def study_mark(config: Config, material: TrialRois) -> str:
    """A hash of what a trial's value rests on."""
    return fingerprint(list(foundations(config, material).values()))


def make_study(
    space: Workspace, config: Config, storage: BaseStorage, material: TrialRois, *, fresh: bool
) -> OpenStudy:
    """Make the study, or go on with the one that is there. Call it once, before workers start.

    Raises:
        MammoError: the study there was made with other settings or data, or is to be deleted while others work on it.
    """
    name, rests_on = study_name(config), foundations(config, material)
    mark = study_mark(config, material)

    def make() -> optuna.Study:
        replaced = _delete(storage, name, config.tune.heartbeat_s) if fresh else None
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=IndexedSampler(config.tune),
            direction="maximize",
            load_if_exists=True,
        )
        # The mark comes last: a study without it was killed while it was made, and is made to the end.
        if "mark" not in study.user_attrs:
            identity = _identity(space, config, material) | {RESTS_ON: rests_on, REPLACES: replaced}
            for key, value in identity.items():
                study.set_user_attr(key, value)
            own = own_params(config)
            if own is not None and not study.get_trials(deepcopy=False):
                study.enqueue_trial(own, user_attrs={INDEX: 0, OWN: True})
            study.set_user_attr("mark", mark)
        return study

    study = exclusively(space, storage, name, make)
    _check_foundations(
        study, config, material, "restore params.yaml and data, or start anew with `mammo tune --fresh`"
    )
    return OpenStudy(space, config, storage, study)


def _delete(storage: BaseStorage, name: str, heartbeat_s: int) -> str | None:
    """Forget a study; returns its id, or None where there is none.

    Raises:
        MammoError: a worker of another machine or workspace is on one of its trials.
    """
    if name not in optuna.get_all_study_names(storage):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    if isinstance(storage, RDBStorage):
        with experimental():
            fail_stale_trials(study)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        at_work = [str(t.user_attrs[WORKER]) for t in running if WORKER in t.user_attrs]
        if at_work:
            raise MammoError(
                f"study {name}: nobody may be at work on a study that --fresh forgets, but {', '.join(at_work)} "
                f"{'is' if len(at_work) == 1 else 'are'} (host:process:start); stop them, or leave --fresh out. A "
                f"worker that was killed counts as at work for {GRACE_BEATS * heartbeat_s} s"
            )
    replaced = study.user_attrs.get("id")
    optuna.delete_study(study_name=name, storage=storage)
    return None if replaced is None else str(replaced)


def join_study(space: Workspace, config: Config, storage: BaseStorage, material: TrialRois) -> OpenStudy:
    """Open a study that `mammo tune` has made.

    Raises:
        MammoError: there is none, or this workspace's settings or data differ from it.
    """
    name = study_name(config)
    try:
        study = optuna.load_study(study_name=name, storage=storage, sampler=IndexedSampler(config.tune))
    except KeyError as error:
        raise MammoError(
            f"study {name}: must be made before workers join it, and the storage has none; run `mammo tune` with this "
            "--storage first"
        ) from error
    _check_foundations(study, config, material, "give this workspace the study's params.yaml and data")
    return OpenStudy(space, config, storage, study)


@contextmanager
def noticing_deletion(opened: OpenStudy) -> Iterator[None]:
    """Say it plainly when the study that one works on is gone.

    Raises:
        MammoError: it was deleted meanwhile.
    """
    try:
        yield
    except KeyError as error:
        if _is_there(opened):
            raise
        raise MammoError(
            f"study {opened.study.study_name}: must stay while it is worked on, and was deleted meanwhile (by "
            "`mammo tune --fresh` elsewhere?); start again to work on the one that took its place"
        ) from error


def _is_there(opened: OpenStudy) -> bool:
    try:
        study = optuna.load_study(study_name=opened.study.study_name, storage=opened.storage)
    except KeyError:
        return False
    return study._study_id == opened.study._study_id


def _check_foundations(study: optuna.Study, config: Config, material: TrialRois, remedy: str) -> None:
    if study.user_attrs.get("mark") == study_mark(config, material):
        return
    here = json.loads(json.dumps(foundations(config, material)))
    found = differences(study.user_attrs.get(RESTS_ON, {}), here)
    lines = "".join(f"\n  {key}: {there} there, {value} here" for key, (there, value) in found.items())
    raise MammoError(
        f"study {study.study_name}: its trials must share settings, data and device, but it was made with others:"
        f"{lines}\n{remedy}"
    )


def _identity(space: Workspace, config: Config, material: TrialRois) -> dict[str, Any]:
    return {
        "id": uuid4().hex[:12],
        "tune": config.tune.model_dump(mode="json"),
        "sampler": SAMPLER_NOTE,
        "commit": git_commit(space.root) or "not in git",
        "versions": library_versions(),
        "n_rois": len(material.table),
        "n_tumor": int(material.labels.sum()),
        "n_groups": int(material.table["group_id"].nunique()),
        "synthetic": material.synthetic,
    }
