"""The defects of the paper's recipe as named settings: how each one is switched on and off.

Source: Yu et al. 2020 and its code. Two defects touch the evaluation alone; the others change what is fitted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from mammo.config import Config
from mammo.models.build import Architecture

Presence = Literal["yes", "no", "in part"]


@dataclass(frozen=True)
class Defect:
    """A defect that changes the fit.

    Attributes:
        name: as people call it.
        setting: the key of `params.yaml` that switches it.
        about: what the paper does, in one sentence.
        present: whether a system has it under some settings; `in part`: mixed with something else.
        on: overrides that bring it about.
        off: overrides that mend it.
    """

    name: str
    setting: str
    about: str
    present: Callable[[Config, str], Presence]
    on: Callable[[Config], dict[str, Any]]
    off: Callable[[Config], dict[str, Any]]


def _subtracts_mean(config: Config, system: str) -> Presence:
    """Standardised patches have lost their brightness, but their contrast too."""
    preprocessing = Architecture.of(system, config.model).preprocessing
    if preprocessing == "samplewise_standardize":
        return "in part"
    return _yes_or_no(preprocessing == "samplewise_center")


def _yes_or_no(present: bool) -> Presence:
    return "yes" if present else "no"


def _without_mean_subtraction(config: Config) -> dict[str, Any]:
    return {"model.preprocessing": "fixed_scale" if config.model.weights == "none" else "imagenet"}


def _has_prior(config: Config, system: str) -> Presence:
    more = config.patches.tumor_draws > config.patches.normal_draws
    return _yes_or_no(more and not config.recipe.class_balance)


def _switch(name: str, setting: str, about: str, *, defective: bool) -> Defect:
    """A defect that is one value of a true-or-false setting, such as `patches.last_offset`."""
    section, key = setting.split(".")
    return Defect(
        name,
        setting,
        about,
        lambda config, system: _yes_or_no(getattr(getattr(config, section), key) is defective),
        lambda config: {setting: defective},
        lambda config: {setting: not defective},
    )


CLASS_PRIOR: Final = Defect(
    "class prior of the patches",
    "recipes.RECIPE.class_balance",
    "four times as many patches of each Tumor ROI, so that most patches are Tumor where most ROIs are Normal",
    _has_prior,
    lambda config: {"recipe.class_balance": False, "patches.tumor_draws": 4 * config.patches.normal_draws},
    lambda config: {"recipe.class_balance": True},
)
LAST_OFFSET: Final = _switch(
    "last offset",
    "patches.last_offset",
    "random patches never reach the last row and column",
    defective=False,
)
MEAN_SUBTRACTION: Final = Defect(
    "mean subtraction",
    "model.preprocessing",
    "the mean of each patch is subtracted, and with it the brightness that tells many lesions (the contrast is kept on "
    "both sides; the grey levels stay unscaled with it, as in the paper, which BatchNorm takes back out)",
    _subtracts_mean,
    lambda config: {"model.preprocessing": "samplewise_center"},
    _without_mean_subtraction,
)
BOUNDING_BOX: Final = _switch(
    "distortion by the bounding box",
    "ingest.bounding_box",
    "a ROI is cropped to its foreground's bounding box and stretched back, which changes its shapes",
    defective=True,
)
CORNER_PATCHES: Final = _switch(
    "corner patches",
    "patches.corner_patches",
    "patches of a Tumor ROI are labelled and vote Tumor even where they miss the lesion",
    defective=True,
)
SPLIT_BY_ROI: Final = _switch(
    "split by ROI",
    "split.keep_groups",
    "ROIs of one patient, or of shared tissue, train and test; the folds are the same otherwise",
    defective=False,
)
FITTED: Final = (CLASS_PRIOR, LAST_OFFSET, MEAN_SUBTRACTION, BOUNDING_BOX, CORNER_PATCHES, SPLIT_BY_ROI)
"""The defects that need fits of their own."""
