"""From the search space to Optuna's distributions, and from what a trial drew to settings."""

from itertools import product
from math import isclose
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from mammo.core.config import OVERRIDES, Config, PatchesConfig
from mammo.core.settings import explained
from mammo.core.systems import split_system
from mammo.core.tune_config import Choices, IntRange, TuneConfig, whole_values

Params = dict[str, Any]

FULL: Final = {"zoom": 0.2, "gain": 0.2, "offset": 16.0}
"""What an `augment_strength` of 1 means; 0 leaves the turns and flips of the recipe."""

NORMAL_SHARE: Final = 0.25
"""Yu et al. 2020 draw 1,000 patches of a Tumor ROI and 250 of a Normal one."""

RECIPE_RATES: Final = ("backbone_lr", "head_lr", "weight_decay", "label_smoothing")
TUNED: Final = "tuned"
"""The recipe that a study's result becomes."""


def distributions(tune: TuneConfig) -> dict[str, BaseDistribution]:
    """The search space as Optuna's distributions, in the order of `params.yaml`."""
    drawn: dict[str, BaseDistribution] = {}
    for name, one in tune.space.items():
        if isinstance(one, Choices):
            drawn[name] = CategoricalDistribution(one.choices)
        elif isinstance(one, IntRange):
            drawn[name] = IntDistribution(one.low, one.high, log=one.log, step=one.step)
        else:
            drawn[name] = FloatDistribution(one.low, one.high, log=one.log, step=one.step)
    return drawn


def without_fold(config: Config, fold: int) -> Config:
    """The settings of the study that must not see a nested fold."""
    values = config.model_dump(by_alias=True)
    values["tune"]["held_out_fold"] = fold
    return Config.parse(values)


def check_trials(config: Config) -> None:
    """Refuse a study in which a trial, or its choice, breaks a rule of `params.yaml`: before it, not in a worker.

    Only tuning asks: whoever does not tune may have settings that no trial can have.
    """
    space, patches = config.tune.space, config.patches.model_dump()
    names = ("size_px", "stride_px")
    values = [whole_values(space[name]) if name in space else [patches[name]] for name in names]
    with explained("params.yaml, tune.space"):
        for pair in product(*values):
            PatchesConfig.model_validate(patches | dict(zip(names, pair, strict=True)))
    _, first = chosen_settings(config, _first_values(config))
    Config.parse(first.model_dump(by_alias=True), "params.yaml, a trial of tune.recipe and tune.space")


def _first_values(config: Config) -> Params:
    space = config.tune.space.items()
    return {name: one.choices[0] if isinstance(one, Choices) else one.low for name, one in space}


def base_settings(config: Config) -> tuple[str, Config]:
    """A trial's settings at the first value of every range: all that the trials of a study have in common.

    What the space decides does not show in it, so applying a study's choice to `params.yaml` leaves it as it was.
    """
    return trial_settings(config, _first_values(config))


def own_params(config: Config) -> Params | None:
    """The point of the space that means the settings of `params.yaml`; None where the space does not hold it.

    A study tries it first, so that every other trial is compared with what one has already.
    """
    recipe, vote = config.recipe, config.vote
    by_share = "share_threshold" if vote.threshold == "validation" else "majority"
    named: Params = {
        "size_px": config.patches.size_px,
        "stride_px": config.patches.stride_px,
        "patches_per_roi": config.patches.tumor_draws,
        "fusion": split_system(config.tune.system)[1],
        **{name: getattr(recipe, name) for name in RECIPE_RATES},
        "augment_strength": recipe.augment.zoom / FULL["zoom"],
        "vote_rule": "mean_score" if vote.rule == "mean_score" else by_share,
    }
    params = {name: named[name] for name in config.tune.space}
    try:
        create_trial(params=params, distributions=distributions(config.tune), value=0.0)
    except ValueError:  # one of them lies outside its range
        return None
    _, chosen = chosen_settings(config, params)
    same = _alike(chosen.recipe.model_dump(), recipe.model_dump())
    return params if same and (chosen.patches, chosen.vote) == (config.patches, vote) else None


def _alike(a: Any, b: Any) -> bool:
    """Whether nested settings are equal up to the rounding of what a parameter scales."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    return isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) if isinstance(a, float) else bool(a == b)


def trial_settings(config: Config, params: Params) -> tuple[str, Config]:
    """The system and all settings of a trial that drew `params`, with the study's reduced budget."""
    system, chosen = chosen_settings(config, params)
    tune = config.tune
    budget = {"epochs": tune.epochs, "patches_per_epoch": tune.patches_per_epoch}
    recipe = chosen.recipe.model_copy(update=budget | {"patience": None, "validate_on": "grid"})
    return system, chosen.model_copy(update={"recipes": {**chosen.recipes, TUNED: recipe}})


def chosen_settings(config: Config, params: Params) -> tuple[str, Config]:
    """The system and the settings that the drawn values mean; the recipe `tuned` keeps the full budget.

    `patches_per_roi` are drawn of each Tumor ROI, a quarter of it of each Normal one (as in the paper). `majority` is
    half of the votes; `share_threshold` and `mean_score` take the threshold that validation gives. An AUC does not see
    the threshold: under it a study changes the rule alone.
    """
    backbone, fusion = split_system(config.tune.system)
    base = config.recipes[config.tune.recipe]
    recipe: Params = {name: float(params[name]) for name in RECIPE_RATES if name in params}
    if (strength := params.get("augment_strength")) is not None:
        scaled = {name: full * float(strength) for name, full in FULL.items()}
        recipe["augment"] = base.augment.model_copy(update=scaled)
    patches: Params = {name: int(params[name]) for name in ("size_px", "stride_px") if name in params}
    if (draws := params.get("patches_per_roi")) is not None:
        patches |= {"tumor_draws": int(draws), "normal_draws": max(1, round(int(draws) * NORMAL_SHARE))}
    vote: Params = {"tie": config.tune.tie or config.vote.tie}
    if rule := params.get("vote_rule"):
        vote["rule"] = "mean_score" if rule == "mean_score" else "majority"
        if config.tune.metric != "auc":
            vote |= {"threshold": "fixed" if rule == "majority" else "validation", "share_threshold": 0.5}
    sections = {
        "patches": config.patches.model_copy(update=patches),
        "vote": config.vote.model_copy(update=vote),
        "recipes": {**config.recipes, TUNED: base.model_copy(update=recipe)},
        "train": config.train.model_copy(update={"recipe": TUNED, **dict.fromkeys(OVERRIDES)}),
    }
    return f"{backbone}-{params.get('fusion', fusion)}", config.model_copy(update=sections)
