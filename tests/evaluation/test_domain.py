"""Which pictures are like the ROIs of training: against plain formulas, made pictures, and the real films."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import median_filter
from scipy.stats import chi2

from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.films import open_films, read_annotations, read_films
from mammo.data.rois import Rois
from mammo.evaluation import domain as module
from mammo.evaluation.domain import ANY_DOMAIN, FEATURES, MIN_ROIS, QUANTILE, Domain, features, fit_domain
from mammo.evaluation.intervals import wilson

Images = npt.NDArray[np.uint8]
ROWS, COLUMNS = np.mgrid[:120, :120]


def made_films(n: int, seed: int = 0) -> list[Images]:
    """Films with structure at every scale, as 1 / f noise has, and grain: `(256, 256)` each."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    frequency[0, 0] = np.inf
    films = []
    for _ in range(n):
        cloud = np.fft.ifft2(np.fft.fft2(rng.normal(size=(256, 256))) / frequency**1.4).real
        grey = 128 + rng.uniform(10, 18) * cloud / cloud.std() + rng.normal(0, 1.5, (256, 256))
        films.append(grey.clip(0, 255).astype(np.uint8))
    return films


def crops(films: Sequence[Images]) -> Images:
    return np.stack([film[68:188, 68:188] for film in films])


@pytest.fixture(scope="module")
def films() -> list[Images]:
    return made_films(90)


@pytest.fixture(scope="module")
def tissue(films: list[Images]) -> Images:
    return crops([preprocess_film(film) for film in films])


@pytest.fixture(scope="module")
def fitted(tissue: Images) -> Domain:
    return fit_domain(tissue[:80])


def share_out(domain: Domain, images: Images) -> float:
    return float(np.mean([reason is not None for reason in domain.reasons(images)]))


RNG = np.random.default_rng(1)
STRANGE: dict[str, npt.NDArray[Any]] = {
    "noise": RNG.integers(0, 256, (120, 120)),
    "faint noise": RNG.normal(128, 5, (120, 120)),
    "checkerboard": 255 * ((ROWS // 8 + COLUMNS // 8) % 2),
    "pixel checkerboard": 90 + 80 * ((ROWS + COLUMNS) % 2),
    "ramp": 2 * ROWS,
    "disc": np.where(np.hypot(ROWS - 60, COLUMNS - 60) < 30, 200, 100),
    "text": 255 * (np.kron(RNG.integers(0, 2, (20, 20)), np.ones((6, 6))) > 0),
    "one pixel": 128 + (ROWS == 60) * (COLUMNS == 60),
}
"""Pictures that are no ROIs."""


def strange(name: str) -> Images:
    return STRANGE[name].clip(0, 255).astype(np.uint8)[None]


def test_features_follow_their_formulas() -> None:
    """A picture whose steps are known: rows that alternate between 100 and 104, so that a median takes nothing."""
    stripes = np.where(ROWS % 2 == 0, 100, 104).astype(np.uint8)
    found = dict(zip(FEATURES, features(stripes[None])[0].tolist(), strict=True))
    assert found["contrast"] == pytest.approx(np.log(2.25))
    assert found["peaks"] == pytest.approx(np.log(0.002 / 1.002))  # equal to the neighbours in their row
    # Three rows of three: six of nine pixels are the other level, so the median takes 4 off everywhere.
    assert found["grain"] == pytest.approx(np.log(4.25))
    # Half of the steps over one pixel are 4, half are 0; over 2, 4, 8 and 16 pixels all are 0.
    assert found["relative_grain"] == pytest.approx(np.log(16.05 / 8.05))
    assert [found[name] for name in ("fine", "middle", "coarse")] == [0, 0, 0]
    assert found["edges"] == pytest.approx(np.log((np.sqrt(8) + 0.25) / 2.25))


def test_grain_is_the_distance_from_scipys_median_of_nine_pixels(tissue: Images) -> None:
    grey = tissue[0, 10:-10, 10:-10].astype(float)
    removed = (grey - median_filter(grey, 3))[1:-1, 1:-1]
    (found,) = features(tissue[:1])
    assert found[list(FEATURES).index("grain")] == pytest.approx(np.log(np.sqrt((removed**2).mean()) + 0.25))


def test_turning_or_mirroring_a_picture_changes_nothing(tissue: Images) -> None:
    turned = np.stack([np.flipud(tissue[0]), tissue[0].T, np.rot90(tissue[0])])
    assert features(turned) == pytest.approx(np.repeat(features(tissue[:1]), 3, axis=0))


def test_rois_like_those_of_training_are_in_domain(fitted: Domain, tissue: Images) -> None:
    assert fitted.n_fitted == 80
    assert fitted.reasons(tissue[80:]) == [None] * 10
    assert fitted.with_false_alarms(tissue[80:]).false_alarms == wilson(0, 10, 0.95)
    assert fitted.reasons(tissue[:0]) == []


@pytest.mark.parametrize("name", STRANGE)
def test_a_picture_of_something_else_is_out_of_domain_with_a_sentence(fitted: Domain, name: str) -> None:
    (reason,) = fitted.reasons(strange(name))
    assert str(reason).startswith("is unlike the ROIs of training, its ")


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_flat_picture_is_out_of_every_domain(fitted: Domain, grey: int) -> None:
    flat = np.full((1, 120, 120), grey, dtype=np.uint8)
    for domain in (ANY_DOMAIN, fitted):
        assert domain.reasons(flat) == [f"shows one grey value, {grey}; check the file"]


def test_raw_crops_are_out_of_domain_with_the_remedy(fitted: Domain, films: list[Images]) -> None:
    for reason in fitted.reasons(crops(films[80:])):
        assert "not median-filtered and equalised" in str(reason)
        assert str(reason).endswith("`mammo predict FILM --at X,Y`")
    smooth = fitted.reasons(crops([median_filter(film, 3) for film in films[80:]]))
    assert all(reason and "not equalised" in reason for reason in smooth)


def test_the_limit_keeps_its_share_of_new_pictures_and_strange_training_rois_do_not_move_the_centre(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gaussian statistics, of which 1 in 100 is wild: held-out ones stay in domain as often as `QUANTILE` says."""
    rng = np.random.default_rng(3)
    mixing = np.eye(len(FEATURES)) + 0.3
    drawn: npt.NDArray[Any] = rng.normal(size=(4000, len(FEATURES))) @ mixing + 5
    wild = drawn.copy()
    wild[::100] += 40
    monkeypatch.setattr(module, "features", lambda rows: rows)
    clean, dirty = fit_domain(drawn[:2000]), fit_domain(wild[:2000])
    out = [reason is not None for reason in clean.reasons(drawn[2000:])]
    assert np.mean(out) == pytest.approx(1 - QUANTILE, abs=0.006)
    assert dirty.median == pytest.approx(clean.median, abs=0.05)
    # Clipping at ±3 hardly touches a Gaussian, so the distances are nearly chi distributed.
    assert clean.limit == pytest.approx(np.sqrt(chi2.ppf(QUANTILE, len(FEATURES))), rel=0.03)


def test_of_too_few_rois_nothing_but_a_flat_picture_is_called_strange(tissue: Images) -> None:
    few = fit_domain(tissue[: MIN_ROIS - 1])
    assert few == replace(ANY_DOMAIN, n_fitted=MIN_ROIS - 1)
    assert few.reasons(strange("noise")) == [None]


@pytest.mark.real
def test_on_the_real_films_few_held_out_rois_and_nearly_all_raw_crops_are_referred(
    real_rois: Rois, real_films: Path
) -> None:
    """Fitted on the 197 published training ROIs; raw crops lie at the lesions of every third film with one."""
    split = real_rois.table["published_split"]
    fitted = fit_domain(real_rois.images[split == "train"])
    with open_films(real_films) as store:
        places: dict[str, list[tuple[int, int]]] = {}
        for one in read_annotations(store):
            if one.x_px is not None and one.y_px is not None:
                places.setdefault(one.film_id, []).append((one.x_px, one.y_px))
        films = read_films(store, set(sorted(places)[::3]))
        raw = [extract_roi(film, *place) for film_id, film in films for place in places[film_id]]
    # Measured: 2 of 129 held-out ROIs are 1.6% (0.4% to 5.5%), 40 of 40 raw crops are all (91.2% to 100%).
    assert len(raw) == 40
    assert share_out(fitted, real_rois.images[split != "train"]) <= 0.02
    assert share_out(fitted, np.stack(raw)) >= 0.95
