"""What a fit depends on beside settings and data changes the identity of a fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mammo.core.config import Config
from mammo.systems import identity as fit_identity
from mammo.systems.identity import computed_with, syntax_of

PARAMS = Path(__file__).parents[1] / "params.yaml"


def config(**sections: dict[str, Any]) -> Config:
    settings = Config.load_own(PARAMS).model_dump(by_alias=True)
    for name, changes in sections.items():
        settings[name] |= changes
    return Config.parse(settings)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_other_pretrained_weights_under_the_same_name_are_another_fit(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pt"
    path.write_bytes(b"one")
    first = computed_with(config(model={"weights": str(path)}))
    path.write_bytes(b"two")
    assert computed_with(config(model={"weights": str(path)})) != first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hardware", lambda device: "another processor"),
        ("computes_bfloat16", lambda device: "neither true nor false"),
        ("code_mark", lambda: "other code"),
        ("choose_device", lambda name: torch.device("meta")),
    ],
)
def test_another_processor_or_code_is_another_fit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = computed_with(config())
    monkeypatch.setattr(fit_identity, name, value)
    assert computed_with(config()) != before


def test_another_torch_is_another_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = computed_with(config())
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert computed_with(config()) != before


def test_comments_docstrings_and_layout_do_not_change_the_code_but_a_number_does() -> None:
    plain = "def f(x):\n    return x + 1\n"
    dressed = (
        '"""A module."""\n\ndef f(x):\n    """Add one."""\n    # as asked\n    return (x\n            + 1)\n'
    )
    assert syntax_of(dressed) == syntax_of(plain)
    assert syntax_of(plain.replace("1", "2")) != syntax_of(plain)
