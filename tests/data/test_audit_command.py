"""`mammo audit` as people and programs call it, on an archive with one planted leak."""

import json
import shutil
import zipfile

import pytest
from typer.testing import CliRunner

from mammo import cli
from mammo.core.files import Workspace
from tests.data.pictures import encoded, noise
from tests.settings import PARAMS

DX_PX, DY_PX = 37, -12
"""Where the test ROI's pixels lie in the training ROI's frame."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the archive alone: no stage has run."""
    workspace = Workspace(tmp_path_factory.mktemp("audited"))
    shared = noise(1, 200)
    members = {"train/Tumor (1)": shared[40:160, 20:140]}
    members["test/Tumor (1)"] = shared[40 + DY_PX : 160 + DY_PX, 20 + DX_PX : 140 + DX_PX]
    others = ("train/Normal (1)", "train/Normal (2)", "val/Normal (1)", "val/Tumor (1)", "test/Normal (1)")
    members |= {name: noise(seed) for seed, name in enumerate(others, start=2)}
    path = workspace.raw("mias_rois") / "MIAS_ROIs.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in members.items():
            archive.writestr(f"MIAS_ROIs/{name}.png", encoded(image))
    shutil.copy(PARAMS, workspace.root)
    return workspace


def test_the_json_is_a_list_with_one_object_for_each_pair_and_nothing_is_written(
    workspace: Workspace,
) -> None:
    before = sorted(workspace.root.rglob("*"))
    shown = CliRunner().invoke(cli.app, ["audit", "--json", "--workspace", str(workspace.root)])
    assert sorted(workspace.root.rglob("*")) == before
    assert json.loads(shown.stdout) == [
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


def test_people_see_the_pair_and_what_it_means(workspace: Workspace) -> None:
    run = CliRunner().invoke(cli.app, ["audit", "--workspace", str(workspace.root)])
    shown = " ".join(run.stdout.split())
    assert "1 pair of 7 ROIs shares tissue" in shown
    assert "1 pair across parts, 1 test ROI whose tissue train or val shows" in shown
