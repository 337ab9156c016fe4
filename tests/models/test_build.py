"""A classifier is built from its description and one seed."""

import pytest
import torch

from mammo.core.config import ModelConfig
from mammo.core.errors import ConfigError, WeightsError
from mammo.core.systems import FUSION_BACKBONES, FUSIONS
from mammo.models.build import Architecture, Classifier, build_classifier
from tests.settings import section, tiny_model

TINY = tiny_model()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("backbone", FUSION_BACKBONES)
def test_every_system_turns_grey_patches_into_two_logits(backbone: str, fusion: str) -> None:
    with torch.device("meta"):  # shapes alone, no arithmetic
        classifier = Classifier(Architecture.of(f"{backbone}-{fusion}", TINY)).eval()
        logits = classifier(torch.zeros(2, 1, 72, 72))
    assert logits.shape == (2, 2)


def test_auto_preprocessing_standardises_patches_for_a_network_without_pretrained_weights() -> None:
    assert Architecture.of("vgg16-model2", section(ModelConfig)).preprocessing == "samplewise_standardize"


def test_one_seed_gives_one_set_of_weights_another_seed_another_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_classifier("compact-model2", TINY, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])
    assert not torch.equal(first["backbone.blocks.block1.0.weight"], other["backbone.blocks.block1.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("system", ["vgg17-model1", "compact-model3", "compact", "model1", ""])
def test_a_system_that_does_not_exist_is_refused(system: str) -> None:
    with pytest.raises(ConfigError, match="BACKBONE-FUSION"):
        build_classifier(system, TINY, seed=0)


@pytest.mark.parametrize("weights", ["imagenet", "net.safetensors"])
def test_compact_has_no_pretrained_weights(weights: str) -> None:
    config = TINY.model_copy(update={"weights": weights})
    with pytest.raises(WeightsError, match=rf"model\.weights: {weights} .*compact-model1.* none"):
        build_classifier("compact-model1", config, seed=0)
