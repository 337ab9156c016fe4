"""Which synthetic films there are, and each film's pixels and rows of `Info.txt`."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from mammo.config import PhantomConfig
from mammo.data.info_txt import FILM_SIDE_PX, laterality_of
from mammo.data.phantom_breast import TEXTURE_STD, Breast, FloatImage, develop, draw_breast
from mammo.data.phantom_lesions import RADIUS_PX, add_lesion, draw_lesion
from mammo.records import TISSUES

ABNORMAL_SHARE: Final = 0.4
_MALIGNANT_SHARE: Final = {"CALC": 0.45, "CIRC": 0.25, "SPIC": 0.6, "MISC": 0.5, "ARCH": 0.5, "ASYM": 0.35}


@dataclass(frozen=True)
class PlannedLesion:
    """A lesion that is still to be placed.

    Attributes:
        kind: CALC, CIRC, SPIC, MISC, ARCH or ASYM.
        severity: B or M.
        row_gives: whether its row in `Info.txt` gives its place, nothing, or note 3 for calcifications that are
            all over the breast.
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
    lesions = {
        int(index): _plan_lesions(str(kind), order, rng)
        for order, (index, kind) in enumerate(zip(abnormal, kinds, strict=True))
    }
    return [
        PlannedFilm(f"mdb{index + 1:03d}", str(tissues[index // 2]), lesions.get(index, ()))
        for index in range(n_films)
    ]


def _plan_lesions(kind: str, order: int, rng: np.random.Generator) -> tuple[PlannedLesion, ...]:
    """Plan the lesions of the abnormal film that is number `order`, from 0 on."""

    def severity(of_kind: str) -> str:
        return "M" if rng.uniform() < _MALIGNANT_SHARE[of_kind] else "B"

    if order % 40 == 1:
        return (PlannedLesion("CALC", severity("CALC"), "note"),)
    if order % 40 == 3:
        return (PlannedLesion("CIRC", severity("CIRC"), "nothing"),)
    if order % 12 == 2:
        return PlannedLesion(kind, severity(kind)), PlannedLesion(kind, severity(kind))
    return (PlannedLesion(kind, severity(kind)),)


def draw_film(film: PlannedFilm, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Draw a planned film.

    Returns:
        Grey levels of shape (1024, 1024), and the film's rows for `Info.txt`.
    """
    breast = draw_breast(film.tissue, laterality_of(film.film_id), rng)
    if not film.lesions:
        return develop(breast, breast.grey, rng), [f"{film.film_id} {film.tissue} NORM "]
    grey = breast.grey.copy()
    rows = []
    for lesion in film.lesions:
        row = f"{film.film_id} {film.tissue} {lesion.kind} {lesion.severity}"
        if lesion.row_gives == "note":
            _scatter_calcifications(grey, breast, rng)
            rows.append(f"{row} *NOTE 3*")
            continue
        x, y, radius = _place_lesion(grey, breast, lesion.kind, rng)
        rows.append(f"{row} {x} {FILM_SIDE_PX - y} {radius}" if lesion.row_gives == "place" else f"{row} ")
    return develop(breast, grey, rng), rows


def _place_lesion(
    grey: FloatImage, breast: Breast, kind: str, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Add one lesion to the tissue; returns x, y from the top-left corner and its radius."""
    smallest, largest = RADIUS_PX[kind]
    radius = round(smallest * (largest / smallest) ** rng.uniform())
    x, y = _inner_point(breast, rng)
    add_lesion(grey, draw_lesion(kind, radius, rng), x, y, TEXTURE_STD)
    return x, y, radius


def _scatter_calcifications(grey: FloatImage, breast: Breast, rng: np.random.Generator) -> None:
    for _ in range(12):
        x, y = _inner_point(breast, rng)
        add_lesion(grey, draw_lesion("CALC", RADIUS_PX["CALC"][1], rng), x, y, TEXTURE_STD)


def _inner_point(breast: Breast, rng: np.random.Generator) -> tuple[int, int]:
    """A point in the breast, half a ROI or so off its edge and the chest wall, outside the muscle."""
    from scipy.ndimage import minimum_filter

    inside = minimum_filter(breast.depth[::8, ::8] > 0.05, 13) & (breast.muscle[::8, ::8] == 0)
    rows, columns = np.nonzero(inside)
    pick = rng.integers(rows.size)
    y, x = 8 * np.array([rows[pick], columns[pick]]) + rng.integers(0, 8, size=2)
    return int(x), int(y)
