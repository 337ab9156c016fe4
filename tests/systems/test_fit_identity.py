"""What changes a fit changes its identity, so that no checkpoint and no kept fit of another is used."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mammo.core.config import Config
from mammo.core.provenance import syntax_of
from mammo.data.rois import Rois
from mammo.systems import devices
from mammo.systems.train import FIT_CODE, computed_with, run_fingerprint
from tests.tiny_fits import tiny_config

PatchSets = dict[str, pd.DataFrame]


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"train__epochs": 3}, True),
        ({"train__head_lr": 0.5}, True),
        ({"train__precision": "bfloat16"}, True),
        ({"train__threads": 2}, True),
        ({"model__head_units": 9}, True),
        ({"model__preprocessing": "fixed_scale"}, True),
        ({"patches__stride_px": 20}, True),
        ({"vote__rule": "majority", "evaluate__seed": 7}, False),
    ],
)
def test_settings_that_change_a_fit_change_its_fingerprint_and_those_that_judge_it_do_not(
    change: dict[str, Any], changes: bool, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    def of(config: Config) -> str:
        return run_fingerprint("compact-model2", config, 0, parts["train"], parts["val"], patch_sets)

    assert (of(tiny_config(**change)) != of(tiny_config())) == changes


def test_system_seed_pixels_labels_patches_and_weights_are_in_the_fingerprint(
    tmp_path: Path, parts: dict[str, Rois], patch_sets: PatchSets
) -> None:
    train, val, patches = parts["train"], parts["val"], patch_sets["val"]
    brighter = train.images.copy()
    brighter[0, 0, 0] ^= 1
    relabelled = train.table.assign(label=train.table["label"].to_numpy()[::-1])
    moved = {**patch_sets, "val": patches.assign(top_px=patches["top_px"].to_numpy()[::-1])}
    path = tmp_path / "backbone.pt"
    config = tiny_config(model__weights=str(path))
    path.write_bytes(b"one")
    fingerprints = {
        run_fingerprint("compact-model2", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model1", config, 0, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 1, train, val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, images=brighter), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, replace(train, table=relabelled), val, patch_sets),
        run_fingerprint("compact-model2", config, 0, train, val, moved),
    }
    path.write_bytes(b"two")
    fingerprints.add(run_fingerprint("compact-model2", config, 0, train, val, patch_sets))
    assert len(fingerprints) == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mammo.systems.train.hardware", lambda device: "another processor"),
        ("mammo.systems.train.computes_bfloat16", lambda device: "neither true nor false"),
        ("mammo.systems.train.code_mark", lambda names: "other code"),
        ("mammo.systems.train.choose_device", lambda name: torch.device("meta")),
        ("torch.__version__", "99.0"),
    ],
)
def test_another_processor_library_or_code_is_another_fit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = computed_with(tiny_config())
    monkeypatch.setattr(name, value)
    assert computed_with(tiny_config()) != before


VALUES_ALONE = {"core", "data/rois.py", "data/splits.py", "evaluation", "studies/__init__.py"}
"""What a fit imports and does not depend on: files and settings, whose values are hashed, and how ROIs are judged."""


def test_every_module_that_a_fit_imports_is_in_its_mark_or_known_not_to_matter() -> None:
    script = "import sys, mammo.studies.fits; print(*(m.__file__ for n, m in sys.modules.items() if n[:6] == 'mammo.'))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    package = Path(devices.__file__).parents[1]
    imported = {str(Path(path).relative_to(package)) for path in shown.stdout.split()}
    known = (*FIT_CODE, *VALUES_ALONE)
    assert "systems/fit.py" in imported
    assert not [name for name in imported if not name.startswith(known) and not name.endswith("__init__.py")]


def test_comments_docstrings_and_layout_do_not_change_the_code_but_a_number_does() -> None:
    plain = "def f(x):\n    return x + 1\n"
    dressed = '"""A module."""\n\ndef f(x):\n    """Add one."""\n    # so\n    return (x\n    + 1)\n'
    assert syntax_of(dressed) == syntax_of(plain)
    assert syntax_of(plain.replace("1", "2")) != syntax_of(plain)
