"""The leakage audit on the published archive, and `mammo audit` on one with a planted leak."""

import json
import shutil
import zipfile
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mammo import cli
from mammo.core.files import Workspace
from mammo.data.audit import find_pairs, leakage_summary, with_parts
from mammo.data.rois import Rois
from tests.data.pictures import Picture, encoded, noise
from tests.settings import PARAMS


def pairs_that_share_a_window(images: Picture, side: int = 12) -> set[tuple[int, int]]:
    """Brute force: pairs of images in which the same textured window occurs, pixel by pixel."""
    key = np.random.default_rng(0).integers(1, 2**63, (side, side), dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    owners: dict[int, set[int]] = {}
    for row, of_image in enumerate(windows):
        textured = of_image.std(axis=(2, 3)) > 2
        for value in (of_image[textured].astype(np.uint64) * key).sum(axis=(1, 2)).tolist():
            owners.setdefault(value, set()).add(row)
    return {both for rows in owners.values() if len(rows) > 1 for both in combinations(sorted(rows), 2)}


def placed(rois: Rois) -> pd.DataFrame:
    return rois.table.assign(split=rois.table["published_split"])


@pytest.fixture(scope="module")
def published(real_rois: Rois) -> pd.DataFrame:
    """The pairs of the published archive; the search takes about a minute."""
    return with_parts(find_pairs(real_rois.table, real_rois.images), placed(real_rois))


@pytest.mark.real
@pytest.mark.slow
def test_the_published_archive_leaks_in_three_of_its_five_pairs(real_rois: Rois, published: pd.DataFrame) -> None:
    assert published["mad"].max() < 0.01
    summary = leakage_summary(published, placed(real_rois))
    assert summary["pairs_by_kind"] == {"shifted": 4, "stretched": 1}
    assert summary["pairs_by_parts"] == {"test-train": 3, "train-train": 2}
    shifted = published[published["kind"] == "shifted"]
    row_of = {roi_id: row for row, roi_id in enumerate(real_rois.table["roi_id"])}
    rows = [sorted((row_of[a], row_of[b])) for a, b in zip(shifted["a"], shifted["b"], strict=True)]
    assert pairs_that_share_a_window(real_rois.images) == {(a, b) for a, b in rows}


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
