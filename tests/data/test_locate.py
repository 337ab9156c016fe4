"""ROIs cut from phantom films, stripped of all that is known, are given back their film and place."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import write_table
from mammo.data.archive import load_mias_rois
from mammo.data.extraction import crop_around, extract_roi, first_region, load_phantom, preprocess_film
from mammo.data.films import open_films, patient_of, read_films
from mammo.data.locate import LOCATED_SCHEMA, known_owners, locate_rois
from mammo.data.rois import RoiSet, make_roi_set
from tests.data.pictures import Picture, encoded, jpeg

Change = Callable[[Picture], Picture]


@dataclass(frozen=True)
class Cut:
    """A ROI and where it was cut: film, centre, size of the bounding box."""

    image: Picture
    film_id: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int


@pytest.fixture(scope="module")
def films(phantom_folder: Path) -> dict[str, Picture]:
    """The phantom's films as the paper's authors filter them."""
    with open_films(phantom_folder) as store:
        return {film_id: preprocess_film(film) for film_id, film in read_films(store, store.films)}


def cut_from(films: dict[str, Picture], wanted: Callable[[int, int], bool], n: int) -> list[Cut]:
    """Cut `n` ROIs at random places where the bounding box has a wanted width and height."""
    rng = np.random.default_rng(0)
    cuts: list[Cut] = []
    while len(cuts) < n:
        film_id = sorted(films)[rng.integers(len(films))]
        x, y = (int(value) for value in rng.integers(30, 994, 2))
        crop = crop_around(films[film_id], x, y)
        rows, columns = first_region(crop)
        width, height = columns.stop - columns.start, rows.stop - rows.start
        if (crop > 20).mean() > 0.4 and wanted(width, height):
            cuts.append(Cut(extract_roi(films[film_id], x, y), film_id, x, y, width, height))
    return cuts


def rois_of(cuts: list[Cut], change: Change = np.asarray) -> RoiSet:
    rows = [
        {"roi_id": f"r{number}", "source": "mias_rois", "label": 0, "synthetic": False}
        for number in range(len(cuts))
    ]
    return make_roi_set(rows, [change(cut.image) for cut in cuts])


def other_contrast(image: Picture) -> Picture:
    return np.rint(255 * (image / 255) ** 1.5 * 0.8 + 10).astype(np.uint8)


@pytest.mark.parametrize("change", [np.asarray, jpeg, other_contrast])
def test_rois_are_found_where_they_were_cut(
    films: dict[str, Picture], phantom_folder: Path, change: Change
) -> None:
    cuts = cut_from(films, lambda width, height: width == height == 120, 8)
    located = locate_rois(rois_of(cuts, change), phantom_folder)
    assert dict(located.dtypes.astype(str)) == LOCATED_SCHEMA
    assert located["verdict"].tolist() == ["located"] * 8
    assert located["film_id"].tolist() == [cut.film_id for cut in cuts]
    assert located["patient_id"].tolist() == [patient_of(cut.film_id) for cut in cuts]
    places = located[["x_px", "y_px", "width_px", "height_px"]].to_numpy().tolist()
    assert places == [[cut.x_px, cut.y_px, 120, 120] for cut in cuts]
    if change is np.asarray:
        assert located["score"].to_numpy() == pytest.approx(1)
    assert np.allclose(located["margin"], located["score"] - located["second_score"])


def test_stretched_rois_are_found_with_the_size_of_their_box(
    films: dict[str, Picture], phantom_folder: Path
) -> None:
    cuts = cut_from(films, lambda width, height: 60 <= width < 112 and height == 120, 3)
    cuts += cut_from(films, lambda width, height: 60 <= height < 112 and width == 120, 1)
    located = locate_rois(rois_of(cuts), phantom_folder)
    assert located["verdict"].tolist() == ["located"] * 4
    assert located["film_id"].tolist() == [cut.film_id for cut in cuts]
    for found, cut in zip(located.itertuples(), cuts, strict=True):
        assert (found.width_px, found.height_px) == (cut.width_px, cut.height_px)
        assert (found.x_px, found.y_px) == (cut.x_px, cut.y_px)


def test_tissue_that_is_in_no_film_stays_uncertain(films: dict[str, Picture], phantom_folder: Path) -> None:
    strangers = [
        Cut(np.ascontiguousarray(cut.image.T[::-1]), "", 0, 0, 120, 120)
        for cut in cut_from(films, lambda width, height: width == height == 120, 1)
    ]
    assert locate_rois(rois_of(strangers), phantom_folder)["verdict"].tolist() == ["uncertain"]


def test_the_result_does_not_depend_on_the_number_of_threads(
    films: dict[str, Picture], phantom_folder: Path
) -> None:
    rois = rois_of(cut_from(films, lambda width, height: width == height == 120, 2))
    one, four = (locate_rois(rois, phantom_folder, n_threads) for n_threads in (1, 4))
    pd.testing.assert_frame_equal(one, four)


def test_progress_counts_up_to_the_work_that_was_needed(
    films: dict[str, Picture], phantom_folder: Path
) -> None:
    told: list[tuple[int, int]] = []
    rois = rois_of(cut_from(films, lambda width, height: width == height == 120, 1))
    locate_rois(rois, phantom_folder, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, len(films) + 2))


def test_an_anonymous_archive_gets_back_films_patients_and_distances_to_lesions(
    phantom_folder: Path, tmp_path: Path
) -> None:
    """The phantom's ROIs as the authors publish theirs: folders, classes and numbers, nothing else."""
    truth = load_phantom(phantom_folder, IngestConfig(source="phantom"))
    names = pd.Series(index=range(len(truth.table)), dtype="string")
    path = tmp_path / "MIAS_ROIs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for title, rows in truth.table.groupby(truth.table["label"].map({0: "Normal", 1: "Tumor"})):
            for number, row in enumerate(rows.index):
                part = ("train", "val", "test")[number % 3]
                names[row] = f"{part}/{title} ({number + 1})"
                archive.writestr(f"MIAS_ROIs/{names[row]}.png", encoded(truth.images[row]))
    rois = load_mias_rois(path, IngestConfig())
    located = locate_rois(rois, phantom_folder).set_index("roi_id").loc[names.tolist()]
    assert set(located["verdict"]) == {"located"}
    for column in ("film_id", "patient_id", "x_px", "y_px"):
        assert located[column].tolist() == truth.table[column].tolist()
    tumor = (truth.table["label"] == 1).to_numpy()
    assert (located.loc[tumor, "lesion_px"] == 0).all()
    write_table(tmp_path / "located.parquet", located.reset_index())
    known = known_owners(rois.table, tmp_path / "located.parquet").set_index("roi_id")
    assert known.loc[names.tolist(), "patient_id"].tolist() == truth.table["patient_id"].tolist()


def located_rows(rois: RoiSet, verdict: str) -> pd.DataFrame:
    rows = pd.DataFrame(index=range(len(rois.table)), columns=list(LOCATED_SCHEMA))
    rows[["roi_id", "sha256"]] = rois.table[["roi_id", "sha256"]]
    return rows.assign(verdict=verdict, film_id="mdb001", patient_id="p001").astype(LOCATED_SCHEMA)


def anonymous() -> RoiSet:
    images = np.random.default_rng(0).integers(0, 256, (2, 120, 120), dtype=np.uint8)
    return rois_of([Cut(image, "", 0, 0, 120, 120) for image in images])


def test_uncertain_places_and_missing_files_give_no_owner(tmp_path: Path) -> None:
    rois, path = anonymous(), tmp_path / "located.parquet"
    pd.testing.assert_frame_equal(known_owners(rois.table, path), rois.table)
    write_table(path, located_rows(rois, "uncertain"))
    assert known_owners(rois.table, path)[["film_id", "patient_id"]].isna().all(axis=None)
    write_table(path, located_rows(rois, "located"))
    assert known_owners(rois.table, path)["patient_id"].tolist() == ["p001", "p001"]


def test_places_of_other_rois_are_refused(tmp_path: Path) -> None:
    rois, path = anonymous(), tmp_path / "located.parquet"
    write_table(path, located_rows(rois, "located").assign(sha256="0" * 64))
    with pytest.raises(DataError, match="run `mammo locate FILMS` again"):
        known_owners(rois.table, path)


def test_a_source_that_knows_its_films_needs_no_places(phantom_folder: Path, tmp_path: Path) -> None:
    table = load_phantom(phantom_folder, IngestConfig(source="phantom")).table
    write_table(tmp_path / "located.parquet", located_rows(anonymous(), "located"))
    assert known_owners(table, tmp_path / "located.parquet") is table
