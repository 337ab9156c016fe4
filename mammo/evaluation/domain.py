"""Is a picture like the ROIs of training? Texture and histogram statistics, and a robust distance from them.

The training ROIs are median-filtered and equalised mammographic tissue. Flat pictures, noise, photos, and crops that
were not preprocessed have other statistics; what a network says about them has never been judged.
"""

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mammo.evaluation.intervals import Estimate, Result, wilson
from mammo.evaluation.metrics import FloatArray

Images = npt.NDArray[np.uint8]

FEATURES: Final[dict[str, str]] = {
    "contrast": "contrast",
    "peaks": "share of pixels that stand out from all neighbours",
    "grain": "grain",
    "relative_grain": "grain relative to its finest steps",
    "fine": "step over 2 pixels relative to that over 4 pixels",
    "middle": "step over 4 pixels relative to that over 8 pixels",
    "coarse": "step over 8 pixels relative to that over 16 pixels",
    "edges": "share of sharp edges",
}
"""What is measured, in people's words. All but `peaks` are logarithms, and that is a log-odds."""

QUANTILE: Final = 0.985
"""Share of ROIs like those of training that stay in domain. At 0.99 the limit hangs on the two or three strangest
training ROIs (crops of bare background, saturated ones), and most raw crops pass in some folds; 0.98 is all that
false alarms may cost."""

MIN_ROIS: Final = 30
"""Fewer ROIs tell nothing of how eight features vary together."""

_BORDER_PX: Final = 10
"""Left out all around: crops at a film's edge have a stripe there."""
_CLIP: Final = 3.0
_FOLDS: Final = 10
_UNFILTERED: Final = 2.0
"""Robust deviations of `peaks` and `relative_grain` from which a picture passes for unfiltered."""
_REMEDY: Final = "cut it from its film with `mammo predict FILM --at X,Y`"

_K: Final = len(FEATURES)
Row = Annotated[tuple[float, ...], Field(min_length=_K, max_length=_K)]


@dataclass(frozen=True)
class Domain(Result):
    """Where the ROIs of training lie among all pictures.

    Attributes:
        median, spread: of each feature; the spread is 1.4826 times the median absolute deviation.
        shift: mean of the standardised features, clipped at ±3.
        precision: inverse of the clipped features' covariance.
        limit: largest distance in domain; None where too few ROIs were seen, and only flat pictures are out.
        n_fitted: ROIs that all this comes from.
        false_alarms: share of the validation ROIs that are out of domain.
    """

    median: Row
    spread: Row
    shift: Row
    precision: Annotated[tuple[Row, ...], Field(min_length=_K, max_length=_K)]
    limit: float | None
    n_fitted: int
    false_alarms: Estimate | None = None

    def reasons(self, images: Images) -> list[str | None]:
        """Why each uint8 picture `(n, 120, 120)` is out of domain, in one sentence; None where it is not."""
        found = features(images)
        far = np.zeros(len(images), dtype=bool) if self.limit is None else self._distance(found) > self.limit
        return [
            f"shows one grey value, {image.flat[0]}; check the file"
            if image.min() == image.max()
            else self._reason(deviations)
            if out
            else None
            for image, deviations, out in zip(images, self._standardised(found), far, strict=True)
        ]

    def with_false_alarms(self, images: Images) -> "Domain":
        """The same domain and how many other ROIs, uint8 `(n, 120, 120)`, it takes for strangers (95% interval)."""
        n_out = sum(reason is not None for reason in self.reasons(images))
        return replace(self, false_alarms=wilson(n_out, len(images), 0.95))

    def _standardised(self, found: FloatArray) -> FloatArray:
        standardised: FloatArray = (found - np.array(self.median)) / np.array(self.spread)
        return standardised

    def _distance(self, found: FloatArray) -> FloatArray:
        """Mahalanobis distance of `features` from those of the training ROIs, in their spreads: `(n, 8)` → `(n,)`."""
        from_centre = self._standardised(found) - np.array(self.shift)
        distance: FloatArray = np.sqrt(((from_centre @ np.array(self.precision)) * from_centre).sum(axis=1))
        return distance

    def _reason(self, deviations: FloatArray) -> str:
        of = dict(zip(FEATURES, deviations.tolist(), strict=True))
        worst = max(of, key=lambda name: abs(of[name]))
        looks = "; check that it is a ROI of a mammogram"
        if min(of["peaks"], of["relative_grain"]) > _UNFILTERED:
            looks = f": grey levels as of a crop that was not median-filtered and equalised; {_REMEDY}"
        elif worst in ("grain", "peaks") and of[worst] < 0:
            looks = f": grey levels as of a crop that was not equalised, or was enlarged; {_REMEDY}"
        side = "high" if of[worst] > 0 else "low"
        return f"is unlike the ROIs of training, its {FEATURES[worst]} is too {side}{looks}"


ANY_DOMAIN: Final = Domain((0.0,) * _K, (1.0,) * _K, (0.0,) * _K, ((0.0,) * _K,) * _K, limit=None, n_fitted=0)
"""All that can be said before a training part was seen: a flat picture is no ROI."""


def fit_domain(images: Images) -> Domain:
    """The domain of training ROIs, uint8 `(n, 120, 120)`: robust to the few strange ones among them.

    The limit is the ceil((n + 1) · `QUANTILE`)-th smallest distance (the largest, where that is more than n) of ROIs
    from the domain of the other nine tenths, so that it holds for ROIs that were not fitted.
    """
    n, found = len(images), features(images)
    if n < MIN_ROIS:
        return replace(ANY_DOMAIN, n_fitted=n)
    fold, held_out = np.arange(n) % _FOLDS, np.empty(n)
    for one in range(_FOLDS):
        held_out[fold == one] = _fit(found[fold != one])._distance(found[fold == one])
    rank = min(math.ceil((n + 1) * QUANTILE), n)
    return replace(_fit(found), limit=float(np.sort(held_out)[rank - 1]))


def _fit(found: FloatArray) -> Domain:
    median = np.median(found, axis=0)
    # Neither a feature that never varies nor two that always agree may divide by 0.
    spread = np.maximum(1.4826 * np.median(np.abs(found - median), axis=0), 1e-3)
    clipped = ((found - median) / spread).clip(-_CLIP, _CLIP)
    precision = np.linalg.inv(np.cov(clipped.T) + 1e-3 * np.eye(_K))
    numbers = (median, spread, clipped.mean(axis=0), *precision)
    centre, widths, shift, *rows = (tuple(map(float, row)) for row in numbers)
    return Domain(centre, widths, shift, tuple(rows), limit=None, n_fitted=len(found))


_EXCHANGES: Final = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


def features(images: Images) -> FloatArray:
    """The `FEATURES` of uint8 pictures: `(n, 120, 120)` → `(n, 8)`."""
    return np.array([_features(image) for image in images]).reshape(-1, _K)


def _features(image: Images) -> list[float]:
    grey = image[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
    x = grey.astype(np.int16)  # whole numbers, whose sums are exact
    steps = {px: (x[px:] - x[:-px], x[:, px:] - x[:, :-px]) for px in (1, 2, 4, 8, 16)}
    energy = {px: _mean(*(np.square(step, dtype=np.int32) for step in pair)) for px, pair in steps.items()}
    inner, around = x[1:-1, 1:-1], (x[:-2, 1:-1], x[2:, 1:-1], x[1:-1, :-2], x[1:-1, 2:])
    highest, lowest = reduce(np.maximum, around), reduce(np.minimum, around)
    peaks = _mean((inner > highest) | (inner < lowest))
    grain = _mean(np.square(inner - _medians(grey).astype(np.int16), dtype=np.int32))
    contrast, slope = float(grey.std()), _mean(*map(np.abs, steps[1]))
    # What is added keeps the logarithms finite, and is below what rounding to grey levels does.
    return [
        math.log(contrast + 0.25),
        math.log((peaks + 0.002) / (1 - peaks + 0.002)),
        math.log(math.sqrt(grain) + 0.25),
        math.log((grain + 0.05) / (energy[1] + 0.05)),
        *(math.log((energy[px] + 0.05) / (energy[2 * px] + 0.05)) for px in (2, 4, 8)),
        math.log((math.sqrt(energy[1]) + 0.25) / (slope + 0.25)),
    ]


def _mean(*parts: npt.NDArray[Any]) -> float:
    """The mean of whole numbers in several arrays."""
    return sum(int(part.sum()) for part in parts) / sum(part.size for part in parts)


def _medians(grey: Images) -> Images:
    """The median of each 3 × 3 pixels, `(h, w)` → `(h - 2, w - 2)`: 15 times as fast as SciPy's filter of any size.

    Smith 1996, "Implementing median filters in XC4000E FPGAs": 19 exchanges leave the median in the middle.
    """
    height, width = grey.shape
    sorted_ = [grey[top : height - 2 + top, left : width - 2 + left] for top in range(3) for left in range(3)]
    for low, high in _EXCHANGES:
        a, b = sorted_[low], sorted_[high]
        sorted_[low], sorted_[high] = np.minimum(a, b), np.maximum(a, b)
    return sorted_[4]
