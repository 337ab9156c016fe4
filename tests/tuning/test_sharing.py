"""How many workers share a device: measured by real processes, kept for the device and the settings."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, read_json
from mammo.core.processes import usable_cpus
from mammo.tuning import sharing
from mammo.tuning.sharing import (
    Rate,
    Sharing,
    best_count,
    kept_sharing,
    measure_sharing,
    workers_that_pay_off,
)


def rates(*per_s: float) -> list[Rate]:
    return [Rate(2**k, value) for k, value in enumerate(per_s)]


def test_workers_that_add_little_are_not_taken() -> None:
    assert best_count(rates(1000)) == 1
    assert best_count(rates(1000, 1900, 3000, 3050)) == 4
    assert best_count(rates(1000, 1030)) == 1
    assert best_count(rates(1000, 1900, 900)) == 2  # they hinder each other


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=6))
def test_what_is_taken_does_nearly_the_best(per_s: list[float]) -> None:
    found = rates(*per_s)
    taken = next(rate for rate in found if rate.n_workers == best_count(found))
    assert taken.patches_per_s >= 0.95 * max(per_s)


@pytest.mark.slow
def test_processes_train_at_once_and_the_result_is_kept(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    assert kept_sharing(space, config) is None
    told: list[Rate] = []
    found = measure_sharing(space, config, most=2, probe_s=0.2, say=told.append)
    assert [rate.n_workers for rate in found.rates] == [1, 2]
    assert told == list(found.rates)
    assert all(rate.patches_per_s > 0 for rate in found.rates)
    assert found.n_workers == best_count(found.rates)
    assert kept_sharing(space, config) == found
    wider = config.model.model_copy(update={"head_units": 16})
    assert kept_sharing(space, config.model_copy(update={"model": wider})) is None


@pytest.mark.slow
def test_a_device_that_cannot_train_is_an_error_not_a_number(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    space.split.unlink()  # the workers find nothing to train on
    with pytest.raises(MammoError, match="one worker must be able to train"):
        measure_sharing(space, config, most=2, probe_s=0.2)
    assert not (space.root / ".cache" / "tune" / "sharing.json").exists()


def test_a_cpu_gets_a_worker_for_each_core_without_measuring(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    said: list[str] = []
    assert workers_that_pay_off(space, config, said.append) == usable_cpus()
    assert said == []


def test_a_gpu_is_measured_once(workspace: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    space, config = workspace
    monkeypatch.setattr(sharing, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    calls: list[int] = []

    def together(root: Path, config: Config, n_workers: int, probe_s: float) -> Rate | None:
        calls.append(n_workers)
        return Rate(n_workers, 100.0 * min(n_workers, 4)) if n_workers < 16 else None

    monkeypatch.setattr(sharing, "_together", together)
    monkeypatch.setattr(sharing, "usable_cpus", lambda: 64)
    said: list[str] = []
    assert workers_that_pay_off(space, config, said.append) == 4
    assert calls == [1, 2, 4, 8]  # twice as many bring nothing: no further doubling
    assert workers_that_pay_off(space, config, said.append) == 4
    assert calls == [1, 2, 4, 8]
    assert "4 workers pay off on a GPU" in said[-1]
    kept = read_json(space.root / ".cache" / "tune" / "sharing.json")
    assert [entry["n_workers"] for entry in kept.values()] == [4]
    assert kept_sharing(space, config) == Sharing("a GPU", tuple(rates(100, 200, 400, 400)), 4)
