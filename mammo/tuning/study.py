"""One study: made once, mended after kills, its trials handed out one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mammo.config import Config
from mammo.devices import choose_device
from mammo.errors import MammoError
from mammo.layout import Workspace
from mammo.provenance import fingerprint, git_commit, library_versions
from mammo.search_space import TuneConfig
from mammo.storage import sha256_of
from mammo.tuning.identity import is_alive, myself
from mammo.tuning.material import TrialRois, material_mark
from mammo.tuning.quiet import experimental
from mammo.tuning.space import base_settings, distributions, own_params
from mammo.tuning.storage import exclusive
from mammo.tuning.trials import ERROR, INDEX, OWN, RETRY_OF, WORKER, finished, fresh_index, index_of

SAMPLER_NOTE = (
    "TPE, multivariate, constant liar; a generator of its own for every trial, seeded by (seed, index)"
)
BEYOND_RESULTS = {"trials", "max_retries", "heartbeat_s", "nested_folds", "nested_seeds", "held_out_fold"}
"""Settings of `tune` that may change while a study goes on, or that show in its ROIs."""


class IndexedSampler(BaseSampler):
    """TPE whose random state hangs on (seed, index of the trial), not on what this process has drawn before.

    A study that is killed and resumed therefore draws what an undisturbed one draws.
    """

    def __init__(self, tune: TuneConfig) -> None:
        self._tune = tune
        self._tpe: TPESampler = self._fresh(0)

    def _fresh(self, index: int) -> TPESampler:
        seed = int(np.random.SeedSequence([self._tune.seed, index]).generate_state(1)[0])
        return TPESampler(seed=seed, n_startup_trials=self._tune.startup_trials)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Start the trial's own generator."""
        index = index_of(trial)
        if index is None:
            index = fresh_index(trial.number, study.get_trials(deepcopy=False))
        self._tpe = self._fresh(index)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


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


def study_mark(config: Config, material: TrialRois) -> str:
    """A hash of the settings, the data and the weights that a trial's value rests on, beside its parameters and index.

    A study may go on with other code, libraries or another machine of the same kind of device; they are not in it.
    """
    system, base = base_settings(config)
    weights = Path(base.model.weights)
    return fingerprint(
        [
            config.tune.model_dump(exclude=BEYOND_RESULTS),
            system,
            base.model.model_dump(),
            base.recipe.model_dump(),
            base.patches.model_dump(exclude={"seed"}),
            base.vote.model_dump(),
            [config.train.precision, choose_device(config.train.device).type],
            material_mark(material),
            *([sha256_of(weights)] if weights.is_file() else []),
        ]
    )


def make_study(
    space: Workspace, config: Config, storage: BaseStorage, material: TrialRois, *, fresh: bool
) -> OpenStudy:
    """Make the study, or go on with the one that is there. Call it once, before workers start.

    Raises:
        MammoError: the study there was made with other settings or data.
    """
    name, mark = study_name(config), study_mark(config, material)
    with exclusive(space, storage, name):
        if fresh and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=IndexedSampler(config.tune),
            direction="maximize",
            load_if_exists=True,
        )
        # The mark comes last: a study without it was killed while it was made, and is made to the end.
        if "mark" not in study.user_attrs:
            for key, value in _identity(space, config, material).items():
                study.set_user_attr(key, value)
            own = own_params(config)
            if own is not None and not study.get_trials(deepcopy=False):
                study.enqueue_trial(own, user_attrs={INDEX: 0, OWN: True})
            study.set_user_attr("mark", mark)
    _check_mark(study, mark)
    return OpenStudy(space, config, storage, study)


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
    _check_mark(study, study_mark(config, material))
    return OpenStudy(space, config, storage, study)


def note_workers(opened: OpenStudy, n_workers: int) -> None:
    """Note how many workers share the study at most: with more than one, the order of trials is left to chance."""
    most = max(n_workers, int(opened.study.user_attrs.get("n_workers", 0)))
    opened.study.set_user_attr("n_workers", most)


def _check_mark(study: optuna.Study, mark: str) -> None:
    made_with = study.user_attrs.get("mark")
    if made_with != mark:
        raise MammoError(
            f"study {study.study_name}: its trials must share settings, data and device, but it was "
            f"made with {made_with} and this workspace has {mark}; restore params.yaml and data, or start anew with "
            "`mammo tune --fresh`"
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


def mend(opened: OpenStudy) -> None:
    """Tell the trials of dead workers FAIL and enqueue them again. Call it under `exclusive`.

    A kill between the two steps loses nothing: the next call enqueues what no try replaces yet.
    """
    study = opened.study
    with experimental():
        fail_stale_trials(study)
    watched = isinstance(opened.storage, RDBStorage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial, watched):
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    replaced = {t.user_attrs.get(RETRY_OF) for t in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs and trial.number not in replaced:
            _enqueue_again(opened, trial, trials)


def _is_dead(trial: FrozenTrial, watched: bool) -> bool:
    """Whether nobody works on a running trial. PostgreSQL's are watched by their heartbeats.

    The worker's name is the last thing written while a trial is taken, under the lock; where it is missing, the
    taker died.
    """
    worker = trial.user_attrs.get(WORKER)
    return worker is None or (not watched and not is_alive(str(worker)))


def _enqueue_again(opened: OpenStudy, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
    index = index_of(trial)
    if index is None:
        index = fresh_index(trial.number, trials)
    # What was not drawn to the end is drawn again, by the same generator, but for what was never drawn at random.
    whole = set(trial.params) == set(opened.config.tune.space)
    params = trial.params if whole else trial.system_attrs.get("fixed_params", {})
    own = {OWN: True} if trial.user_attrs.get(OWN) else {}
    opened.study.enqueue_trial(params, user_attrs={INDEX: index, RETRY_OF: trial.number, **own})


def claim(opened: OpenStudy, n_trials: int) -> optuna.Trial | None:
    """Take the next trial: first one whose worker died, then a new one; None when all are taken.

    Args:
        opened: the study.
        n_trials: how many indices the study shall have in all.
    """
    study = opened.study
    with exclusive(opened.space, opened.storage, study.study_name):
        mend(opened)
        while True:
            trials = study.get_trials(deepcopy=False)
            waiting = any(t.state == TrialState.WAITING for t in trials)
            if not waiting and sum(1 for t in trials if RETRY_OF not in t.user_attrs) >= n_trials:
                return None
            trial = _take(opened, trials)
            if trial is not None:
                return trial


def _take(opened: OpenStudy, trials: Sequence[FrozenTrial]) -> optuna.Trial | None:
    """Ask for a trial; None if it killed its workers too often and is given up."""
    study, tune = opened.study, opened.config.tune
    with experimental():
        trial = study.ask(distributions(tune))
    if INDEX not in trial.user_attrs:
        trial.set_user_attr(INDEX, fresh_index(trial.number, trials))
    n_died = sum(1 for t in trials if t.number != trial.number and index_of(t) == trial.user_attrs[INDEX])
    if n_died > tune.max_retries:
        trial.set_user_attr(
            ERROR, f"its worker died {n_died} times; fewer workers or a smaller space may help"
        )
        study.tell(trial, state=TrialState.FAIL)
        return None
    if isinstance(opened.storage, RDBStorage):
        opened.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(WORKER, myself())
    return trial
