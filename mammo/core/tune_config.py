"""The sections of `params.yaml` that studies of many fits read, and the rules of a search space."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mammo.core.records import MIN_PATCH_PX, ROI_SIDE_PX
from mammo.core.settings import Folds, Index, Positive, Section, Seed
from mammo.core.systems import members_of

VOTE_RULES: Final = ("majority", "mean_score", "share_threshold")


class IntRange(Section):
    """Whole numbers from `low` to `high`."""

    type: Literal["int"]
    low: int
    high: int
    step: Positive = 1
    log: bool = False


class FloatRange(Section):
    """Numbers from `low` to `high`."""

    type: Literal["float"]
    low: float
    high: float
    step: Annotated[float, Field(gt=0)] | None = None
    log: bool = False


def _is_choice(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a name or a number, got {value!r}; quote it if it is a name")
    return value


class Choices(Section):
    """One of a list."""

    type: Literal["categorical"]
    choices: list[Annotated[str | int | float, BeforeValidator(_is_choice)]]


Parameter = IntRange | FloatRange | Choices

LIMITS: Final[dict[str, tuple[float, float, str]]] = {
    "size_px": (MIN_PATCH_PX, ROI_SIDE_PX, "the pooling of Model2 and the ROI's side"),
    "stride_px": (1, ROI_SIDE_PX, "one pixel and the ROI's side"),
    "patches_per_roi": (1, 10_000, "one patch and what an index can hold"),
    "backbone_lr": (1e-8, 1.0, "rates that still learn"),
    "head_lr": (1e-8, 1.0, "rates that still learn"),
    "weight_decay": (0.0, 0.99, "what an optimiser takes"),
    "augment_strength": (0.0, 1.0, "none and full strength"),
    "label_smoothing": (0.0, 0.49, "none and labels that still differ"),
}
"""Least and greatest value of a numeric parameter, and why; whole numbers stand for whole-number parameters."""
KNOWN: Final = (*LIMITS, "fusion", "vote_rule")


class GridConfig(Section):
    """Repeated stratified grouped K-fold over several training seeds."""

    n_folds: Folds
    n_repeats: Positive
    n_seeds: Positive
    """Training seeds on every fold: 0 to n_seeds − 1 in the first repeat, the next n_seeds in the second, …"""
    seed: Seed
    """Shuffles the folds."""


class LedgerConfig(GridConfig):
    """Every system under the published and under honest protocols."""

    published_seeds: Positive
    """Training seeds on the published folders; their fits are those of `mammo seeds`."""


class AblateConfig(GridConfig):
    """The defects of the paper's recipe, toggled one at a time."""

    system: str
    protocol: Literal["honest", "development"]
    """honest: folds over all ROIs; development: folds within train and val, the test part stays closed."""


class StudyConfig(GridConfig):
    """Named variants compared within train and val, to choose settings by."""

    system: str


class TuneConfig(Section):
    """An Optuna study on folds inside train and val (read by `mammo tune`, outside plain `dvc repro`).

    A budget of 5 folds × 8 epochs × 768 patches = 31,000 training patches a trial is about a quarter of what the
    recipe's own fits see on as many folds. Two workers with one thread each, at 600 patches of 72 px a second, ended 40
    trials in 17 minutes; pruning saved 40% of the training. At half that speed it is about half an hour.
    """

    system: str
    """Backbone of all trials, and their fusion where the space has none."""
    recipe: str
    """A key of `recipes`: what a trial does not draw of its training."""
    metric: Literal["auc", "accuracy", "balanced_accuracy", "f1"]
    """What a trial is judged by: ROIs of the held-out fold, after voting. `auc` is that of the vote share, or of the
    mean score where `vote_rule` is mean_score; it does not see the threshold, so majority (half of the votes) and
    share_threshold (the share that validation gives) are one to it, and it leaves `vote.threshold` as it is."""
    trials: Positive
    n_folds: Folds
    """Stratified grouped folds; each is held out once, the next one chooses the epoch, the rest trains."""
    epochs: Positive
    """Of each fit of a trial; `train` keeps the recipe's own."""
    patches_per_epoch: Annotated[int, Field(ge=2)]
    seed: Seed
    """Of the sampler, the folds and the fits."""
    startup_trials: Positive
    """Trials drawn at random before the sampler (TPE) learns."""
    epoch_pruner: Literal["median", "none"]
    """Stops a trial after an epoch, by the validation AUC over the folds so far."""
    pruner_startup: Positive
    """median: trials that must have finished a fold before it stops another there."""
    warmup_epochs: Index
    """median: epochs of a fold that are never stopped."""
    wilcoxon_p: Annotated[float, Field(gt=0, lt=1)] | None
    """Stops a trial between folds whose values are worse than the best trial's (Wilcoxon's signed ranks; with k folds
    p is at least 2^−k, so 0.2 can stop after three). null: never."""
    tie: Literal["tumor", "normal"] | None
    """The class that a tied vote goes to. null: only grids with an odd number of votes are allowed."""
    min_sure_px: Annotated[int, Field(ge=0, le=ROI_SIDE_PX)]
    """Side of the ROI's centre that every patch of every trial must show: 2 size_px − 120 at least."""
    nested_folds: Folds
    """`mammo tune nested`: folds of which each is held out from a whole study, to judge what that study chose."""
    nested_seeds: Positive
    """`mammo tune nested`: training seeds of the choice and of the settings on every such fold."""
    held_out_fold: Index | None = None
    """Which of the nested folds this study must not see; null: none, it chooses for `train`."""
    heartbeat_s: Positive
    """PostgreSQL: a worker that is silent for four times as long counts as dead."""
    space: dict[str, Annotated[Parameter, Field(discriminator="type")]]

    @model_validator(mode="after")
    def _ranges_hold(self) -> Self:
        if self.held_out_fold is not None and self.held_out_fold >= self.nested_folds:
            raise ValueError(
                f"held_out_fold must be below nested_folds ({self.nested_folds}), got {self.held_out_fold}; lower it"
            )
        if not self.space:
            raise ValueError(f"space must hold at least one parameter, got none; add one of {', '.join(KNOWN)}")
        if self.epoch_pruner == "median" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be below epochs ({self.epochs}), or no epoch is ever stopped, got "
                f"{self.warmup_epochs}; lower it, or set epoch_pruner to none"
            )
        firsts = [next(_broken_rules(name, parameter), "") for name, parameter in self.space.items()]
        if any(firsts):
            raise ValueError("\n".join(filter(None, firsts)))
        return self


def _broken_rules(name: str, parameter: Parameter) -> Iterator[str]:
    at = f"space.{name}"
    if name not in KNOWN:
        yield f"{at} is not a known parameter; remove it or use one of {', '.join(KNOWN)}"
    elif isinstance(parameter, Choices):
        values, wrong = parameter.choices, [value for value in parameter.choices if isinstance(value, str)]
        if not values or len(set(values)) != len(values):
            yield f"{at}: choices must differ from each other and hold at least one, got {values}; list each once"
        if name in LIMITS and wrong:
            yield f"{at}: choices must be numbers, got {wrong[0]!r}; remove it, or write it without quotes"
        if name == "vote_rule" and not set(values) <= set(VOTE_RULES):
            yield f"{at}: choices must be of {list(VOTE_RULES)}, got {values}; correct the spelling"
    elif name not in LIMITS:
        kind = parameter.type
        yield f"{at} must be of type categorical (its values are names), got {kind}; list its choices"
    else:
        low, high, step = parameter.low, parameter.high, parameter.step
        if low > high:
            yield f"{at}: low must not be above high, got low {low} and high {high}; swap them"
        if parameter.log and (low <= 0 or step not in (None, 1)):
            yield (
                f"{at}: a log range needs a low above 0 and no step, got low {low} and step {step}; raise low, remove "
                "step or set log to false"
            )
        if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-9:
            yield (
                f"{at}: step must lead from low to high, got {low} to {high} by {step}; set high to "
                f"{low + (high - low) // step * step}"
            )
    if name in LIMITS:
        yield from _broken_limits(name, parameter)


def _broken_limits(name: str, parameter: Parameter) -> Iterator[str]:
    low, high, why = LIMITS[name]
    ends = parameter.choices if isinstance(parameter, Choices) else [parameter.low, parameter.high]
    numbers = [value for value in ends if not isinstance(value, str)]
    if isinstance(high, int) and (parameter.type == "float" or any(value != int(value) for value in numbers)):
        yield f"space.{name} must be of whole numbers, got {numbers}; use type int"
    for value in numbers:
        if not low <= value <= high:
            remedy = "raise" if value < low else "lower"
            yield f"space.{name} must be between {low} and {high} ({why}), got {value}; {remedy} it"


def whole_values(parameter: Parameter) -> list[int]:
    """Every value of a whole-number parameter, in order."""
    if isinstance(parameter, Choices):
        return sorted(int(value) for value in parameter.choices)
    return list(range(int(parameter.low), int(parameter.high) + 1, int(parameter.step or 1)))


def sure_centre_px(size_px: int) -> int:
    """Side of the ROI's centre that a patch shows wherever it lies: max(0, 2p − 120)."""
    return max(0, 2 * size_px - ROI_SIDE_PX)


def check_space(tune: TuneConfig, size_px: int, stride_px: int, fusions: Sequence[str]) -> None:
    """Check what rests on other sections: patches and grids (of `patches` where the space has none), and fusions.

    Raises:
        ValueError: the floor or an ensemble is to be tuned, a patch shows too little of the centre for sure, a grid
            can tie and no tie rule is stated, or a fusion does not exist.
    """
    if members_of(tune.system) != [tune.system]:
        raise ValueError(
            f"tune.system must be one network, without the floor, got {tune.system}; name one of "
            f"{members_of(tune.system)}"
        )
    sizes = whole_values(tune.space["size_px"]) if "size_px" in tune.space else [size_px]
    strides = whole_values(tune.space["stride_px"]) if "stride_px" in tune.space else [stride_px]
    if "size_px" in tune.space and sure_centre_px(sizes[0]) < tune.min_sure_px:
        raise ValueError(
            f"tune.space.size_px: every patch must show the central {tune.min_sure_px} px (tune.min_sure_px) for sure, "
            f"but {sizes[0]} shows the central 2 × {sizes[0]} − {ROI_SIDE_PX} = {2 * sizes[0] - ROI_SIDE_PX}; start at "
            f"{-(-(ROI_SIDE_PX + tune.min_sure_px) // 2)} or lower tune.min_sure_px"
        )
    for size, stride in product(sizes, strides) if tune.tie is None else ():
        votes = (ROI_SIDE_PX - size) // stride + 1
        if votes % 2 == 0:
            raise ValueError(
                f"tune.space.stride_px: without tune.tie every grid must have an odd number of votes, but size {size} "
                f"with stride {stride} gives {votes} × {votes}; state tune.tie or change the strides"
            )
    fusion = tune.space.get("fusion")
    unknown = [name for name in fusion.choices if name not in fusions] if isinstance(fusion, Choices) else []
    if unknown:
        raise ValueError(f"tune.space.fusion: choices must be of {list(fusions)}, got {unknown[0]!r}; correct it")
