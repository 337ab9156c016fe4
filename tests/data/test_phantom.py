"""Phantoms are mini-MIAS films in every respect but that nobody was ever X-rayed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mammo.core.config import IngestConfig, PhantomConfig
from mammo.core.errors import DataError
from mammo.core.records import ABNORMALITIES, TISSUES
from mammo.data.film_rois import load_films
from mammo.data.films import laterality_of, parse_info, patient_of
from mammo.data.phantom import draw_film, plan_films, write_phantom
from mammo.data.phantom_drawing import RADIUS_PX, draw_lesion, power_law
from tests.settings import PHANTOM, section

KINDS = [kind for kind in ABNORMALITIES if kind != "NORM"]


def films_of(folder: Path) -> list[npt.NDArray[np.uint8]]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.pgm"))]


def test_the_folder_holds_two_binary_pgm_films_for_each_patient_and_a_table(phantom_folder: Path) -> None:
    films = {f"mdb{number:03d}.pgm" for number in range(1, 13)}
    assert {path.name for path in phantom_folder.iterdir()} == films | {"Info.txt", "phantom.json"}
    content = (phantom_folder / "mdb012.pgm").read_bytes()
    assert content.startswith(b"P5\n1024 1024\n255\n")
    assert len(content) == 17 + 1024 * 1024
    table = load_films(phantom_folder, section(IngestConfig, source="phantom")).table
    assert table["synthetic"].all()
    assert set(table["source"]) == {"phantom"}
    assert set(table["label"]) == {0, 1}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(phantom_folder: Path) -> None:
    planned = plan_films(PHANTOM)[4]
    film, other = (draw_film(planned, np.random.default_rng([seed, 5]))[0] for seed in (3, 4))
    assert np.array_equal(film, films_of(phantom_folder)[4])
    assert not np.array_equal(film, other)


def test_a_folder_of_the_same_configuration_is_left_alone(phantom_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in phantom_folder.iterdir()}
    write_phantom(PHANTOM, phantom_folder)
    assert {path: path.stat().st_mtime_ns for path in phantom_folder.iterdir()} == before


def test_a_phantom_of_another_configuration_is_replaced_but_no_other_content(tmp_path: Path) -> None:
    config, folder = section(PhantomConfig, n_patients=4), tmp_path / "phantom"
    folder.mkdir()
    (folder / "phantom.json").write_text(json.dumps({"n_patients": 9}))
    (folder / "mdb018.pgm").touch()
    write_phantom(config, folder)
    assert len(films_of(folder)) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    with pytest.raises(DataError, match="got other content; choose another folder"):
        write_phantom(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_the_table_has_the_real_ones_quirks(phantom_folder: Path) -> None:
    text = (phantom_folder / "Info.txt").read_text()
    rows = [line for line in text.splitlines() if line.startswith("mdb")]
    assert any(line.endswith((" CALC B *NOTE 3*", " CALC M *NOTE 3*")) for line in rows)
    assert any(line.endswith("NORM ") for line in rows)
    assert max(Counter(line.split()[0] for line in rows).values()) == 2
    assert any(line.split()[2] == "CIRC" and len(line.split()) == 4 for line in rows)
    assert text.startswith("SYNTHETIC FILMS")


def test_six_of_ten_films_are_normal_and_every_kind_and_tissue_comes() -> None:
    films = plan_films(section(PhantomConfig, n_patients=60))
    kinds = Counter(lesion.kind for film in films for lesion in film.lesions)
    assert sum(not film.lesions for film in films) == 72
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 6
    assert {lesion.severity for film in films for lesion in film.lesions} == {"B", "M"}
    assert Counter(film.tissue for film in films) == dict.fromkeys(TISSUES, 40)


def test_both_breasts_of_a_patient_share_their_tissue_and_mirror_each_other(phantom_folder: Path) -> None:
    tissues: dict[str, set[str]] = {}
    for row in parse_info((phantom_folder / "Info.txt").read_bytes(), "Info.txt"):
        tissues.setdefault(patient_of(row.film_id), set()).add(row.tissue)
    assert all(len(own) == 1 for own in tissues.values())
    for number, film in enumerate(films_of(phantom_folder), start=1):
        tissue = film[400:700] > 30
        right_heavy = tissue[:, 512:].sum() > tissue[:, :512].sum()
        assert right_heavy == (laterality_of(f"mdb{number:03d}") == "right")


def test_texture_has_the_power_law_it_is_asked_for() -> None:
    field = power_law(3.0, np.random.default_rng(0)).astype(float)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(1024), np.fft.fftfreq(1024)))
    band = (frequency > 0.02) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_is_brighter_than_its_surroundings_and_stays_in_its_circle(kind: str) -> None:
    radius = RADIUS_PX[kind][1]
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    for seed in range(10):
        lesion = draw_lesion(kind, radius, np.random.default_rng(seed))
        assert lesion.shape == (2 * radius + 1, 2 * radius + 1)
        assert lesion.min() >= 0
        assert 0.7 < lesion.max() < 20
        assert lesion[np.hypot(rows, columns) > radius].max() == 0
