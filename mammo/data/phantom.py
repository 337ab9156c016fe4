"""Phantoms: synthetic films in the format of mini-MIAS."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from mammo.core.config import PhantomConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_folder, read_json, write_json
from mammo.core.records import TISSUES
from mammo.data.films import FILM_SIDE_PX, PHANTOM_MARK, is_phantom, laterality_of
from mammo.data.phantom_drawing import (
    RADIUS_PX,
    TEXTURE_STD,
    Breast,
    add_lesion,
    develop,
    draw_breast,
    draw_lesion,
)

ABNORMAL_SHARE: Final = 0.4
_MALIGNANT_SHARE: Final = {"CALC": 0.45, "CIRC": 0.25, "SPIC": 0.6, "MISC": 0.5, "ARCH": 0.5, "ASYM": 0.35}


@dataclass(frozen=True)
class PlannedLesion:
    """A lesion still to be placed: kind (CALC … ASYM), severity (B, M), and what its row in `Info.txt` gives.

    That is its place, nothing, or note 3 for calcifications that are all over the breast.
    """

    kind: str
    severity: str
    row_gives: Literal["place", "nothing", "note"] = "place"


@dataclass(frozen=True)
class PlannedFilm:
    """A film's name, tissue class (F, G, D) and lesions; none makes it normal."""

    film_id: str
    tissue: str
    lesions: tuple[PlannedLesion, ...]


def plan_films(config: PhantomConfig) -> list[PlannedFilm]:
    """Decide tissues and lesions of all films: two films a patient, four of ten abnormal, every kind as often.

    The quirks of the real table come along: lesions without a place, and two lesions in one film.
    """
    rng = np.random.default_rng([config.seed, 0])
    n_films = 2 * config.n_patients
    tissues = rng.permutation(np.resize(TISSUES, config.n_patients))
    abnormal = rng.permutation(n_films)[: round(ABNORMAL_SHARE * n_films)]
    kinds = np.resize(rng.permutation(list(RADIUS_PX)), abnormal.size)

    def lesion(kind: str, row_gives: Literal["place", "nothing", "note"] = "place") -> PlannedLesion:
        return PlannedLesion(kind, "M" if rng.uniform() < _MALIGNANT_SHARE[kind] else "B", row_gives)

    lesions: dict[int, tuple[PlannedLesion, ...]] = {}
    for order, (index, kind) in enumerate(zip(abnormal.tolist(), kinds.tolist(), strict=True)):
        if order % 40 == 1:
            lesions[index] = (lesion("CALC", "note"),)
        elif order % 40 == 3:
            lesions[index] = (lesion("CIRC", "nothing"),)
        else:
            lesions[index] = tuple(lesion(kind) for _ in range(2 if order % 12 == 2 else 1))
    return [
        PlannedFilm(f"mdb{index + 1:03d}", str(tissues[index // 2]), lesions.get(index, ())) for index in range(n_films)
    ]


def draw_film(film: PlannedFilm, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Grey levels (1024, 1024) of a planned film, and its rows for `Info.txt`."""
    breast = draw_breast(film.tissue, laterality_of(film.film_id), rng)
    if not film.lesions:
        return develop(breast, breast.grey, rng), [f"{film.film_id} {film.tissue} NORM "]
    grey = breast.grey.copy()
    rows = []
    for lesion in film.lesions:
        smallest, largest = RADIUS_PX[lesion.kind]
        spread = lesion.row_gives == "note"
        radius = largest if spread else round(smallest * (largest / smallest) ** rng.uniform())
        for _ in range(12 if spread else 1):
            x, y = _inner_point(breast, rng)
            add_lesion(grey, draw_lesion(lesion.kind, radius, rng), x, y, TEXTURE_STD)
        given = {"place": f"{x} {FILM_SIDE_PX - y} {radius}", "note": "*NOTE 3*", "nothing": ""}
        where = given[lesion.row_gives]
        rows.append(f"{film.film_id} {film.tissue} {lesion.kind} {lesion.severity} {where}")
    return develop(breast, grey, rng), rows


def _inner_point(breast: Breast, rng: np.random.Generator) -> tuple[int, int]:
    """A point in the breast, half a ROI or so off its edge and the chest wall, outside the muscle."""
    from scipy.ndimage import minimum_filter

    inside = minimum_filter(breast.depth[::8, ::8] > 0.05, 13) & (breast.muscle[::8, ::8] == 0)
    rows, columns = np.nonzero(inside)
    pick = rng.integers(rows.size)
    y, x = 8 * np.array([rows[pick], columns[pick]]) + rng.integers(0, 8, size=2)
    return int(x), int(y)


GENERATOR_VERSION: Final = 1
"""Raised when the same seed gives other films, so that old folders are written anew."""

_HEADER: Final = f"""SYNTHETIC FILMS
===============

These films are computed. They show no person, and no result on them says anything about people.
Their format is that of the mini-MIAS database. One line for each lesion or normal film:

  1  film's name
  2  tissue:       F fatty, G fatty-glandular, D dense-glandular
  3  abnormality:  CALC calcification, CIRC circumscribed mass, SPIC spiculated mass, MISC other mass,
                   ARCH architectural distortion, ASYM asymmetry, NORM normal
  4  severity:     B benign, M malignant
  5  x and
  6  y of the lesion's centre, in pixels from the lower left corner
  7  radius in pixels of a circle around the lesion

Notes
  1  Films come in pairs: right (odd numbers) and left (even numbers) of one patient.
  2  Every film has {FILM_SIDE_PX} x {FILM_SIDE_PX} pixels.
  3  Calcifications that are spread over the whole breast have no centre and no radius.

"""


def write_phantom(config: PhantomConfig, out: Path) -> None:
    """Write a folder of films (`mdb001.pgm` …), `Info.txt` and `phantom.json`.

    The same configuration gives the same bytes. A folder that already holds it is left alone, one of another
    configuration is replaced, and the folder appears complete or not at all.

    Raises:
        DataError: `out` holds something that is no phantom, or cannot be written.
    """
    mark = {"generator": GENERATOR_VERSION, **config.model_dump()}
    if is_phantom(out) and read_json(out / PHANTOM_MARK) == mark:
        return
    if out.exists() and not is_phantom(out) and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: must be new, empty or an older phantom, got other content; choose another folder")
    rows: list[str] = []
    with atomic_folder(out) as made:
        for number, film in enumerate(plan_films(config), start=1):
            pixels, film_rows = draw_film(film, np.random.default_rng([config.seed, number]))
            header = f"P5\n{FILM_SIDE_PX} {FILM_SIDE_PX}\n255\n"
            (made / f"{film.film_id}.pgm").write_bytes(header.encode() + pixels.tobytes())
            rows += film_rows
        (made / "Info.txt").write_bytes((_HEADER + "\n".join(rows) + "\n").encode())
        write_json(made / PHANTOM_MARK, mark)
