"""A fit is repeatable to the bit, goes on after a kill as if nothing had happened, and keeps its best epoch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mammo.core.config import RecipeConfig
from mammo.systems.fit import EpochRecord, FitState, PatchData, fit
from tests.tiny_fits import (
    FROZEN,
    SETTINGS,
    SGD,
    differing,
    new_classifier,
    recipe,
    weights_of,
    without_speed,
)


def script_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let the epochs' validation losses be these."""
    remaining = iter(losses)
    monkeypatch.setattr("mammo.systems.fit._validate", lambda *_: (next(remaining), 0.5, 0.5))


@pytest.mark.parametrize("changes", [{}, SGD])
def test_two_fits_of_one_seed_are_bit_identical(
    train: PatchData, val: PatchData, changes: dict[str, Any]
) -> None:
    first, second = new_classifier(dropout=0.3), new_classifier(dropout=0.3)

    history = fit(first, train, val, recipe(**changes), SETTINGS)
    torch.rand(7)  # what others draw from the global generator changes nothing
    again = fit(second, train, val, recipe(**changes), SETTINGS)

    assert without_speed(again) == without_speed(history)
    assert differing(weights_of(first), weights_of(second)) == []


def test_another_seed_gives_another_fit(train: PatchData, val: PatchData) -> None:
    first, second = new_classifier(), new_classifier()

    history = fit(first, train, val, recipe(epochs=1), SETTINGS)
    other = fit(second, train, val, recipe(epochs=1), replace(SETTINGS, seed=4))

    assert history[0].train_loss != other[0].train_loss


class StoppedError(Exception):
    """The process dies."""


def fit_until(epoch: int, checkpoint: Path, train: PatchData, val: PatchData, chosen: RecipeConfig) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(new_classifier(0.3), train, val, chosen, SETTINGS, checkpoint, "abc", on_epoch=stop)


@pytest.mark.parametrize("changes", [{}, SGD, {**SGD, "momentum": 0.0}, FROZEN])
@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_stopped_and_resumed_fit_equals_an_undisturbed_one(
    tmp_path: Path, train: PatchData, val: PatchData, changes: dict[str, Any], stop_after: int
) -> None:
    chosen = recipe(**changes)
    undisturbed = new_classifier(dropout=0.3)
    expected = fit(undisturbed, train, val, chosen, SETTINGS)
    fit_until(stop_after, tmp_path / "fit.safetensors", train, val, chosen)
    resumed = new_classifier(dropout=0.3, seed=99)
    new: list[int] = []

    history = fit(
        resumed,
        train,
        val,
        chosen,
        SETTINGS,
        tmp_path / "fit.safetensors",
        "abc",
        on_epoch=lambda record: new.append(record.epoch),
    )

    assert new == list(range(stop_after + 1, 4))
    assert without_speed(history) == without_speed(expected)
    assert differing(weights_of(resumed), weights_of(undisturbed)) == []


def test_a_finished_fit_is_not_run_again(tmp_path: Path, train: PatchData, val: PatchData) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    first, second = new_classifier(), new_classifier(seed=99)
    history = fit(first, train, val, recipe(), SETTINGS, checkpoint, "abc")
    new: list[EpochRecord] = []

    again = fit(second, train, val, recipe(), SETTINGS, checkpoint, "abc", on_epoch=new.append)

    assert new == []
    assert again == history
    assert differing(weights_of(first), weights_of(second)) == []


@pytest.mark.parametrize("changes", [{}, SGD])
def test_a_resumed_optimiser_lies_in_memory_as_its_parameters_do(
    train: PatchData,
    val: PatchData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    fit_until(1, checkpoint, train, val, recipe(**changes))
    resumed: list[FitState] = []

    def finished(state: FitState, _: RecipeConfig) -> bool:
        resumed.append(state)
        return True

    monkeypatch.setattr("mammo.systems.fit._finished", finished)

    fit(new_classifier(0.3), train, val, recipe(**changes), SETTINGS, checkpoint, "abc")

    for parameter, entries in resumed[0].optimizer.state.items():
        kept = [value for value in entries.values() if value.shape == parameter.shape]
        assert kept
        assert all(value.stride() == parameter.stride() for value in kept)


def test_a_checkpoint_of_another_fingerprint_is_started_anew(
    tmp_path: Path, train: PatchData, val: PatchData
) -> None:
    fit_until(1, tmp_path / "fit.safetensors", train, val, recipe())
    classifier, undisturbed = new_classifier(), new_classifier()
    expected = fit(undisturbed, train, val, recipe(), SETTINGS)

    history = fit(classifier, train, val, recipe(), SETTINGS, tmp_path / "fit.safetensors", "other")

    assert without_speed(history) == without_speed(expected)
    assert differing(weights_of(classifier), weights_of(undisturbed)) == []


def test_a_fit_stops_after_patience_epochs_without_a_better_loss(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 0.5, 0.6, 0.5, 0.1)

    history = fit(new_classifier(), train, val, recipe(epochs=9, patience=2), SETTINGS)

    assert [record.val_loss for record in history] == [0.9, 0.5, 0.6, 0.5]


def test_a_better_loss_starts_patience_anew(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 1.0, 0.8, 1.0, 0.7, 1.0, 1.0)

    history = fit(new_classifier(), train, val, recipe(epochs=9, patience=2), SETTINGS)

    assert len(history) == 7


def test_without_patience_every_epoch_is_run(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.1, 0.2, 0.3, 0.4, 0.5)

    assert len(fit(new_classifier(), train, val, recipe(epochs=5), SETTINGS)) == 5


def test_a_fit_that_stopped_early_is_not_gone_on_with(
    tmp_path: Path, train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(epochs=9, patience=1)
    script_losses(monkeypatch, 0.5, 0.6)
    fit(new_classifier(), train, val, chosen, SETTINGS, tmp_path / "fit.safetensors")

    history = fit(new_classifier(), train, val, chosen, SETTINGS, tmp_path / "fit.safetensors")

    assert len(history) == 2


def test_the_weights_of_the_best_epoch_are_kept(
    train: PatchData, val: PatchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, 0.9, 0.5, 0.5, 0.8)
    classifier = new_classifier()
    after_epoch: list[dict[str, Tensor]] = []

    fit(
        classifier,
        train,
        val,
        recipe(),
        SETTINGS,
        on_epoch=lambda _: after_epoch.append(weights_of(classifier)),
    )

    kept = weights_of(classifier)
    assert differing(kept, after_epoch[1]) == []
    assert all(differing(kept, after_epoch[other]) for other in (0, 2, 3))
    assert not classifier.training
