"""ROIs in one container: groups, parts and some of them; on disk table and images agree, or reading fails."""

import errno
import hashlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import IngestConfig, SourceName
from mammo.core.errors import DataError
from mammo.core.files import Workspace, write_table
from mammo.core.records import ROI_SCHEMA, SPLITS
from mammo.data.rois import Rois, load_rois, make_roi_set, read_rois, write_rois
from mammo.data.splits import development_rois, read_parts
from tests.data.pictures import noise
from tests.disc_rois import dealt_split
from tests.settings import section


@pytest.fixture(scope="module")
def split(disc_set: Rois) -> pd.DataFrame:
    return dealt_split(disc_set)


def ids(rois: Rois) -> list[str]:
    return rois.table["roi_id"].tolist()


def small_set(seed: int = 0) -> Rois:
    known = [{"source": "mias_rois", "label": number % 2, "synthetic": False} for number in range(3)]
    rows = [{"roi_id": f"roi {number}", **row} for number, row in enumerate(known)]
    return make_roi_set(rows, [noise(seed + number) for number in range(3)])


@pytest.mark.parametrize("seed", [None, 0])
def test_a_part_holds_its_rois_their_pixels_and_groups_whatever_the_order_of_the_split(
    disc_set: Rois, split: pd.DataFrame, seed: int | None
) -> None:
    rows = split if seed is None else split.sample(frac=1, random_state=seed)
    whole = disc_set.with_split(rows)
    for offset, name in enumerate(SPLITS):
        part = whole.part(name)
        assert part.name == name
        assert ids(part) == ids(disc_set)[offset::3]
        assert np.array_equal(part.images, disc_set.images[offset::3])
        assert part.labels.tolist() == disc_set.table["label"].tolist()[offset::3]
        assert part.groups.tolist() == [f"group{row // 2}" for row in range(18)][offset::3]


def test_another_split_takes_the_place_of_the_first(disc_set: Rois, split: pd.DataFrame) -> None:
    swapped = split.assign(group_id="all", split=split["split"].replace({"train": "test", "test": "train"}))
    again = disc_set.with_split(split).with_split(swapped)
    assert ids(again.part("test")) == ids(disc_set)[::3]
    assert set(again.groups) == {"all"}


@pytest.mark.parametrize("rows", [slice(1, None), [*range(18), 0]])
def test_a_split_that_does_not_name_each_roi_once_is_refused(
    disc_set: Rois, split: pd.DataFrame, rows: slice | list[int]
) -> None:
    with pytest.raises(DataError, match=r"must name each ROI of the table exactly once.* for 18 ROIs; run"):
        disc_set.with_split(split.iloc[rows])


def test_some_rois_are_named_by_ids_or_by_a_mask_and_keep_their_order(disc_set: Rois) -> None:
    wanted = [ids(disc_set)[row] for row in (7, 2)]
    mask = np.isin(np.arange(18), [2, 7])
    for some in (disc_set.only(wanted), disc_set.only(mask)):
        assert ids(some) == wanted[::-1]
        assert some.table.index.tolist() == [0, 1]
        assert np.array_equal(some.images, disc_set.images[[2, 7]])


def test_a_description_counts_classes_and_groups(disc_set: Rois, split: pd.DataFrame) -> None:
    assert disc_set.with_split(split).describe() == {
        "name": "PHANTOM (synthetic) ROIs, patients unknown",
        "source": "disc",
        "synthetic": True,
        "n_patients": None,
        "n_rois": 18,
        "n_tumor": 8,
        "n_normal": 10,
        "n_groups": 9,
    }


def test_a_workspace_gives_its_rois_in_parts_and_development_none_of_the_test_part(
    tmp_path: Path, disc_set: Rois, split: pd.DataFrame
) -> None:
    workspace = Workspace(tmp_path)
    write_rois(disc_set, workspace.rois)
    with pytest.raises(DataError, match=r"split\.parquet: does not exist; run `dvc repro`"):
        read_parts(workspace)
    write_table(workspace.split, split)
    everything, seen = read_parts(workspace), development_rois(workspace)
    assert ids(everything.part("test")) == ids(disc_set)[2::3]
    assert ids(seen) == [roi for row, roi in enumerate(ids(disc_set)) if row % 3 != 2]
    assert np.array_equal(seen.images, np.delete(disc_set.images, range(2, 18, 3), axis=0))
    assert seen.groups.tolist() == [f"group{row // 2}" for row in range(18) if row % 3 != 2]


def test_a_roi_set_has_the_schema_and_the_hash_of_each_rois_pixels() -> None:
    rois = small_set()
    assert {name: str(kind) for name, kind in rois.table.dtypes.items()} == ROI_SCHEMA
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in rois.images]
    assert rois.table["sha256"].to_list() == hashes
    assert rois.table[["film_id", "x_px", "published_split"]].isna().all(axis=None)


def test_a_source_without_rois_is_refused() -> None:
    with pytest.raises(DataError, match="at least one ROI, got none"):
        make_roi_set([], [])


def test_what_is_written_is_read_again_and_the_same_rois_give_the_same_bytes(tmp_path: Path) -> None:
    rois = small_set()
    for name in ("one", "two"):
        write_rois(rois, tmp_path / name)
    read = read_rois(tmp_path / "one")
    assert read.table.equals(rois.table)
    assert np.array_equal(read.images, rois.images)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert set(one) == {"rois.parquet", "images.npy"}
    assert one == two


@pytest.mark.parametrize(
    ("images", "rule"),
    [
        (small_set(seed=1).images, "must come from one run"),
        (np.zeros((2, 120, 120), np.uint8), r"must be uint8 of shape \(3, 120, 120\)"),
        (np.zeros((3, 120, 120)), r"must be uint8 of shape \(3, 120, 120\)"),
        (np.zeros((3, 72, 72), np.uint8), r"must be uint8 of shape \(3, 120, 120\)"),
    ],
)
def test_images_of_another_run_or_shape_are_refused(tmp_path: Path, images: Any, rule: str) -> None:
    write_rois(small_set(), tmp_path)
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(DataError, match=rule):
        read_rois(tmp_path)


def test_a_full_disk_leaves_the_old_rois_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rois(small_set(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_rois(small_set(seed=1), tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("source", get_args(SourceName))
def test_every_source_of_the_configuration_exists(source: SourceName, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/data/raw/{source}.*(run `mammo|all-mias|name the CSV)"):
        load_rois(section(IngestConfig, source=source), tmp_path)
