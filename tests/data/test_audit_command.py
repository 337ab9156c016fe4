"""`mammo audit` as people and programs call it, on an archive with one planted leak."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mammo import cli
from mammo.core.files import Workspace
from tests.data.pictures import Picture, encoded

PARAMS = Path(__file__).parents[2] / "params.yaml"
DX_PX, DY_PX = 37, -12
"""Where the test ROI's pixels lie in the training ROI's frame."""


def tissue(seed: int) -> Picture:
    """A patch of film larger than a ROI: smooth structures under grain."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(0, 1, (200, 200)), 6) * 400
    film: Picture = np.clip(120 + smooth + rng.normal(0, 6, (200, 200)), 1, 255).astype(np.uint8)
    return film


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the archive alone: no stage has run."""
    root = tmp_path_factory.mktemp("audited")
    shared = tissue(1)
    members = {"train/Tumor (1)": shared[40:160, 20:140]}
    members["test/Tumor (1)"] = shared[40 + DY_PX : 160 + DY_PX, 20 + DX_PX : 140 + DX_PX]
    others = ("train/Normal (1)", "train/Normal (2)", "val/Normal (1)", "val/Tumor (1)", "test/Normal (1)")
    members |= {name: tissue(seed)[:120, :120] for seed, name in enumerate(others, start=2)}
    path = root / "data" / "raw" / "MIAS_ROIs.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in members.items():
            archive.writestr(f"MIAS_ROIs/{name}.png", encoded(image))
    (root / "params.yaml").write_text(PARAMS.read_text())
    return Workspace(root)


def audit(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["mammo", "audit", *options, "--workspace", str(space.root)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    assert not left.value.code, shown.err
    return shown.out


def test_the_json_is_a_list_with_one_object_for_each_pair_and_nothing_is_written(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(space.root.rglob("*"))
    pairs = json.loads(audit(space, monkeypatch, capsys, "--json"))

    assert sorted(space.root.rglob("*")) == before
    assert pairs == [
        {
            "a": "train/Tumor (1)",
            "b": "test/Tumor (1)",
            "split_a": "train",
            "split_b": "test",
            "kind": "shifted",
            "dx_px": DX_PX,
            "dy_px": DY_PX,
            "overlap_px": (120 - abs(DX_PX)) * (120 - abs(DY_PX)),
            "mad": 0.0,
        }
    ]


def test_people_see_the_pair_and_what_it_means(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(audit(space, monkeypatch, capsys).split())

    assert "1 pair of 7 ROIs shares tissue" in shown
    assert "1 pair across parts, 1 test ROI whose tissue train or val shows" in shown
