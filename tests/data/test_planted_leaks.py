"""Leaks planted into phantom ROIs: each kind is found, and nothing besides."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo.core.config import IngestConfig
from mammo.data.audit import find_pairs
from mammo.data.decode import decode_image
from mammo.data.extraction import crop_around, load_phantom, preprocess_film
from mammo.data.rois import RoiSet
from tests.data.pictures import Picture, jpeg


@dataclass(frozen=True)
class Phantoms:
    """ROIs of a phantom, and one of its films with the centre of a ROI in it."""

    rois: RoiSet
    film: Picture
    film_id: str
    x_px: int
    y_px: int


@pytest.fixture(scope="module")
def phantoms(phantom_folder: Path) -> Phantoms:
    rois = load_phantom(phantom_folder, IngestConfig(source="phantom", bounding_box=False))
    row = rois.table.iloc[0]
    path = phantom_folder / f"{row['film_id']}.pgm"
    film = preprocess_film(decode_image(path.read_bytes(), path.name))
    return Phantoms(rois, film, str(row["film_id"]), int(row["x_px"]), int(row["y_px"]))


def brighter(image: Picture) -> Picture:
    return np.minimum(image.astype(np.int16) + 25, 255).astype(np.uint8)


def more_contrast(image: Picture) -> Picture:
    return np.clip(1.4 * (image.astype(np.float64) - 128) + 120, 0, 255).astype(np.uint8)


def gamma(image: Picture) -> Picture:
    return np.rint(255 * (image / 255) ** 0.7).astype(np.uint8)


def noisy(image: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def mirrored(image: Picture) -> Picture:
    return image[:, ::-1]


def same(image: Picture) -> Picture:
    return image


CHANGES: list[Callable[[Picture], Picture]] = [same, brighter, more_contrast, gamma, noisy, jpeg]


def with_stranger(phantoms: Phantoms, image: Picture) -> tuple[pd.DataFrame, Picture]:
    """The ROIs of the phantom and, at the end, one more of unknown origin."""
    table = phantoms.rois.table
    planted = table.iloc[:1].assign(roi_id="planted", film_id=None, patient_id=None)
    return pd.concat([table, planted], ignore_index=True), np.concatenate([phantoms.rois.images, image[None]])


def test_phantom_rois_of_different_films_share_no_tissue(phantoms: Phantoms) -> None:
    pairs = find_pairs(phantoms.rois.table, phantoms.rois.images)
    film_of = phantoms.rois.table.set_index("roi_id")["film_id"]
    assert (pairs["a"].map(film_of) == pairs["b"].map(film_of)).all()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (17, -30), (-64, 41)])
@pytest.mark.parametrize("turn", [same, mirrored])
def test_tissue_of_one_film_is_found_shifted_mirrored_and_changed(
    phantoms: Phantoms,
    change: Callable[[Picture], Picture],
    turn: Callable[[Picture], Picture],
    dx: int,
    dy: int,
) -> None:
    crop = crop_around(phantoms.film, phantoms.x_px + dx, phantoms.y_px + dy)
    table, images = with_stranger(phantoms, np.ascontiguousarray(change(turn(crop))))
    keep = [0, 1, 2, 3, len(table) - 1]
    pairs = find_pairs(table.iloc[keep], images[keep])
    found = pairs[(pairs["a"] == table["roi_id"][0]) & (pairs["b"] == "planted")]
    assert found[["dx_px", "dy_px"]].to_numpy().tolist() == [[dx, dy]]
    kind = (
        "mirrored" if turn is mirrored else "shifted" if dx else "identical" if change is same else "altered"
    )
    assert found["kind"].tolist() == [kind]
    assert found["overlap_px"].tolist() == [(120 - abs(dx)) * (120 - abs(dy))]
    assert (found["mad"].iloc[0] == 0) == (change is same)
    assert len(pairs[pairs["b"] == "planted"]) == len(found)
