"""How many workers pay off on one device: measured on fits of the study's own kind, not guessed.

Small networks leave most of a GPU idle, so several processes that share it get more done together. How many depends on
the GPU, the network and the batch. On CPUs a worker has one thread, and there is one for each CPU.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from time import perf_counter
from typing import Any, Final

import torch

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, read_json, write_json
from mammo.core.processes import usable_cpus
from mammo.core.provenance import fingerprint
from mammo.models.build import build_classifier
from mammo.systems.devices import choose_device
from mammo.systems.fit import EpochRecord, fit
from mammo.tuning.material import judging_data, read_trial_rois, training_data
from mammo.tuning.objective import fit_settings
from mammo.tuning.space import TUNED, base_settings, own_params, trial_settings
from mammo.tuning.worker import worker_context

PROBE_S: Final = 8.0
"""How long the workers of one count train together."""
LEAST_GAIN: Final = 1.05
"""Twice as many workers must do this much more, or no further doubling is tried."""
ENOUGH: Final = 0.95
"""The fewest workers with this share of the best rate are taken: each costs memory and a CPU."""
START_S: Final = 180.0
"""How long to wait until every worker has trained an epoch."""


@dataclass(frozen=True)
class Rate:
    """What some workers do together: training patches a second, validation after each epoch counted in."""

    n_workers: int
    patches_per_s: float


@dataclass(frozen=True)
class Sharing:
    """A device's rates, and how many workers they speak for."""

    device: str
    rates: tuple[Rate, ...]
    n_workers: int


def workers_that_pay_off(space: Workspace, config: Config, say: Callable[[str], None]) -> int:
    """One worker for each CPU; on a GPU as many as were measured to pay off, now or by an earlier command.

    Raises:
        MammoError: not even one worker could train.
    """
    device = choose_device(config.train.device)
    if device.type == "cpu":
        return usable_cpus()
    kept = kept_sharing(space, config)
    if kept is None:
        say(f"measuring how many workers pay off on {device_name(device)}, once …")
        kept = measure_sharing(space, config)
    say(f"{kept.n_workers} workers pay off on {kept.device} (`mammo tune measure`)")
    return kept.n_workers


def measure_sharing(
    space: Workspace,
    config: Config,
    most: int | None = None,
    probe_s: float = PROBE_S,
    say: Callable[[Rate], None] | None = None,
) -> Sharing:
    """Let 1, 2, 4, … workers train at once until more of them bring nothing, and keep the result.

    Args:
        space: a workspace whose stages up to `split` have run.
        config: all settings.
        most: the most workers to try; None: one for each CPU, because each keeps one busy.
        probe_s: seconds for each number of workers.
        say: told each rate.

    Raises:
        MammoError: not even one worker could train.
    """
    rates: list[Rate] = []
    for n_workers in _counts(most or usable_cpus()):
        rate = _together(space.root, config, n_workers, probe_s)
        if rate is None:
            break
        rates.append(rate)
        if say is not None:
            say(rate)
        if len(rates) > 1 and rate.patches_per_s < LEAST_GAIN * rates[-2].patches_per_s:
            break
    if not rates:
        raise MammoError(
            "mammo tune measure: one worker must be able to train, but it ended without a result (its message stands "
            "above; out of memory?); lower the recipe's batch_size"
        )
    found = Sharing(device_name(choose_device(config.train.device)), tuple(rates), best_count(rates))
    write_json(_path(space), {**_read(space), _key(config): asdict(found)})
    return found


def best_count(rates: Sequence[Rate]) -> int:
    """The fewest workers whose rate is nearly the best."""
    best = max(rate.patches_per_s for rate in rates)
    return min(rate.n_workers for rate in rates if rate.patches_per_s >= ENOUGH * best)


def kept_sharing(space: Workspace, config: Config) -> Sharing | None:
    """What was measured on this device with these settings; None where nothing was."""
    found = _read(space).get(_key(config))
    if found is None:
        return None
    return Sharing(found["device"], tuple(Rate(**rate) for rate in found["rates"]), found["n_workers"])


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _counts(most: int) -> Iterator[int]:
    n_workers = 1
    while n_workers < most:
        yield n_workers
        n_workers *= 2
    yield most


def _path(space: Workspace) -> Path:
    return space.root / ".cache" / "tune" / "sharing.json"


def _read(space: Workspace) -> dict[str, Any]:
    return dict(read_json(_path(space))) if _path(space).is_file() else {}


def _key(config: Config) -> str:
    """What a rate depends on beside the machine's other work."""
    system, settings = _probed(config)
    return fingerprint(
        [
            device_name(choose_device(config.train.device)),
            torch.__version__,
            system,
            settings.model.model_dump(),
            settings.recipe.model_dump(),
            settings.patches.size_px,
            settings.train.precision,
        ]
    )


def _probed(config: Config) -> tuple[str, Config]:
    """A trial as the study would fit it: the settings of `params.yaml`, or the first value of every range."""
    own = own_params(config)
    return base_settings(config) if own is None else trial_settings(config, own)


def _together(root: Path, config: Config, n_workers: int, probe_s: float) -> Rate | None:
    """Train in `n_workers` processes at once; None if one of them could not (too little memory, say)."""
    context = worker_context()
    start, results = context.Barrier(n_workers), context.SimpleQueue()
    workers = [
        context.Process(target=_probe, args=(root, config, start, results, probe_s)) for _ in range(n_workers)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join()
    found = [results.get() for worker in workers if not results.empty()]
    return Rate(n_workers, sum(found)) if len(found) == n_workers else None


class _EnoughError(Exception):
    """The time of a probe is over."""


def _probe(
    root: Path,
    config: Config,
    start: Barrier,
    results: "multiprocessing.SimpleQueue[float]",
    probe_s: float,
) -> None:
    """The body of a worker: an epoch to warm up, then, with all others, epochs until the time is over."""
    torch.set_num_threads(1)
    try:
        _train_for(root, config, start, results, probe_s)
    except BrokenBarrierError:
        return  # another worker has failed, and said why
    except BaseException:
        start.abort()
        raise


def _train_for(
    root: Path,
    config: Config,
    start: Barrier,
    results: "multiprocessing.SimpleQueue[float]",
    probe_s: float,
) -> None:
    material = read_trial_rois(Workspace(root), config)
    system, settings = _probed(config)
    recipe = settings.recipe.model_copy(update={"epochs": 1_000_000, "schedule": "constant"})
    settings = settings.model_copy(update={"recipes": {**settings.recipes, TUNED: recipe}})
    fold, seed = material.folds[0], config.tune.seed
    train, val = training_data(material, fold.train, settings.patches), judging_data(material, fold.val)
    began = 0.0

    def after_epoch(record: EpochRecord) -> None:
        nonlocal began
        if record.epoch == 0:
            start.wait(START_S)
            began = perf_counter()
        elif perf_counter() - began >= probe_s:
            n_patches = record.epoch * config.tune.patches_per_epoch
            results.put(n_patches / (perf_counter() - began))
            raise _EnoughError

    classifier = build_classifier(system, settings.model, seed)
    try:
        fit(classifier, train, val, recipe, fit_settings(settings, seed), on_epoch=after_epoch)
    except _EnoughError:
        return
