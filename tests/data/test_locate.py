"""ROIs cut from films, stripped of all that is known, are given back their film and place."""

import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import Workspace, write_table
from mammo.data.archive import load_mias_rois
from mammo.data.audit import leakage_summary, pairs_table, with_parts
from mammo.data.extraction import extract_roi, first_region, preprocess_film, resize_bicubic
from mammo.data.film_rois import load_films
from mammo.data.films import open_films, patient_of, read_films
from mammo.data.locate import LOCATED_SCHEMA, can_be_cut_again, cut_again, locate_rois, with_films
from mammo.data.rois import Rois, make_roi_set
from tests.data.pictures import Picture, encoded
from tests.settings import section


class Cut(NamedTuple):
    """A ROI and where it was cut: film, centre, whether it was stretched."""

    image: Picture
    film_id: str
    x_px: int
    y_px: int
    stretched: bool


@pytest.fixture(scope="module")
def cuts(phantom_folder: Path) -> list[Cut]:
    """Eight whole crops at random places of the phantom's films, and four that were stretched along one axis."""
    with open_films(phantom_folder) as store:
        films = {film_id: preprocess_film(film) for film_id, film in read_films(store, store.films)}
    rng = np.random.default_rng(0)
    found: dict[bool, list[Cut]] = {False: [], True: []}
    while len(found[False]) < 8 or len(found[True]) < 4:
        film_id = sorted(films)[rng.integers(len(films))]
        x, y = (int(value) for value in rng.integers(70, 950, 2))
        region = first_region(films[film_id][y - 61 : y + 59, x - 61 : x + 59])
        if region is None:
            continue
        shape = films[film_id][y - 61 : y + 59, x - 61 : x + 59][region].shape
        if 120 in shape and min(shape) >= 60:
            found[min(shape) < 120].append(Cut(extract_roi(films[film_id], x, y), film_id, x, y, min(shape) < 120))
    return found[False][:8] + found[True][:4]


def rois_of(images: list[Picture]) -> Rois:
    rows = [
        {"roi_id": f"r{number}", "source": "mias_rois", "label": 0, "synthetic": False} for number in range(len(images))
    ]
    return make_roi_set(rows, images)


def test_rois_are_found_where_they_were_cut_also_stretched_ones(cuts: list[Cut], phantom_folder: Path) -> None:
    located = locate_rois(rois_of([cut.image for cut in cuts]), phantom_folder)

    assert dict(located.dtypes.astype(str)) == LOCATED_SCHEMA
    assert located["film_id"].tolist() == [cut.film_id for cut in cuts]
    assert located["patient_id"].tolist() == [patient_of(cut.film_id) for cut in cuts]
    for found, cut in zip(located.itertuples(), cuts, strict=True):
        if not cut.stretched:  # a box may lie in several crops, which all give the same ROI
            assert (found.x_px, found.y_px) == (cut.x_px, cut.y_px)


def test_located_rois_are_cut_again_without_the_stretch(cuts: list[Cut], phantom_folder: Path, tmp_path: Path) -> None:
    rois, workspace = rois_of([cut.image for cut in cuts]), Workspace(tmp_path)
    assert not can_be_cut_again(rois.table, workspace)
    with pytest.raises(DataError, match=r"films in which every ROI is located.*dvc repro locate"):
        cut_again(rois.table, workspace, bounding_box=False)
    workspace.films.parent.mkdir(parents=True)
    workspace.films.symlink_to(phantom_folder)
    write_table(workspace.located, locate_rois(rois, workspace.films))
    assert can_be_cut_again(rois.table, workspace)
    assert (cut_again(rois.table, workspace, bounding_box=True) == rois.images).all()
    for cut, whole in zip(cuts, cut_again(rois.table, workspace, bounding_box=False), strict=True):
        assert bool((whole == cut.image).all()) is not cut.stretched
        if cut.stretched:  # the box is the same, whichever of the crops around it was found
            region = first_region(whole)
            assert region is not None
            assert (resize_bicubic(whole[region]) == cut.image).all()


def test_tissue_of_no_film_and_altered_tissue_stay_unknown(cuts: list[Cut], phantom_folder: Path) -> None:
    altered = cuts[1].image.copy()
    altered[60, 60] ^= 1
    located = locate_rois(rois_of([np.ascontiguousarray(cuts[0].image.T), altered]), phantom_folder)
    assert located[["film_id", "patient_id", "x_px", "y_px"]].isna().all(axis=None)


def test_an_anonymous_archive_gets_back_films_patients_and_lesions(phantom_folder: Path, tmp_path: Path) -> None:
    """The phantom's ROIs as the authors publish theirs: folders, classes and numbers, nothing else."""
    truth = load_films(phantom_folder, section(IngestConfig, source="phantom"))
    names = pd.Series(index=range(len(truth.table)), dtype="string")
    path = tmp_path / "MIAS_ROIs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for title, rows in truth.table.groupby(truth.table["label"].map({0: "Normal", 1: "Tumor"})):
            for number, row in enumerate(rows.index):
                part = ("train", "val", "test")[number % 3]
                names[row] = f"{part}/{title} ({number + 1})"
                archive.writestr(f"MIAS_ROIs/{names[row]}.png", encoded(truth.images[row]))
    rois = load_mias_rois(path)
    located = locate_rois(rois, phantom_folder).set_index("roi_id").loc[names.tolist()]
    for column in ("film_id", "patient_id"):
        assert located[column].tolist() == truth.table[column].tolist()
    tumor = (truth.table["label"] == 1).to_numpy()
    assert (located.loc[tumor, "lesion_px"] == 0).all()
    write_table(tmp_path / "located.parquet", located.reset_index())
    known = with_films(rois.table, tmp_path / "located.parquet").set_index("roi_id")
    for column in ("film_id", "patient_id", "tissue", "abnormality", "severity", "radius_px"):
        pd.testing.assert_series_equal(
            known.loc[names.tolist(), column].reset_index(drop=True), truth.table[column], check_dtype=False
        )


@pytest.mark.slow
@pytest.mark.real
def test_every_roi_of_the_archive_is_cut_from_the_films_to_the_last_bit(
    real_rois: Rois, real_films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    located = locate_rois(real_rois, real_films)
    assert "published film" not in caplog.text

    assert located["film_id"].notna().all()
    lesions = real_rois.table["label"] == 1
    assert (located.loc[lesions, "lesion_px"] == 0).all()
    assert lesions.sum() == 119
    assert located.loc[~lesions, "abnormality"].eq("NORM").all()
    # What the films' table says of those places, read here by another way: y counts from the bottom.
    with tarfile.open(real_films) as archive:
        member = next(name for name in archive.getnames() if name.endswith("Info.txt"))
        lines = [line.split() for line in archive.extractfile(member).read().decode("latin-1").splitlines()]  # type: ignore[union-attr]
    said = {
        (film, int(x), 1024 - int(y)): (tissue, kind, severity, int(radius))
        for film, tissue, kind, severity, x, y, radius in (
            line for line in lines if len(line) == 7 and line[0].startswith("mdb") and line[4].isdigit()
        )
    }
    places = located.loc[lesions, ["film_id", "x_px", "y_px"]].itertuples(index=False, name=None)
    facts = located.loc[lesions, ["tissue", "abnormality", "severity", "radius_px"]]
    assert [said[place] for place in places] == list(facts.itertuples(index=False, name=None))
    # The headline: counted here from the films' numbers, two to a patient, and by the audit.
    films = located["film_id"].str.removeprefix("mdb").astype(int)
    tested = (real_rois.table["published_split"] == "test").to_numpy()
    elsewhere = set((films[~tested] + 1) // 2)
    assert sum((film + 1) // 2 in elsewhere for film in films[tested]) == 49
    table = real_rois.table.assign(film_id=located["film_id"], patient_id=located["patient_id"])
    table["split"] = table["published_split"]
    nothing = pairs_table([]).pipe(with_parts, table)
    assert leakage_summary(nothing, table)["n_test_rois_of_shared_patients"] == 49


def located_rows(rois: Rois, **known: str) -> pd.DataFrame:
    rows = pd.DataFrame(index=range(len(rois.table)), columns=list(LOCATED_SCHEMA))
    rows[["roi_id", "sha256"]] = rois.table[["roi_id", "sha256"]]
    return rows.assign(**known).astype(LOCATED_SCHEMA)


@pytest.fixture
def anonymous() -> Rois:
    return rois_of(list(np.random.default_rng(0).integers(0, 256, (2, 120, 120), dtype=np.uint8)))


def test_unknown_places_and_missing_files_give_no_owner(anonymous: Rois, tmp_path: Path) -> None:
    path = tmp_path / "located.parquet"
    pd.testing.assert_frame_equal(with_films(anonymous.table, path), anonymous.table)
    write_table(path, located_rows(anonymous))
    assert with_films(anonymous.table, path)[["film_id", "patient_id"]].isna().all(axis=None)
    write_table(path, located_rows(anonymous, film_id="mdb001", patient_id="p001"))
    assert with_films(anonymous.table, path)["patient_id"].tolist() == ["p001", "p001"]


def test_places_of_other_rois_are_refused_and_a_source_that_knows_its_films_needs_none(
    anonymous: Rois, tmp_path: Path
) -> None:
    path = tmp_path / "located.parquet"
    write_table(path, located_rows(anonymous, sha256="0" * 64))
    with pytest.raises(DataError, match="run `dvc repro locate`"):
        with_films(anonymous.table, path)
    known = anonymous.table.assign(film_id="mdb009")
    assert with_films(known, path) is known
