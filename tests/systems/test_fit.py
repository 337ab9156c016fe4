"""A fit is repeatable to the bit, goes on after a kill as if nothing had happened, and keeps its best epoch."""

from collections.abc import Callable
from dataclasses import replace
from os import truncate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from mammo.core.config import RecipeConfig
from mammo.systems.fit import EpochRecord, FitState, fit, load_checkpoint
from tests.tiny_fits import (
    FROZEN,
    SETTINGS,
    SGD,
    TRAIN,
    VAL,
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
def test_two_fits_of_one_seed_are_bit_identical_and_those_of_another_seed_differ(
    changes: dict[str, Any],
) -> None:
    first, second = new_classifier(dropout=0.3), new_classifier(dropout=0.3)
    history = fit(first, TRAIN, VAL, recipe(**changes), SETTINGS)
    torch.rand(7)  # what others draw from the global generator changes nothing
    again = fit(second, TRAIN, VAL, recipe(**changes), SETTINGS)
    assert without_speed(again) == without_speed(history)
    assert differing(weights_of(first), weights_of(second)) == []
    (other,) = fit(second, TRAIN, VAL, recipe(**changes, epochs=1), replace(SETTINGS, seed=4))
    assert other.train_loss != history[0].train_loss


class StoppedError(Exception):
    """The process dies."""


def fit_until(epoch: int, checkpoint: Path, chosen: RecipeConfig) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(new_classifier(0.3), TRAIN, VAL, chosen, SETTINGS, checkpoint, "abc", on_epoch=stop)


@pytest.mark.parametrize("changes", [{}, SGD, {**SGD, "momentum": 0.0}, FROZEN])
@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_stopped_and_resumed_fit_equals_an_undisturbed_one_and_is_not_run_again(
    tmp_path: Path, changes: dict[str, Any], stop_after: int
) -> None:
    chosen, checkpoint = recipe(**changes), tmp_path / "fit.pt"
    undisturbed = new_classifier(dropout=0.3)
    expected = fit(undisturbed, TRAIN, VAL, chosen, SETTINGS)
    fit_until(stop_after, checkpoint, chosen)
    for epochs in ([*range(stop_after + 1, 4)], []):
        resumed = new_classifier(dropout=0.3, seed=99)
        new: list[EpochRecord] = []
        history = fit(resumed, TRAIN, VAL, chosen, SETTINGS, checkpoint, "abc", on_epoch=new.append)
        assert [record.epoch for record in new] == epochs
        assert without_speed(history) == without_speed(expected)
        assert differing(weights_of(resumed), weights_of(undisturbed)) == []


SHARES = (0.0, 0.0001, 0.05, 0.5, 0.99)


def new_state() -> FitState:
    classifier = new_classifier()
    return FitState(classifier, AdamW(classifier.parameters()), [], -1, {})


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a fit that stopped after two epochs."""
    checkpoint = tmp_path_factory.mktemp("unfinished") / "fit.pt"
    fit_until(1, checkpoint, recipe())
    return checkpoint.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: torch.save({"weight": torch.ones(2)}, path),
        lambda path: torch.save(torch.load(path, weights_only=True) | {"fingerprint": "other"}, path),
        lambda path: torch.save({"fingerprint": "abc", "history": Path("/")}, path),
        *(lambda path, s=share: truncate(path, int(s * path.stat().st_size)) for share in SHARES),
        lambda path: path.write_text("no checkpoint"),
        lambda path: path.write_bytes(b"\x80\x02e."),  # a pickle that needs what nobody has put there
    ],
)
def test_a_checkpoint_that_is_not_this_fits_or_broken_is_started_anew(
    tmp_path: Path, unfinished: bytes, damage: Callable[[Path], object]
) -> None:
    checkpoint = tmp_path / "fit.pt"
    checkpoint.write_bytes(unfinished)
    damage(checkpoint)
    state = new_state()
    before = weights_of(state.classifier)
    load_checkpoint(checkpoint, state, "abc")
    assert (state.history, state.best_epoch, state.best_weights) == ([], -1, {})
    assert differing(weights_of(state.classifier), before) == []
    assert not state.optimizer.state


@pytest.mark.parametrize(
    ("losses", "epochs", "patience", "n_run"),
    [
        pytest.param([0.9, 0.5, 0.6, 0.5, 0.1], 9, 2, 4, id="patience epochs without a better loss"),
        pytest.param([0.9, 1.0, 0.8, 1.0, 0.7, 1.0, 1.0], 9, 2, 7, id="a better loss starts patience anew"),
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.5], 5, None, 5, id="without patience every epoch"),
    ],
)
def test_a_fit_stops_when_patience_is_spent_and_is_not_gone_on_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    epochs: int,
    patience: int | None,
    n_run: int,
) -> None:
    script_losses(monkeypatch, *losses)
    for _ in range(2):
        chosen = recipe(epochs=epochs, patience=patience)
        history = fit(new_classifier(), TRAIN, VAL, chosen, SETTINGS, tmp_path / "fit.pt")
        assert [record.val_loss for record in history] == losses[:n_run]


def test_the_weights_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    script_losses(monkeypatch, 0.9, 0.5, 0.5, 0.8)
    classifier, after = new_classifier(), list[dict[str, Tensor]]()
    fit(classifier, TRAIN, VAL, recipe(), SETTINGS, on_epoch=lambda _: after.append(weights_of(classifier)))
    kept = weights_of(classifier)
    assert differing(kept, after[1]) == []
    assert all(differing(kept, after[other]) for other in (0, 2, 3))
    assert not classifier.training
