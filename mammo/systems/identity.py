"""What a fit depends on beside its settings and its data: device, library, pretrained weights, code."""

import ast
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from mammo.core.config import Config
from mammo.core.files import sha256_of
from mammo.core.provenance import fingerprint
from mammo.systems.devices import choose_device, computes_bfloat16, hardware

FIT_CODE: Final = (
    "data/patches.py",
    "evaluation/metrics.py",
    "models",
    "studies/fits.py",
    "systems/augment.py",
    "systems/devices.py",
    "systems/fit.py",
    "systems/parallel.py",
    "systems/score.py",
    "systems/train.py",
)
"""Modules whose code a fit depends on, within the package."""


def computed_with(config: Config) -> dict[str, Any]:
    """Plain values that differ where the same settings and data may give other weights.

    Raises:
        ConfigError: the device does not exist.
    """
    device, weights = choose_device(config.train.device), Path(config.model.weights)
    return {
        "device": [device.type, hardware(device)],
        "precision": [config.train.precision, computes_bfloat16(device)],
        "torch": torch.__version__,
        "weights": sha256_of(weights) if weights.is_file() else None,
        "code": code_mark(),
    }


@cache
def code_mark() -> str:
    """A hash of the syntax trees of `FIT_CODE`: comments, docstrings and layout do not change it."""
    package = Path(__file__).parents[1]
    paths = [path for name in FIT_CODE for path in _modules(package / name)]
    return fingerprint([syntax_of(path.read_text()) for path in paths])


def _modules(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def syntax_of(source: str) -> str:
    """What Python makes of a module, without its comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line)]
            node.body = kept  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
