"""Names of systems: a backbone and a fusion, or several such joined by `+`, and the floor beside them."""

from mammo.core.errors import ConfigError

FUSIONS = ("baseline", "model1", "model2")
_VGGS = ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
FUSION_BACKBONES = ("compact", *_VGGS, "densenet121", "resnet50", "mobilenet_v2")

HED_SHA256 = "25d7e6b17b76ac218ce5638add5c4e9e12ee5aed0bdbbf7520d52f8a26c2ae02"
"""Of the file that `model.weights: hed` stands for, so that the name alone says which weights a fit starts from."""


FLOOR = "floor"
"""Name of the floor among the judged systems: a logistic regression on 8 intensity statistics."""
FLOOR_SUFFIX = f"-{FLOOR}"
"""Of a system whose votes also count the floor's evidence (`evaluation.stacking`), after its network's name."""

SEED_STEP = 1000
"""Between the seeds of equal members, so that runs of consecutive seeds share none."""


def network_of(system: str) -> str:
    """The system without the floor: `compact-model2-floor` → `compact-model2`."""
    return system.removesuffix(FLOOR_SUFFIX)


def members_of(system: str) -> list[str]:
    """The networks whose scores are averaged: `compact-model1+compact-model2-floor` has two, most systems have one."""
    return network_of(system).split("+")


def fits_of(system: str, seed: int) -> list[tuple[str, int]]:
    """Name and training seed of each member; a network that comes again has another seed."""
    names = members_of(system)
    return [(name, seed + SEED_STEP * names[:place].count(name)) for place, name in enumerate(names)]


def has_floor(system: str) -> bool:
    """Whether the floor's evidence counts in its votes."""
    return system.endswith(FLOOR_SUFFIX)


def split_system(system: str) -> tuple[str, str]:
    """Backbone and fusion of a system's name: `vgg16-model2` → (`vgg16`, `model2`); `ConfigError` without such ones."""
    backbone, _, fusion = network_of(system).rpartition("-")
    if backbone not in FUSION_BACKBONES or fusion not in FUSIONS:
        raise ConfigError(
            f"params.yaml: systems are written BACKBONE-FUSION with a backbone of {list(FUSION_BACKBONES)} and a "
            f"fusion of {list(FUSIONS)}, several joined by + for an ensemble, and {FLOOR_SUFFIX} behind it where the "
            f"floor's evidence is to count, got {system!r}; for example compact-model2"
        )
    return backbone, fusion


def title_of(system: str, weights: str) -> str:
    """A system as people read it: `vgg16 (HED)-model1`, whose weights are not ImageNet's own."""
    return system.replace("vgg16-", "vgg16 (HED)-") if weights == "hed" else system
