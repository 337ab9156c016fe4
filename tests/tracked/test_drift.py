"""`mammo drift`: what was served against what the champion was trained on."""

import json
import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mammo.core.config import Config
from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_table, write_table
from mammo.promotion.monitoring import compare, drift, psi
from mammo.serve.log import PredictionLog
from mammo.track.registry import champion
from tests.disc_rois import disc_rois
from tests.tracked.conftest import Mammo
from tests.tracked.registered import NAME

Finished = tuple[Workspace, Config]
Images = npt.NDArray[np.uint8]
THOUSAND = np.arange(1000.0)


def of_bins(*counts: int) -> npt.NDArray[np.float64]:
    """Values in the middle of the ten bins of `THOUSAND`, so many in each."""
    return np.repeat(np.arange(10) * 100 + 50.0, counts)


def test_psi_is_the_sum_that_one_computes_by_hand() -> None:
    # Twice (0.2 - 0.1) ln 2, four times nothing, four times (0.05 - 0.1) ln 0.5.
    index, n_bins = psi(of_bins(20, 20, 10, 10, 10, 10, 5, 5, 5, 5), THOUSAND)
    assert index == pytest.approx(0.4 * math.log(2))
    assert n_bins == 10
    assert psi(of_bins(*[10] * 10), THOUSAND)[0] == pytest.approx(0)


def test_half_an_observation_stands_for_an_empty_bin() -> None:
    expected = 0.9 * math.log(10) + 9 * (0.005 - 0.1) * math.log(0.05)
    assert psi(of_bins(100, *[0] * 9), THOUSAND)[0] == pytest.approx(expected)


def test_equal_deciles_make_one_bin() -> None:
    index, n_bins = psi(np.repeat([0.0, 1.0], [25, 75]), np.repeat([0.0, 1.0], 50))
    assert index == pytest.approx(-0.25 * math.log(0.5) + 0.25 * math.log(1.5))
    assert n_bins == 2


def test_what_did_not_drift_is_hardly_ever_called_drifted() -> None:
    rng = np.random.default_rng(3)
    words = [compare("score", rng.random(60), rng.random(74)).word for _ in range(500)]
    assert words.count("none") >= 495


@pytest.mark.parametrize(("shift", "word"), [(0.0, "none"), (0.4, "some"), (1.0, "large")])
def test_a_shift_is_called_by_its_size(shift: float, word: str) -> None:
    rng = np.random.default_rng(0)
    assert compare("mean", rng.normal(shift, 1, 3000), rng.normal(0, 1, 3000)).word == word


def test_few_answers_are_said_and_not_judged() -> None:
    found = compare("mean", np.zeros(49), THOUSAND)
    assert (found.word, found.n) == ("too few", 49)
    assert math.isnan(found.psi)


def serve(space: Workspace, images: Images, mark: str | None = None) -> None:
    """As if the service had answered about these ROIs by the champion, or the version with this mark."""
    mark = mark or champion(space, NAME).mark
    log = PredictionLog(space.predictions)
    for number, image in enumerate(images):
        tumor = number % 2
        row: dict[str, Any] = {
            "prediction_id": f"{mark}.{number:016x}",
            "model_version": mark[1:].partition(".")[0],
            "label": ("Normal", "Tumor")[tumor],
            "referral": False,
            "in_domain": True,
        }
        log.write(row | dict.fromkeys(("vote_share", "score", "probability"), tumor), image, "rois", 0, None)
    log.close()


@pytest.fixture
def space(finished: Finished, tmp_path: Path) -> Workspace:
    """A finished workspace with a log of its own."""
    root = tmp_path / "space"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("predictions"))
    return Workspace(root)


@pytest.mark.slow
def test_darker_pictures_are_drift_of_grey_levels_and_fail_the_command(mammo: Mammo, space: Workspace) -> None:
    images = disc_rois(40, 40, seed=9).images
    serve(space, images // 2)
    serve(space, images // 2)  # the same ROIs once more
    code, said, _ = mammo("drift", "--fail", "--json", "-w", str(space.root))

    assert code == 2
    found = {one["name"]: one for one in map(json.loads, said.splitlines())}
    assert list(found) == ["mean", "std", "p05", "p50", "p95", "vote_share", "score"]
    assert {(one["n"], one["n_reference"]) for one in found.values()} == {(80, 16), (80, 8)}
    assert found["mean"]["word"] == found["p50"]["word"] == "large"
    assert (space.reports / "drift" / "index.html").is_file()


@pytest.mark.slow
def test_the_expectations_name_what_left_the_bounds_of_the_reference(space: Workspace) -> None:
    images = disc_rois(40, 40, seed=9).images
    serve(space, images // 2)
    _, checked = drift(space, 30)
    assert checked is not None
    kept = {name: one["kept"] for name, one in checked["expectations"].items()}
    assert (kept["mean_as_in_reference"], kept["mostly_in_domain"]) == (False, True)


@pytest.mark.slow
def test_votes_of_other_versions_and_few_answers_are_not_judged(space: Workspace) -> None:
    for mark in ("v7.aaaaaaaa", "v1.aaaaaaaa"):  # the second is that of another store
        serve(space, disc_rois(5, 5, seed=9).images, mark)
    found, checked = drift(space, 30)
    assert {(one.name, one.n) for one in found} >= {("mean", 10), ("score", 0)}
    assert ({one.word for one in found}, checked) == ({"too few"}, None)


@pytest.mark.slow
def test_other_rois_or_parts_than_the_champion_was_fitted_on_are_no_reference(space: Workspace) -> None:
    serve(space, disc_rois(1, 1).images)
    split = read_table(space.split)
    changed = {"train": "val", "val": "train"}
    write_table(space.split, split.assign(split=split["split"].replace(changed)))
    with pytest.raises(DataError, match="must hold the ROIs that mammo-roi version 1 was fitted on"):
        drift(space, 30)


def test_a_log_without_answers_of_these_days_is_refused(mammo: Mammo, space: Workspace) -> None:
    serve(space, disc_rois(1, 1).images)
    (path,) = space.predictions.iterdir()
    old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    lines = [json.loads(line) | {"time": old} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    with pytest.raises(DataError, match="holds no answer of the last 30 days"):
        drift(space, 30)
    code, _, said = mammo("drift", "--days", "inf", "-w", str(space.root))
    assert (code, "36500" in said) == (2, True)
