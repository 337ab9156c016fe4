"""Baseline, Model1 and Model2 against the paper's numbers and a computation in numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mammo.models.backbones import BLOCKS
from mammo.models.fusion import Averages, Model2, build_fusion, build_head

VGG_CHANNELS = (64, 128, 256, 512, 512)
CHANNELS = (3, 4, 5, 6, 7)

FloatArray = npt.NDArray[np.float64]


def blocks_of(patch_px: int, channels: tuple[int, ...] = CHANNELS, n: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(n, width, patch_px // 2**k, patch_px // 2**k, generator=generator)
        for k, (name, width) in enumerate(zip(BLOCKS, channels, strict=True), start=1)
    }


def randomised(module: nn.Module) -> nn.Module:
    """Evaluation mode with BatchNorm statistics and weights that are not those of a new module."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "running" in name else -0.3))
    return module.eval()


def normalised(values: FloatArray, norm: nn.Module) -> FloatArray:
    """BatchNorm in evaluation by its formula; the channels are the second axis."""
    shape = (1, -1) + (1,) * (values.ndim - 2)
    mean, variance, scale, shift = (
        norm.state_dict()[name].double().numpy().reshape(shape)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    result: FloatArray = (values - mean) / np.sqrt(variance + 1e-5) * scale + shift
    return result


def pooled(values: FloatArray, side: int) -> FloatArray:
    """Average pooling in squares of `side`; what is left over at the far borders is dropped."""
    n, channels, height, width = values.shape
    rows, columns = height // side, width // side
    kept = values[:, :, : rows * side, : columns * side]
    result: FloatArray = kept.reshape(n, channels, rows, side, columns, side).mean(axis=(3, 5))
    return result


@pytest.mark.parametrize(("name", "n_features"), [("baseline", 512), ("model1", 1472), ("model2", 224)])
def test_on_vgg_the_fusions_have_the_papers_number_of_features(name: str, n_features: int) -> None:
    fusion = build_fusion(name, VGG_CHANNELS).eval()
    with torch.no_grad():
        features = fusion(blocks_of(72, VGG_CHANNELS))
    assert features.shape == (2, n_features)
    assert fusion.out_features == n_features


def test_the_baseline_averages_the_last_block_and_model1_all_five_in_order() -> None:
    blocks = blocks_of(72)
    averages = [blocks[name].numpy().mean(axis=(2, 3)) for name in BLOCKS]
    np.testing.assert_allclose(Averages(CHANNELS, n_blocks=1)(blocks).numpy(), averages[-1], atol=1e-6)
    np.testing.assert_allclose(Averages(CHANNELS)(blocks).numpy(), np.concatenate(averages, axis=1), atol=1e-6)


@pytest.mark.parametrize("patch_px", [32, 72, 120])
def test_each_branch_of_model2_is_batchnorm_pool_convolution_relu_and_average(patch_px: int) -> None:
    blocks, fusion = blocks_of(patch_px), randomised(Model2(CHANNELS))
    expected = []
    for name, pool in zip(BLOCKS, (16, 8, 4, 2, 1), strict=True):
        norm, _, convolution, _ = fusion.get_submodule(f"branches.{name}").children()
        state = convolution.state_dict()
        weight, bias = state["weight"].double().numpy()[:, :, 0, 0], state["bias"].double().numpy()
        small = pooled(normalised(blocks[name].double().numpy(), norm), pool)
        convolved = np.einsum("oc,nchw->nohw", weight, small) + bias[None, :, None, None]
        expected.append(np.maximum(convolved, 0).mean(axis=(2, 3)))
        assert (expected[-1] > 0).any()
    with torch.no_grad():
        features = fusion(blocks).numpy()
    assert [of_block.shape[1] for of_block in expected] == [32, 32, 32, 64, 64]
    np.testing.assert_allclose(features, np.concatenate(expected, axis=1), atol=1e-5)


def test_the_head_is_batchnorm_two_dense_layers_and_two_logits() -> None:
    head = randomised(build_head(10, units=6, dropout=0.5))
    features = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    norm, *dense = [module for module in head.children() if module.state_dict()]
    with torch.no_grad():
        logits = head(features).numpy()
    values = normalised(features.double().numpy(), norm)
    for layer, rectify in zip(dense, (True, True, False), strict=True):
        state = layer.state_dict()
        values = values @ state["weight"].double().numpy().T + state["bias"].double().numpy()
        values = np.maximum(values, 0) if rectify else values
    assert logits.shape == (4, 2)
    np.testing.assert_allclose(logits, values, atol=1e-5)
