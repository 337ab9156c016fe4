"""The blocks of every backbone are what torchvision's own forward computes, at strides 2, 4, 8, 16, 32."""

from math import ceil

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv

from mammo.core.config import PreprocessingName
from mammo.core.systems import FUSION_BACKBONES
from mammo.models.backbones import BLOCKS, Halving, Preprocessing, build_backbone, compact, full_network

COMPACT_CHANNELS = (4, 4, 8, 8, 8)
VGGS = ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")


def vgg_without_classifier(name: str) -> nn.Module:
    """A VGG with random convolutions; its huge dense layers, which no backbone uses, take no memory."""
    with torch.device("meta"):
        network: nn.Module = tv.get_model(name)
    features = network.get_submodule("features").to_empty(device="cpu")
    torch.manual_seed(0)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network.eval()


def random_patches(n: int = 1, patch_px: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, patch_px, patch_px, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FUSION_BACKBONES)
def test_block_k_has_a_stride_of_two_to_the_k_and_the_named_channels(name: str) -> None:
    with torch.device("meta"):  # shapes alone, without memory or arithmetic
        backbone = build_backbone(name, COMPACT_CHANNELS)
        module = backbone.module.eval()
        for patch_px in (32, 64, 72, 120):
            features = module(torch.zeros(1, backbone.in_channels, patch_px, patch_px))
            shapes = [features[block].shape for block in BLOCKS]
            assert list(features) == list(BLOCKS)
            assert [channels for _, channels, _, _ in shapes] == list(backbone.channels)
            for k, (_, _, height, width) in enumerate(shapes, start=1):
                assert height == width
                assert patch_px // 2**k <= height <= ceil(patch_px / 2**k)


@pytest.mark.parametrize("name", VGGS)
def test_vggs_blocks_are_the_outputs_of_its_five_pools(name: str) -> None:
    network = vgg_without_classifier(name)
    expected = []
    with torch.no_grad():
        patches = random_patches()
        for layer in network.get_submodule("features").children():
            patches = layer(patches)
            if isinstance(layer, nn.MaxPool2d):
                expected.append(patches)
        blocks = build_backbone(name, COMPACT_CHANNELS, network).module.eval()(random_patches())
    assert list(blocks) == list(BLOCKS)
    assert len(expected) == 5
    for block, pooled in zip(blocks.values(), expected, strict=True):
        torch.testing.assert_close(block, pooled)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg_learns_as_torchvisions_order_of_layers_does(name: str) -> None:
    network = vgg_without_classifier(name)
    patches, first = random_patches(), network.get_parameter("features.0.weight")
    (expected,) = torch.autograd.grad(network.get_submodule("features")(patches).square().sum(), first)
    blocks = build_backbone(name, COMPACT_CHANNELS, network).module.eval()(patches)
    (gradient,) = torch.autograd.grad(blocks["block5"].square().sum(), first)
    assert expected.any()
    assert torch.equal(gradient, expected)


LAST_OF_DENSENET = "classifier"  # what it is given is the average of the last block


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet50", ("relu", "layer1", "layer2", "layer3", "layer4")),
        ("mobilenet_v2", tuple(f"features.{index}" for index in (1, 3, 6, 13, 18))),
        (
            "densenet121",
            ("features.relu0", *(f"features.denseblock{k}" for k in (1, 2, 3)), LAST_OF_DENSENET),
        ),
    ],
)
def test_blocks_are_what_torchvisions_own_forward_passes_on(name: str, modules: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    network = full_network(name).eval()
    seen: dict[str, Tensor] = {}

    def watch(module: str) -> None:
        def keep_first(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(module, (inputs[0] if module == LAST_OF_DENSENET else output).clone())

        network.get_submodule(module).register_forward_hook(keep_first)

    for module in modules:
        watch(module)
    patches = random_patches(patch_px=64)
    with torch.no_grad():
        network(patches)
        blocks = build_backbone(name, COMPACT_CHANNELS, network).module.eval()(patches)

    for block, module in zip(BLOCKS, modules, strict=True):
        found = blocks[block].mean(dim=(2, 3)) if module == LAST_OF_DENSENET else blocks[block]
        torch.testing.assert_close(found, seen[module])


def test_compact_is_convolution_pool_batchnorm_and_relu_in_each_block() -> None:
    module = compact(COMPACT_CHANNELS).eval()
    weights = module.state_dict()
    expected = random_patches(n=2, patch_px=40, channels=1)
    with torch.no_grad():
        blocks = module(expected)
    for name in BLOCKS:
        convolved = nn.functional.conv2d(expected, weights[f"blocks.{name}.0.weight"], padding=1)
        pooled = convolved.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
        # A new BatchNorm in evaluation divides by √(1 + 1e-5) and does nothing else.
        expected = (pooled / (1 + 1e-5) ** 0.5).clamp(min=0)
        torch.testing.assert_close(blocks[name], expected)


PATCHES = torch.tensor([[[[0.0, 100.0], [200.0, 100.0]]], [[[255.0, 255.0], [255.0, 51.0]]]])
"""Two patches of 2 × 2 pixels with means 100 and 204."""

# Deviations √(20000 / 4) = 70.7107 and √(31212 / 4) = 88.3346; the floor is 5 grey levels.
EXPECTED: list[tuple[PreprocessingName, list[float], list[float]]] = [
    ("samplewise_center", [-100, 0, 100, 0], [51, 51, 51, -153]),
    ("samplewise_standardize", [-100 / 75.7107, 0, 100 / 75.7107, 0], [51 / 93.3346] * 3 + [-153 / 93.3346]),
    ("fixed_scale", [-2, -0.4375, 1.125, -0.4375], [1.984375] * 3 + [-1.203125]),
    ("imagenet", [-2, -0.431373, 1.137255, -0.431373], [2] * 3 + [-1.2]),  # of one channel: mid-grey
]


@pytest.mark.parametrize(("name", "first", "second"), EXPECTED)
def test_grey_levels_become_what_the_formula_says_in_every_channel_and_no_state_is_kept(
    name: PreprocessingName, first: list[float], second: list[float]
) -> None:
    expected = torch.tensor([first, second], dtype=torch.float32).view(2, 1, 2, 2)
    torch.testing.assert_close(Preprocessing(name, 1)(PATCHES), expected, rtol=1e-5, atol=1e-5)
    if name != "imagenet":
        repeated = expected.expand(-1, 3, -1, -1)
        torch.testing.assert_close(Preprocessing(name, 3)(PATCHES), repeated, rtol=1e-5, atol=1e-5)
    assert Preprocessing(name, 3).state_dict() == {}


def test_imagenet_uses_the_published_mean_and_deviation_of_each_channel() -> None:
    prepared = Preprocessing("imagenet", 3)(PATCHES)
    # 51 / 255 = 0.2: (0.2 − 0.485) / 0.229, (0.2 − 0.456) / 0.224, (0.2 − 0.406) / 0.225
    expected = torch.tensor([-1.244541, -1.142857, -0.915556])
    torch.testing.assert_close(prepared[1, :, 1, 1], expected, atol=1e-5, rtol=0)


def test_samplewise_preprocessing_does_not_see_brightness_and_leaves_flat_tissue_flat() -> None:
    for name in ("samplewise_center", "samplewise_standardize"):
        preprocessing = Preprocessing(name, 1)
        torch.testing.assert_close(preprocessing(PATCHES + 30), preprocessing(PATCHES))
        assert not preprocessing(torch.full((1, 1, 4, 4), 200.0)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 72, 72), (2, 5, 9, 7), (1, 1, 2, 3)])
def test_halving_without_gradients_gives_the_values_of_max_pooling(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(Halving(2)(maps), torch.nn.functional.max_pool2d(maps, 2))
