"""A user's own ROIs: what is read, what is cut out of films, and what is said of each row that is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.own import TABLE, bring_own, load_own, read_own
from tests.data.pictures import dicom, encoded
from tests.settings import section

CONFIG = section(IngestConfig, source="own")
RNG = np.random.default_rng(5)
ROIS = {f"{name}.png": RNG.integers(0, 256, (120, 120), dtype=np.uint8) for name in "abcd"}
FILM = np.kron(RNG.integers(30, 226, (40, 30), dtype=np.uint8), np.ones((10, 10), np.uint8))


def folder_with(folder: Path, table: str, pictures: Mapping[str, Any] = ROIS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else encoded(content))
    (folder / "rois.csv").write_text(table)
    return folder / "rois.csv"


def test_rois_come_as_they_are_in_the_order_of_the_table(tmp_path: Path) -> None:
    folder_with(tmp_path, "Path,label,patient,tissue\nb.png,Tumor,p1,D\na.png,normal,p1,\nc.png,1,,\nd.png,0,,F\n")
    rois = load_own(tmp_path / TABLE, CONFIG)
    assert rois.table["roi_id"].tolist() == ["b.png", "a.png", "c.png", "d.png"]
    assert rois.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(rois.images[0], ROIS["b.png"])
    assert rois.table["patient_id"].fillna("?").tolist() == ["p1", "p1", "?", "?"]
    assert rois.table["tissue"].fillna("?").tolist() == ["D", "?", "?", "F"]
    assert rois.table["film_id"].isna().all()
    assert not rois.synthetic


def test_a_film_is_cut_at_its_places_as_in_training(tmp_path: Path) -> None:
    folder_with(tmp_path, "path,label,x,y,radius\nf.png,Tumor,100,120,30\nf.png,Normal,220,260,\n", {"f.png": FILM})
    rois = load_own(tmp_path / TABLE, CONFIG)
    film = preprocess_film(FILM)
    for image, place in zip(rois.images, ((100, 120), (220, 260)), strict=True):
        np.testing.assert_array_equal(image, extract_roi(film, *place))
    assert rois.table["film_id"].tolist() == ["f.png", "f.png"]
    assert rois.table["radius_px"].fillna(0).tolist() == [30, 0]


def test_a_film_with_known_pixels_is_brought_to_a_fifth_of_a_millimetre_first(tmp_path: Path) -> None:
    # Each pixel of the film in four: half the size, the same picture, every place twice as far from the corner.
    fine = np.kron(FILM, np.ones((2, 2), np.uint8))
    films = {
        "fine.dcm": dicom(fine, ImagerPixelSpacing=[0.1, 0.1]),
        "coarse.dcm": dicom(FILM, ImagerPixelSpacing=[0.2, 0.2]),
    }
    folder_with(tmp_path, "path,label,x,y\nfine.dcm,Tumor,200,240\ncoarse.dcm,Tumor,100,120\n", films)
    rois = load_own(tmp_path / TABLE, CONFIG)
    assert rois.table[["x_px", "y_px"]].to_numpy().tolist() == [[100, 120], [100, 120]]
    assert np.corrcoef(rois.images[0].ravel(), rois.images[1].ravel())[0, 1] > 0.95


HEADER = "path,label,patient,x,y\n"


@pytest.mark.parametrize(
    ("rows", "row", "words"),
    [
        ("a.png,Tumor,,,\nb.png,tumour,,,\n", 3, "label must be Normal or Tumor, got 'tumour'"),
        ("a.png,Tumor,,,\nb.png\n", 3, "label must be Normal or Tumor, got nothing"),
        ("lost.png,Tumor,,,\n", 2, "lost.png: does not exist"),
        ("../a.png,Tumor,,,\n", 2, "must lie in the folder of the table"),
        ("a.png,Tumor,,,\nb.png,Normal,,,\na.png,Tumor,,,\n", 4, "must appear once, got it in row 2 too"),
        (
            "a.png,Tumor,p1,,\na.png,Normal,p2,,\n",
            3,
            "one ROI has one label, got the pixels of row 2, labelled Tumor",
        ),
        ("a.png,Tumor,,5,5\n", 2, "a whole ROI has no place in itself"),
        ("f.png,Tumor,,,\n", 2, "a film needs the ROI's place"),
        ("f.png,Tumor,,301,9\n", 2, "must lie inside the film of 300 x 400 pixels, got 301,9"),
        ("f.png,Tumor,,-4,9\n", 2, "x input should be greater than or equal to 1, got '-4'"),
        ("f.png,Tumor,,inf,9\n", 2, "x input should be a finite number, got 'inf'"),
        ("f.png,Tumor,,1e20,9\n", 2, "x input should be less than or equal to 32000000, got '1e20'"),
        ("f.png,Tumor,,ten,9\n", 2, "x input should be a valid number"),
        ("f.png,Tumor,,90,90\na.png,Normal,,,\n", 3, "all ROIs or all films"),
        ("f.png,Tumor,p1,90,90\nf.png,Normal,p2,250,300\n", 3, "a film is of one patient"),
        (
            "mm.dcm,Tumor,,90,90\nf.png,Normal,,250,300\n",
            3,
            "size of pixels must be known of all pictures or of none",
        ),
        ("roi.dcm,Tumor,,,\n", 2, "pixels of a ROI must be 0.2 mm wide, got 0.1 mm"),
        ("broken.png,Tumor,,,\n", 2, "broken.png: is not a whole PNG file"),
        (f"{300 * 'a'}.png,Tumor,,,\n", 2, "cannot be read (File name too long)"),
        ("a\0.png,Tumor,,,\n", 2, "cannot be read (embedded null byte)"),
        (",Tumor,,,\n", 2, "path string should have at least 1 character"),
        ("a.png,Tumor,,,,extra\nb.png,Normal,,,\n", 2, "at most 5 fields, as the header has, got 6"),
    ],
)
def test_each_wrong_row_is_named_with_rule_value_and_remedy(tmp_path: Path, rows: str, row: int, words: str) -> None:
    pictures = {
        **ROIS,
        "f.png": FILM,
        "mm.dcm": dicom(FILM, ImagerPixelSpacing=[0.2, 0.2]),
        "roi.dcm": dicom(ROIS["a.png"], ImagerPixelSpacing=[0.1, 0.1]),
        "broken.png": b"\x89PNG\r\n\x1a\n and no more",
    }
    table = folder_with(tmp_path / "in", HEADER + rows, pictures)
    read = read_own(table, CONFIG)
    assert isinstance(read, list)
    assert [problem.row for problem in read] == [row]
    assert words in read[0].what
    with pytest.raises(DataError, match=f"1 problems, in row {row}"):
        bring_own(tmp_path / "own", table, CONFIG)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("path;label\na.png;Tumor\n", "separated by commas, got path;label"),
        ("path,label,patinet\na.png,Tumor,1\n", "may have patient, x, y, radius, tissue"),
        ("path,label\n", "must have a row for each ROI"),
        ("", "must have the columns path and label.*got nothing"),
        ("path,label,label\n", "each once"),
        ('path,label\n"a.png,Tumor\nb.png,Normal\n', "must be a CSV.*unexpected end of data"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_own(folder_with(tmp_path, table), CONFIG)


def test_the_table_and_its_pictures_are_brought_whole(tmp_path: Path) -> None:
    table = folder_with(
        tmp_path / "in",
        "\ufeffpath,label\r\nsub/a.png,Tumor\r\nb.png,Normal\r\n",
        {"sub/a.png": ROIS["a.png"], "b.png": ROIS["b.png"], "other.png": ROIS["c.png"]},
    )
    bring_own(tmp_path / "own", table, CONFIG)
    assert sorted(path.name for path in (tmp_path / "own").rglob("*.*")) == ["a.png", "b.png", "rois.csv"]
    np.testing.assert_array_equal(load_own(tmp_path / "own" / TABLE, CONFIG).images, load_own(table, CONFIG).images)


@pytest.mark.parametrize("name", ["own/mine.csv", "own/rois.csv", "beside.csv"])
def test_no_original_is_lost_where_it_lies_in_the_place_that_is_replaced(tmp_path: Path, name: str) -> None:
    table = folder_with(tmp_path / "own", "path,label\na.png,Tumor\nb.png,Normal\n", {**ROIS, "notes.txt": b"!"})
    if name == "beside.csv":
        table.unlink()
        (tmp_path / name).write_text("path,label\nown/a.png,Tumor\nown/b.png,Normal\n")
    else:
        table.rename(tmp_path / name)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    if name == "own/rois.csv":
        bring_own(tmp_path / "own", tmp_path / name, CONFIG)
    else:
        with pytest.raises(DataError, match=r"must not lie in .*own, which is replaced; move them elsewhere"):
            bring_own(tmp_path / "own", tmp_path / name, CONFIG)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")} == before
