"""Expectations: every planted fault is named by its expectation, with the ROI that holds it."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mammo.core.errors import ExpectationError
from mammo.core.records import PATCH_SCHEMA, ROI_SCHEMA, SPLIT_SCHEMA
from mammo.data.expectations import check
from mammo.data.rules import Suites, of_patches, of_rois

Images = npt.NDArray[Any]
N = 16


def hashes(images: Images) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def phantom_rois() -> tuple[pd.DataFrame, Images]:
    """Sixteen sound ROIs: rows 0 to 7 Normal, 8 to 15 Tumor, two of each patient."""
    images = np.random.default_rng(0).integers(0, 256, (N, 120, 120), dtype=np.uint8)
    table = pd.DataFrame(
        {
            "roi_id": [f"roi{row}" for row in range(N)],
            "source": "phantom",
            "film_id": [f"film{row}" for row in range(N)],
            "patient_id": [f"patient{row // 2}" for row in range(N)],
            "label": [0] * 8 + [1] * 8,
            "abnormality": ["NORM"] * 8 + ["CIRC", "CALC", "SPIC", "MISC"] * 2,
            "severity": [None] * 8 + ["B", "M"] * 4,
            "tissue": ["F", "G"] * 8,
            "x_px": 300,
            "y_px": 400,
            "radius_px": [None] * 8 + [20, 30, 40, 70] * 2,
            "published_split": None,
            "sha256": hashes(images),
            "synthetic": True,
        }
    )
    return table.astype(ROI_SCHEMA), images


def archive_rois() -> tuple[pd.DataFrame, Images]:
    """The same as an archive tells them: nothing but id, label and folder."""
    table, images = phantom_rois()
    unknown = ["film_id", "patient_id", "abnormality", "severity", "tissue", "x_px", "y_px", "radius_px"]
    table[unknown] = None
    table["source"], table["synthetic"] = "mias_rois", False
    table["published_split"] = ["train", "train", "val", "test"] * 4
    return table.astype(ROI_SCHEMA), images


def broken(suites: Callable[..., Suites], *facts: Any) -> dict[str, set[str]]:
    """Expectations that the message names, with the ROIs that each one gives as examples."""
    with pytest.raises(ExpectationError) as error:
        check(suites(*facts), Path("docs"))
    lines = [line for line in str(error.value).splitlines() if line.startswith("expectation ")]
    return {line.split()[1]: set(re.findall(r"(?:for example|;) (roi\d+|nobody)", line)) for line in lines}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("make", [phantom_rois, archive_rois])
def test_sound_rois_pass_with_known_and_with_unknown_columns(
    make: Callable[[], tuple[pd.DataFrame, Images]],
) -> None:
    summary = check(of_rois(*make()), Path("docs"))
    assert summary["n_warnings"] == 0
    assert summary["n_expectations"] == len(summary["expectations"]) == 25
    assert all(entry["kept"] for entry in summary["expectations"].values())


def test_each_impossible_value_of_the_table_is_named_with_its_roi() -> None:
    table, images = phantom_rois()
    faults: list[tuple[int, str, str | int | bool]] = [
        (0, "tissue", "X"),
        (1, "severity", "B"),
        (2, "published_split", "trainval"),
        (3, "synthetic", False),
        (5, "film_id", "film6"),
        (7, "sha256", "0" * 64),
        (8, "abnormality", "NORM"),
        (9, "severity", "X"),
        (10, "abnormality", "X"),
        (11, "label", 2),
        (12, "roi_id", "roi13"),
    ]
    for row, column, value in faults:
        table.loc[row, column] = value
    assert broken(of_rois, table, images) == {
        "tissue_known_value": {"roi0"},
        "normal_has_no_severity": {"roi1"},
        "published_split_known_value": {"roi2"},
        "synthetic_fits_source": {"roi3"},
        "film_has_one_patient": {"roi5", "roi6"},
        "sha256_fits_pixels": {"roi7"},
        "label_fits_abnormality": {"roi8"},
        "severity_known_value": {"roi9"},
        "abnormality_known_value": {"roi10"},
        "label_known_value": {"roi11"},
        "roi_id_unique": {"roi13"},
    }


def test_each_missing_value_of_the_table_is_named_with_its_roi() -> None:
    table, images = phantom_rois()
    table = table.astype({"label": "Int8", "synthetic": "boolean"})
    for row, column in enumerate(["source", "label", "sha256", "synthetic", "roi_id"]):
        table.loc[row, column] = None
    assert broken(of_rois, table, images) == {
        "source_present": {"roi0"},
        "label_present": {"roi1"},
        "sha256_present": {"roi2"},
        "sha256_fits_pixels": {"roi2"},
        "synthetic_present": {"roi3"},
        "roi_id_present": set(),
    }


def test_a_missing_column_and_an_empty_table_are_named() -> None:
    table, images = phantom_rois()
    assert next(iter(broken(of_rois, table.drop(columns="severity"), images))) == "columns"
    assert broken(of_rois, table.iloc[:0], images[:0]) == {"rows": set()}
    sets, table, split = patch_sets()
    without = {part: patches.drop(columns="top_px") for part, patches in sets.items()}
    assert next(iter(broken(of_patches, without, table, split))) == "patch_columns"


def test_each_fault_of_the_images_is_named_with_its_roi() -> None:
    table, images = phantom_rois()
    images[1] = 255
    images[2] = images[9]
    faulty = images[:, :100, :90].astype(np.float32)
    table["sha256"] = hashes(faulty)
    assert broken(of_rois, table, faulty) == {
        "dtype_known_value": {"roi0", "roi1", "roi2"},
        "height_px_known_value": {"roi0", "roi1", "roi2"},
        "width_px_known_value": {"roi0", "roi1", "roi2"},
        "image_not_constant": {"roi1"},
        "no_copies_with_other_label": {"roi2", "roi9"},
    }


def test_copies_with_one_label_and_poor_images_are_warnings() -> None:
    table, images = phantom_rois()
    images[1] = images[0]
    images[6] %= 8
    table["sha256"] = hashes(images)
    summary = check(of_rois(table, images), Path("docs"))
    entries = summary["expectations"]
    assert summary["n_warnings"] == 2
    assert not entries["no_copies"]["kept"]
    assert entries["no_copies"]["examples"] == ["roi0 (n_copies 1)", "roi1 (n_copies 1)"]
    assert entries["image_has_grey_levels"]["examples"] == ["roi6 (n_grey_levels 8)"]


def test_a_failure_names_rule_count_examples_remedy_and_pages_which_replace_older_ones(
    tmp_path: Path,
) -> None:
    table, images = phantom_rois()
    table["tissue"] = table["tissue"].replace("G", "X")
    docs = tmp_path / "deep" / "docs"
    docs.mkdir(parents=True)
    (docs / "old.html").touch()
    with pytest.raises(ExpectationError) as error:
        check(of_rois(table, images), docs)
    assert str(error.value) == (
        "expectation tissue_known_value failed: tissue is one of F, G, D where it is known, got 8 of 16 rows that "
        "break it, for example roi1 (tissue X); roi3 (tissue X); roi5 (tissue X); check the raw data, then run "
        f"`dvc repro`\nData Docs: {docs / 'index.html'}"
    )
    assert (docs / "index.html").is_file()
    assert not (docs / "old.html").exists()
    pages = [page.read_text() for page in docs.rglob("*.html") if "validations" in page.parts]
    assert any("tissue is one of F, G, D where it is known" in page for page in pages)
    assert [path.name for path in docs.parent.iterdir()] == ["docs"]


PatchSets = dict[str, pd.DataFrame]


def patch_sets() -> tuple[PatchSets, pd.DataFrame, pd.DataFrame]:
    """Three patches of each of sixteen ROIs; five patients in train, one in val, two in test."""
    table, _ = phantom_rois()
    parts = ["train"] * 10 + ["val"] * 2 + ["test"] * 4
    split = pd.DataFrame({**table[["roi_id", "patient_id"]], "group_id": table["patient_id"], "split": parts})
    corners = pd.DataFrame({"top_px": [0, 20, 48], "left_px": [48, 28, 0], "size_px": 72})
    patches = table[["roi_id", "label"]].assign(part=parts).merge(corners, how="cross")
    sets = {
        str(part): own[list(PATCH_SCHEMA)].astype(PATCH_SCHEMA) for part, own in patches.groupby("part", sort=False)
    }
    return sets, table, split.astype(SPLIT_SCHEMA)


def test_sound_patch_sets_pass() -> None:
    summary = check(of_patches(*patch_sets()), Path("docs"))
    assert (summary["n_warnings"], summary["n_expectations"]) == (0, 12)


def test_each_fault_of_the_patch_sets_is_named_with_its_roi() -> None:
    sets, table, split = patch_sets()
    train = sets["train"].set_index("roi_id", drop=False)
    strays = train.loc[["roi2"]]
    stranger = train.iloc[:1].assign(roi_id="nobody")
    train = train.drop(["roi3"])
    train.loc["roi4", "label"] = 1
    train.loc["roi5", "left_px"] = 121 - 72
    train.loc["roi6", "size_px"] = 31
    sets["train"] = pd.concat([train, stranger], ignore_index=True)
    sets["val"] = pd.concat([sets["val"], strays], ignore_index=True)
    assert broken(of_patches, sets, table, split) == {
        "patch_roi_exists": {"nobody"},
        "patch_label_fits_roi": {"roi4"},
        "patch_inside_roi": {"roi5"},
        "patch_size": {"roi6"},
        "patch_in_its_part": {"roi2"},
        "roi_in_one_part": {"roi2"},
        "roi_has_patches": {"roi3"},
    }


def test_each_fault_of_the_split_is_named_with_its_roi() -> None:
    sets, table, split = patch_sets()
    moved = sets["train"]["roi_id"] == "roi3"
    sets["val"] = pd.concat([sets["val"], sets["train"][moved]], ignore_index=True)
    sets["train"] = sets["train"][~moved]
    split.loc[3, "split"] = "val"
    split.loc[12, "split"] = "trainval"
    assert broken(of_patches, sets, table, split.drop(index=15)) == {
        "split_known_value": {"roi12"},
        "split_present": {"roi15"},
        "patch_in_its_part": {"roi12"},
    }


def test_patients_and_tissue_shared_by_two_parts_are_warnings_as_the_published_folders_share_them() -> None:
    sets, table, split = patch_sets()
    split["group_id"] = ["g"] * len(split)
    split.loc[0, "patient_id"] = split["patient_id"].iloc[-1]
    summary = check(of_patches(sets, table, split), Path("docs"))
    assert [name for name, entry in summary["expectations"].items() if not entry["kept"]] == [
        "patient_in_one_part",
        "group_in_one_part",
    ]
