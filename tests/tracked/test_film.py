"""Places of a film go through the extraction before the champion votes on them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.serve.predict import predict_files, predict_film

FILM = np.kron(np.random.default_rng(4).integers(30, 226, (40, 30), dtype=np.uint8), np.ones((10, 10), np.uint8))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.png"
    Image.fromarray(FILM).save(path)
    return path


def test_a_place_of_a_film_gets_the_vote_of_the_roi_that_training_would_have_seen(
    space: Workspace, film: Path, tmp_path: Path
) -> None:
    rows = predict_film(space, [film], ["100,120", "200,300"])
    cuts = [tmp_path / "first.png", tmp_path / "second.png"]
    for cut, (x, y) in zip(cuts, ((100, 120), (200, 300)), strict=True):
        Image.fromarray(extract_roi(preprocess_film(FILM), x, y)).save(cut)
    assert [row["at"] for row in rows] == [[100, 120], [200, 300]]
    for row, expected in zip(rows, predict_files(space, cuts), strict=True):
        assert {**row, "file": expected["file"]} == {**expected, "at": row["at"]}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("100", "must be X,Y in pixels"),
        ("nan,5", "must be X,Y in pixels"),
        ("5,inf", "must be X,Y in pixels"),
        ("1e308,5", "must be X,Y in pixels"),
        ("1e6,5", "must lie inside the film"),
        ("0,5", "must lie inside the film of 300 x 400 pixels"),
        ("1,401", "got 1,401"),
    ],
)
def test_a_place_that_is_none_is_refused(space: Workspace, film: Path, place: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        predict_film(space, [film], ["9,9", place])


def test_a_film_without_a_place_and_a_roi_with_one_are_told_what_to_do(
    space: Workspace, film: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="predict FILM --at X,Y"):
        predict_files(space, [film])
    large = tmp_path / "large.pgm"
    Image.fromarray(np.kron(FILM, np.ones((3, 3), np.uint8))).save(large)
    with pytest.raises(DataError, match=r"at most 524288 bytes.*predict FILM --at X,Y"):
        predict_files(space, [large])
    roi = tmp_path / "roi.png"
    Image.fromarray(FILM[:120, :120]).save(roi)
    with pytest.raises(DataError, match="send it without a place"):
        predict_film(space, [roi], ["60,60"])
    with pytest.raises(DataError, match="one film at a time"):
        predict_film(space, [film, film], ["60,60"])
