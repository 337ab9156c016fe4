"""Synthetic films in exactly mini-MIAS's format, for tests, demonstrations and machines without the data."""

from pathlib import Path
from typing import Final

import numpy as np

from mammo.config import PhantomConfig
from mammo.data.film_store import PHANTOM_MARK, is_phantom
from mammo.data.info_txt import FILM_SIDE_PX
from mammo.data.phantom_films import draw_film, plan_films
from mammo.data.phantom_lesions import paint_lesion
from mammo.data.sources import Progress
from mammo.errors import DataError
from mammo.storage import atomic_folder, read_json, write_json

__all__ = ["paint_lesion", "write_phantom"]

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


def write_phantom(config: PhantomConfig, out: Path, progress: Progress | None = None) -> None:
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
        raise DataError(
            f"{out}: must be new, empty or an older phantom, got other content; choose another folder"
        )
    with atomic_folder(out) as made:
        _write_films(config, made, progress)
        write_json(made / PHANTOM_MARK, mark)


def _write_films(config: PhantomConfig, folder: Path, progress: Progress | None) -> None:
    films = plan_films(config)
    rows: list[str] = []
    for number, film in enumerate(films, start=1):
        pixels, film_rows = draw_film(film, np.random.default_rng([config.seed, number]))
        header = f"P5\n{FILM_SIDE_PX} {FILM_SIDE_PX}\n255\n"
        (folder / f"{film.film_id}.pgm").write_bytes(header.encode() + pixels.tobytes())
        rows += film_rows
        if progress:
            progress(number, len(films))
    (folder / "Info.txt").write_bytes((_HEADER + "\n".join(rows) + "\n").encode())
