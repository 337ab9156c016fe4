"""ROIs from whole films in mini-MIAS format: the real database, or phantoms written like it."""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammo.config import IngestConfig
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.film_store import PHANTOM_MARK, FilmStore, is_phantom, open_films
from mammo.data.info_txt import FILM_SIDE_PX, Annotation, film_number, parse_info, patient_of
from mammo.data.normal_rois import choose_normal_films, draw_normal_centre
from mammo.data.sources import Progress, RoiSet, make_roi_set
from mammo.errors import DataError
from mammo.images import decode_image
from mammo.records import Label

logger = logging.getLogger(__name__)

GreyImage = npt.NDArray[np.uint8]
Row = dict[str, Any]


def load_mini_mias(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Cut the ROIs of the mini-MIAS films in `all-mias.tar.gz` or its unpacked folder.

    Every lesion with a place gives a Tumor ROI; normal films, chosen by `config.seed` to match the lesions'
    tissues, give one Normal ROI each. Ordered by film, then by the rows of `Info.txt`.

    Raises:
        DataError: the raw data is missing, incomplete, damaged, or a phantom.
    """
    if is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source mini_mias needs real films, got a phantom ({PHANTOM_MARK} is there); "
            "set ingest.source to phantom"
        )
    return _load_films(raw, config, "mini_mias", progress)


def load_phantom(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Cut the ROIs of a phantom folder as `load_mini_mias` does; every row is marked as synthetic.

    Raises:
        DataError: the folder is missing, incomplete, damaged, or not a phantom.
    """
    if raw.is_dir() and not is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source phantom needs a folder that `mammo phantom` wrote, got one without "
            f"{PHANTOM_MARK}; set ingest.source to mini_mias if the films are real"
        )
    if not raw.is_dir():
        raise DataError(
            f"{raw}: must be a folder of phantom films, got none; run `mammo phantom` to write it"
        )
    return _load_films(raw, config, "phantom", progress)


def check_films(raw: Path) -> int:
    """Check that `raw` is a mini-MIAS archive or folder whose films and table agree, pixels aside.

    Returns:
        The number of films.

    Raises:
        DataError: it is not.
    """
    with open_films(raw) as store:
        read_annotations(store)
        return len(store.films)


def _load_films(raw: Path, config: IngestConfig, source: str, progress: Progress | None) -> RoiSet:
    with open_films(raw) as store:
        annotations = read_annotations(store)
        lesions = _lesions_by_film(annotations)
        normals = _choose_normals(annotations, config.seed)
        found: dict[str, list[tuple[Row, GreyImage]]] = {}
        wanted = lesions.keys() | normals.keys()
        for done, (film_id, film) in enumerate(read_films(store, wanted), start=1):
            if film_id in lesions:
                found[film_id] = _cut_lesions(film, lesions[film_id], config)
            else:
                found[film_id] = _cut_normal(film, normals[film_id], config)
            if progress:
                progress(done, len(wanted))
    pairs = [pair for film_id in sorted(found) for pair in found[film_id]]
    shared = {"source": source, "synthetic": source == "phantom"}
    return make_roi_set([row | shared for row, _ in pairs], [image for _, image in pairs])


def read_annotations(store: FilmStore) -> list[Annotation]:
    """Parse the table of a store and check that it names exactly the films that are there.

    Raises:
        DataError: it does not, or is damaged.
    """
    annotations = parse_info(store.info.read(), store.info.name)
    named = {annotation.film_id for annotation in annotations}
    for missing in sorted(named - store.films.keys()):
        raise DataError(
            f"{store.name}: {missing}.pgm must be there as {store.info.name} names it, got none; "
            "complete the films from the published archive"
        )
    for unnamed in sorted(store.films.keys() - named):
        raise DataError(
            f"{store.info.name}: must have a row for {unnamed}, whose film is there, got none; "
            "use the table that comes with the films"
        )
    return annotations


def _lesions_by_film(annotations: Sequence[Annotation]) -> dict[str, list[Annotation]]:
    """Lesions with a place, in the table's order."""
    lesions: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.x_px is not None:
            lesions.setdefault(annotation.film_id, []).append(annotation)
    return lesions


def _choose_normals(annotations: Sequence[Annotation], seed: int) -> dict[str, Annotation]:
    normals = {
        annotation.film_id: annotation for annotation in annotations if annotation.abnormality == "NORM"
    }
    tissues = {film_id: annotation.tissue for film_id, annotation in normals.items()}
    lesion_tissues = [annotation.tissue for annotation in annotations if annotation.x_px is not None]
    return {film_id: normals[film_id] for film_id in choose_normal_films(tissues, lesion_tissues, seed)}


def read_films(store: FilmStore, wanted: Collection[str]) -> Iterator[tuple[str, GreyImage]]:
    """Decode the wanted films (ids) one at a time, so that memory holds a single one.

    Raises:
        DataError: a film is damaged or not of mini-MIAS's size.
    """
    for film_id, file in store.films.items():
        if film_id not in wanted:
            continue
        film = decode_image(file.read(), file.name)
        if film.shape != (FILM_SIDE_PX, FILM_SIDE_PX):
            raise DataError(
                f"{file.name}: a mini-MIAS film must be {FILM_SIDE_PX} x {FILM_SIDE_PX} pixels, got "
                f"{film.shape[1]} x {film.shape[0]}; use the films of all-mias.tar.gz unchanged"
            )
        yield film_id, film


def _cut_lesions(
    film: GreyImage, lesions: Sequence[Annotation], config: IngestConfig
) -> list[tuple[Row, GreyImage]]:
    preprocessed = preprocess_film(film)
    cut = []
    for number, lesion in enumerate(lesions, start=1):
        assert lesion.x_px is not None
        assert lesion.y_px is not None
        place = {"x_px": lesion.x_px, "y_px": lesion.y_px, "radius_px": lesion.radius_px}
        row = _row(lesion, f"lesion {number}", Label.TUMOR) | place
        cut.append((row, extract_roi(preprocessed, lesion.x_px, lesion.y_px, config.bounding_box)))
    return cut


def _cut_normal(film: GreyImage, annotation: Annotation, config: IngestConfig) -> list[tuple[Row, GreyImage]]:
    centre = draw_normal_centre(film, film_number(annotation.film_id), config.seed)
    if centre is None:
        logger.warning("%s gives no normal ROI: no crop fits inside its breast", annotation.film_id)
        return []
    row = _row(annotation, "normal", Label.NORMAL) | {"x_px": centre[0], "y_px": centre[1]}
    return [(row, extract_roi(preprocess_film(film), *centre, config.bounding_box))]


def _row(annotation: Annotation, which: str, label: Label) -> Row:
    return {
        "roi_id": f"{annotation.film_id}/{which}",
        "film_id": annotation.film_id,
        "patient_id": patient_of(annotation.film_id),
        "label": int(label),
        "abnormality": annotation.abnormality,
        "severity": annotation.severity,
        "tissue": annotation.tissue,
    }
