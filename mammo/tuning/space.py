"""From the search space to Optuna's distributions, and from what a trial drew to settings."""

from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mammo.config import AugmentConfig, Config, VoteConfig, split_system
from mammo.search_space import Choices, IntRange, TuneConfig

Params = dict[str, Any]

FULL_ZOOM: Final = 0.2
FULL_GAIN: Final = 0.2
FULL_OFFSET: Final = 16.0
"""What an `augment_strength` of 1 means; 0 leaves the turns and flips of the recipe."""

TUNED: Final = "tuned"
"""The recipe that a study's result becomes."""


def distributions(tune: TuneConfig) -> dict[str, BaseDistribution]:
    """The search space as Optuna's distributions, in the order of `params.yaml`."""
    return {name: _distribution(parameter) for name, parameter in tune.space.items()}


def _distribution(parameter: Any) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def trial_settings(config: Config, params: Params) -> tuple[str, Config]:
    """The system and all settings of a trial, with the study's reduced budget.

    Args:
        config: what the trial did not draw comes from here.
        params: what it drew.
    """
    tune = config.tune
    budget = {
        "epochs": tune.epochs,
        "patches_per_epoch": tune.patches_per_epoch,
        "patience": None,
        "validate_on": "grid",
    }
    system, chosen = chosen_settings(config, params)
    recipe = chosen.recipe.model_copy(update=budget)
    return system, chosen.model_copy(update={"recipes": {**chosen.recipes, TUNED: recipe}})


def chosen_settings(config: Config, params: Params) -> tuple[str, Config]:
    """The system and the settings that the drawn values mean; the recipe `tuned` keeps the full budget."""
    backbone, fusion = split_system(config.tune.system)
    recipe = config.recipe.model_copy(
        update={
            name: float(params[name])
            for name in ("backbone_lr", "head_lr", "weight_decay", "label_smoothing")
            if name in params
        }
        | ({"augment": _augment(config, params)} if "augment_strength" in params else {})
    )
    train = config.train.model_copy(
        update={
            "recipe": TUNED,
            "epochs": None,
            "patches_per_epoch": None,
            "head_lr": None,
            "backbone_lr": None,
        }
    )
    return f"{backbone}-{params.get('fusion', fusion)}", config.model_copy(
        update={
            "patches": config.patches.model_copy(update=_patches(config, params)),
            "vote": _vote(config, params),
            "recipes": {**config.recipes, TUNED: recipe},
            "train": train,
        }
    )


def _augment(config: Config, params: Params) -> AugmentConfig:
    strength = float(params["augment_strength"])
    ranges = {"zoom": FULL_ZOOM * strength, "gain": FULL_GAIN * strength, "offset": FULL_OFFSET * strength}
    return config.recipe.augment.model_copy(update=ranges)


def _patches(config: Config, params: Params) -> Params:
    """Side, step and draws: `patches_per_roi` of each Tumor ROI, Normal ROIs in the proportion of `patches`."""
    changes: Params = {name: int(params[name]) for name in ("size_px", "stride_px") if name in params}
    if "patches_per_roi" in params:
        draws = int(params["patches_per_roi"])
        share = config.patches.normal_draws / config.patches.tumor_draws
        changes |= {"tumor_draws": draws, "normal_draws": max(1, round(draws * share))}
    return changes


def _vote(config: Config, params: Params) -> VoteConfig:
    """`majority` is half of the votes; `share_threshold` another share of them, drawn or that of `vote`."""
    changes: Params = {"tie": config.tune.tie or config.vote.tie}
    rule = params.get("vote_rule")
    drawn = float(params.get("share_threshold", config.vote.share_threshold))
    if rule in ("majority", "mean_score"):
        changes |= {"rule": rule, "share_threshold": 0.5}
    elif rule == "share_threshold":
        changes |= {"rule": "majority", "share_threshold": drawn}
    elif "share_threshold" in params:
        changes |= {"share_threshold": drawn}
    return config.vote.model_copy(update=changes)
