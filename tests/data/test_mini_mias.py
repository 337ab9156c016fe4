"""Films become ROIs, from a folder or an archive alike, only if films and table are whole; a garbled row is named."""

import errno
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.film_rois import load_films
from mammo.data.films import Annotation, laterality_of, open_films, parse_info, patient_of
from mammo.data.rois import Rois
from tests.settings import section

CONFIG = section(IngestConfig, source="mini_mias")

TABLE = """A few films, made by hand.

mdb001 G CIRC B 535 425 97
mdb002 G NORM\x20
mdb003 F MISC M 700 500 30
mdb003 F SPIC B 500 990 20
mdb004 F NORM
mdb005 D NORM
mdb006 G CALC M *NOTE 3*
"""


def film(seed: int) -> npt.NDArray[np.uint8]:
    """Textured tissue on the left two thirds, dark on the right."""
    pixels = np.random.default_rng(seed).integers(90, 160, (1024, 1024), dtype=np.uint8)
    pixels[:, 720:] = 3
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(1, 7):
        Image.fromarray(film(number)).save(folder / f"mdb{number:03d}.pgm")
    (folder / "Info.txt").write_text(TABLE)
    (folder / "Licence").write_text("for research")
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The same films, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "films"))


@pytest.fixture(scope="module")
def rois(folder: Path) -> Rois:
    return load_films(folder, CONFIG)


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    """Write a `.tar.gz` whose table comes last, as the worst case for reading in one pass."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for file in sorted(folder.iterdir(), key=lambda file: (file.name == "Info.txt", file.name)):
            archive.add(file, prefix + file.name)
    return path


def test_every_placed_lesion_and_chosen_normal_film_gives_a_roi(rois: Rois) -> None:
    """Lesions: one in G, two in F. Normal films: one each in F, G and D, and D has no lesion to match."""
    table = rois.table.astype(object).where(rois.table.notna(), None)
    known = ["roi_id", "film_id", "patient_id", "label", "abnormality", "severity", "tissue", "radius_px"]
    assert table[known].to_numpy().tolist() == [
        ["mdb001/lesion 1", "mdb001", "p001", 1, "CIRC", "B", "G", 97],
        ["mdb002/normal", "mdb002", "p001", 0, "NORM", None, "G", None],
        ["mdb003/lesion 1", "mdb003", "p002", 1, "MISC", "M", "F", 30],
        ["mdb003/lesion 2", "mdb003", "p002", 1, "SPIC", "B", "F", 20],
        ["mdb004/normal", "mdb004", "p002", 0, "NORM", None, "F", None],
    ]
    assert table["published_split"].isna().all()
    assert not table["synthetic"].any()


def test_places_count_from_the_top_left_corner_and_normal_ones_lie_in_tissue(rois: Rois) -> None:
    places = rois.table[["x_px", "y_px"]].to_numpy(dtype=int)
    tumor = rois.table["label"].to_numpy() == 1
    assert places[tumor].tolist() == [[535, 1024 - 425], [700, 1024 - 500], [500, 1024 - 990]]
    assert (places[~tumor, 0] <= 720 - 60).all()
    assert np.array_equal(rois.images[0], extract_roi(preprocess_film(film(1)), 535, 599))


def test_an_archive_gives_what_its_folder_gives(folder: Path, rois: Rois, tmp_path: Path) -> None:
    packed = load_films(pack(folder, tmp_path / "all-mias.tar.gz", "all-mias/"), CONFIG)
    assert packed.table.equals(rois.table)
    assert np.array_equal(packed.images, rois.images)


def test_films_that_are_not_the_published_ones_are_warned_about_and_phantoms_are_not(
    folder: Path, phantom_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_films(phantom_folder, section(IngestConfig, source="phantom"))
    assert "published film" not in caplog.text
    load_films(folder, CONFIG)
    assert "mdb001.pgm: its pixels are not those of the published film; somebody altered it" in caplog.text


def test_a_normal_film_without_room_is_left_out_with_a_warning_and_a_table_named_readme_will_do(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "Info.txt").rename(copied / "README")
    Image.fromarray(np.zeros((1024, 1024), dtype=np.uint8)).save(copied / "mdb002.pgm")
    assert "mdb002" not in set(load_films(copied, CONFIG).table["film_id"])
    assert "mdb002 gives no normal ROI" in caplog.text


def add_film_again(films: Path) -> None:
    (films / "more").mkdir()
    shutil.copy(films / "mdb001.pgm", films / "more" / "MDB001.PGM")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"does not exist; put all-mias\.tar\.gz"),
        (lambda films: (films / "mdb005.pgm").unlink(), r"mdb005\.pgm must be there"),
        (lambda films: (films / "Info.txt").unlink(), r"must hold Info\.txt beside the films"),
        (
            lambda films: (films / "Info.txt").write_text(TABLE.replace("425", "4Z5")),
            r"Info\.txt: line 3 must be .* got 'mdb001 G CIRC B 535 4Z5 97'",
        ),
        (lambda films: shutil.copy(films / "mdb001.pgm", films / "mdb099.pgm"), "have a row for mdb099"),
        (add_film_again, "got mdb001 twice"),
        (
            lambda films: Image.fromarray(film(1)[:512]).save(films / "mdb001.pgm"),
            r"mdb001\.pgm: a mini-MIAS film must be 1024 x 1024 pixels, got 1024 x 512",
        ),
        (lambda films: os.truncate(films / "mdb001.pgm", 500_000), r"mdb001\.pgm: is not a whole PGM file"),
    ],
)
def test_films_that_are_not_whole_are_refused_by_name(
    copied: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copied)
    with pytest.raises(DataError, match=message):
        load_films(copied, CONFIG)


def test_a_truncated_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder, tmp_path / "all-mias.tar.gz")
    content = packed.read_bytes()
    for share in (0.9, 0.3, 0.0):
        packed.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match="is not a whole tar archive"):
            load_films(packed, CONFIG)


def test_a_disk_that_is_full_while_an_archive_is_read_is_no_damage_of_the_archive(folder: Path, tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match="No space left") as raised,
        open_films(pack(folder, tmp_path / "f.tar.gz")),
    ):
        raise full
    assert raised.value is full


def test_a_phantom_cannot_pass_for_real_films_nor_real_films_for_a_phantom(folder: Path, phantom_folder: Path) -> None:
    with pytest.raises(DataError, match="got a phantom"):
        load_films(phantom_folder, CONFIG)
    with pytest.raises(DataError, match=r"set ingest\.source to mini_mias"):
        load_films(folder, section(IngestConfig, source="phantom"))


HEADER = """THE DATABASE

1st column: the film's reference, such as mdb000
7th column: radius

A note: films come in pairs.

"""


def test_every_kind_of_row_is_read_and_y_is_turned_to_the_top_left_origin() -> None:
    table = """mdb001 G CIRC B 535 425 197
mdb003 D NORM\x20\x20
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26

mdb059 F CIRC B\x20
mdb144 F MISC B 233 994 29
mdb216 D CALC M *NOTE 3*
"""
    assert parse_info((HEADER + table).encode(), "Info.txt") == [
        Annotation("mdb001", "G", "CIRC", "B", 535, 599, 197),
        Annotation("mdb003", "D", "NORM"),
        Annotation("mdb005", "F", "CIRC", "B", 477, 891, 30),
        Annotation("mdb005", "F", "CIRC", "B", 500, 856, 26),
        Annotation("mdb059", "F", "CIRC", "B"),
        Annotation("mdb144", "F", "MISC", "B", 233, 30, 29),
        Annotation("mdb216", "D", "CALC", "M"),
    ]


def test_line_ends_tabs_a_byte_order_mark_and_prose_after_the_table_do_not_matter() -> None:
    unix = HEADER + "mdb001 G CIRC B 535 425 197\nmdb003 D NORM \n"
    expected = parse_info(unix.encode(), "Info.txt")
    for same in (unix.replace("\n", "\r\n"), unix + "\nWith thanks to all who helped.\n"):
        assert parse_info(same.encode(), "Info.txt") == expected
    rows = unix.removeprefix(HEADER)
    assert parse_info(rows.replace(" ", "\t").encode("utf-8-sig"), "Info.txt") == expected


GARBLED = """mdb002 G CIRC B 522 28O 69
mdb002 G CIRC B 522 280
mdb002 X CIRC B 522 280 69
mdb002 G BLOB B 522 280 69
mdb002 G CIRC
mdb002 G CIRC Q 522 280 69
mdb002 G NORM 522 280 69
mdb002 G CIRC B 522 280 69 7
mdb2 G NORM
mdb002 G CIRC B 2522 280 69
mdb002 G CIRC B 522 1025 69
mdb002 G CIRC B 522 280 0"""


@pytest.mark.parametrize("row", GARBLED.splitlines())
def test_a_garbled_row_is_refused_with_its_line_and_content(row: str) -> None:
    for rest in ("", "mdb003 D NORM\n"):
        with pytest.raises(DataError, match=rf"Info\.txt: line 9 must .* got '{row}'; restore the row"):
            parse_info(f"{HEADER}mdb001 G NORM\n{row}\n{rest}".encode(), "Info.txt")


@pytest.mark.parametrize("content", [b"", HEADER.encode(), bytes(range(256))])
def test_a_file_without_a_table_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="got none; use the Info"):
        parse_info(content, "Info.txt")


def test_consecutive_films_are_the_right_and_left_breast_of_one_patient() -> None:
    films = ["mdb001", "mdb002", "mdb003", "mdb004", "mdb321", "mdb322"]
    assert [patient_of(film) for film in films] == ["p001", "p001", "p002", "p002", "p161", "p161"]
    assert [laterality_of(film) for film in films] == ["right", "left"] * 3
