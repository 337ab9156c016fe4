"""On a GPU everything gives what it gives on a CPU, within the tolerances stated here; skipped without a GPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from mammo.core.config import AugmentConfig, Config, ModelConfig, VoteConfig
from mammo.core.files import Workspace
from mammo.data.rois import Rois
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle
from mammo.systems.augment import augment, crop
from mammo.systems.devices import choose_device
from mammo.systems.explanation import explain
from mammo.systems.fit import EpochRecord, fit
from mammo.systems.inputs import PatchData
from mammo.systems.score import RoiScorer, grid_batch
from mammo.tuning.workers import Plan, run_tuning
from tests.disc_rois import disc_rois
from tests.settings import section
from tests.tiny_fits import (
    CPU,
    SETTINGS,
    SGD,
    TRAIN,
    VAL,
    data_of,
    differing,
    new_classifier,
    recipe,
    weights_of,
    without_speed,
)
from tests.tuning.conftest import make_workspace, study_in

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")

GPU = torch.device("cuda")
GREY_LEVELS = 0.05
"""How far a sampled pixel may differ from the CPU's: coordinates are rounded at the seventh digit."""
SCORES = 1e-4
"""How far a float32 score may differ from the CPU's."""
REDUCED_SCORES = 0.02
"""How far a bfloat16 score of an untrained network may differ from the CPU's float32 score."""


@pytest.fixture(autouse=True)
def _computes_as_the_project_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeatable kernels and whole float32, which `choose_device` asks cuDNN for; afterwards as before."""
    cudnn = torch.backends.cudnn
    for name in ("deterministic", "benchmark", "allow_tf32"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))
    choose_device(GPU.type)


@pytest.fixture
def train_on_gpu() -> PatchData:
    """66 patches of 11 ROIs."""
    return data_of(disc_rois(6, 5), device=GPU)


@pytest.fixture
def val_on_gpu() -> PatchData:
    """48 patches of 8 other ROIs."""
    return data_of(disc_rois(4, 4, seed=1), device=GPU)


def test_patches_that_are_cut_are_the_same_pixels(disc_set: Rois) -> None:
    images = torch.from_numpy(disc_set.images)
    for size_px in (32, 72, 120):
        grid = replace(SETTINGS, size_px=size_px, stride_px=12)
        on_gpu = crop(images.to(GPU), grid_batch(len(images), grid, GPU), size_px)
        assert torch.equal(on_gpu.cpu(), crop(images, grid_batch(len(images), grid, CPU), size_px))


@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_patches_that_are_turned_are_the_same_draws(train_on_gpu: PatchData, fill: str) -> None:
    config = section(AugmentConfig, flip_vertical=True, fill=fill, gain=0.2, offset=10.0)

    def turned(data: PatchData) -> torch.Tensor:
        return augment(data.images, data.patches, 40, config, torch.Generator().manual_seed(1)).cpu()

    torch.testing.assert_close(turned(train_on_gpu), turned(TRAIN), atol=GREY_LEVELS, rtol=0)


@pytest.mark.parametrize("fusion", ["baseline", "model1", "model2"])
def test_a_fit_takes_the_steps_of_the_cpu(train_on_gpu: PatchData, val_on_gpu: PatchData, fusion: str) -> None:
    steps = recipe(**SGD, epochs=1)
    (there,) = fit(new_classifier(fusion=fusion), train_on_gpu, val_on_gpu, steps, SETTINGS)
    (here,) = fit(new_classifier(fusion=fusion), TRAIN, VAL, steps, SETTINGS)
    assert there.train_loss == pytest.approx(here.train_loss, rel=1e-3)
    assert there.val_loss == pytest.approx(here.val_loss, rel=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fusion", ["baseline", "model1", "model2"])
def test_two_fits_on_one_gpu_are_the_same_to_the_bit(
    train_on_gpu: PatchData, val_on_gpu: PatchData, fusion: str, precision: str
) -> None:
    def fitted() -> dict[str, torch.Tensor]:
        classifier = new_classifier(dropout=0.3, fusion=fusion)
        fit(classifier, train_on_gpu, val_on_gpu, recipe(), replace(SETTINGS, precision=precision))
        return weights_of(classifier)

    assert differing(fitted(), fitted()) == []


def test_a_stopped_fit_goes_on_to_the_weights_of_an_undisturbed_one(
    train_on_gpu: PatchData, val_on_gpu: PatchData, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise StoppedError

    undisturbed, stopped, resumed = (new_classifier(dropout=0.3) for _ in range(3))
    expected = fit(undisturbed, train_on_gpu, val_on_gpu, recipe(), SETTINGS)
    kept = tmp_path / "fit.pt"
    with pytest.raises(StoppedError):
        fit(stopped, train_on_gpu, val_on_gpu, recipe(), SETTINGS, kept, "same", on_epoch=stop)
    history = fit(resumed, train_on_gpu, val_on_gpu, recipe(), SETTINGS, kept, "same")
    assert without_speed(history) == without_speed(expected)
    assert differing(weights_of(resumed), weights_of(undisturbed)) == []


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "mobilenet_v2", "densenet121"])
def test_the_papers_networks_fit_on_a_gpu(train_on_gpu: PatchData, val_on_gpu: PatchData, backbone: str) -> None:
    classifier = build_classifier(f"{backbone}-model2", section(ModelConfig, head_units=8, head_dropout=0.0), seed=0)
    (record,) = fit(classifier, train_on_gpu, val_on_gpu, recipe(epochs=1, head_lr=1e-4), SETTINGS)
    assert np.isfinite([record.train_loss, record.val_loss]).all()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", SCORES), ("bfloat16", REDUCED_SCORES)])
@pytest.mark.parametrize("views", [1, 8])
def test_a_bundle_scores_rois_as_on_the_cpu(disc_set: Rois, precision: str, tolerance: float, views: int) -> None:
    def scores(device: torch.device, precision: str) -> npt.NDArray[np.float64]:
        bundle = Bundle(new_classifier(), 40, 40, section(VoteConfig, views=views))
        return RoiScorer.on(bundle, device, precision).patch_scores(disc_set.images)

    np.testing.assert_allclose(scores(GPU, precision), scores(CPU, "float32"), atol=tolerance)


def test_an_explanation_is_that_of_the_cpu(disc_set: Rois) -> None:
    def explained(device: torch.device) -> npt.NDArray[np.float64]:
        bundle = Bundle(new_classifier(), 40, 40, section(VoteConfig))
        (found,) = explain(RoiScorer.on(bundle, device, "float32"), disc_set.images[:1])
        return found.grad_cam

    here = explained(CPU)
    np.testing.assert_allclose(explained(GPU), here, atol=1e-3 * np.nanmax(np.abs(here)))


def on_gpu(made: tuple[Workspace, Config]) -> tuple[Workspace, Config]:
    space, config = made
    return space, config.model_copy(update={"train": config.train.model_copy(update={"device": GPU.type})})


@pytest.mark.slow
def test_two_workers_end_a_study_on_one_gpu(tmp_path: Path) -> None:
    space, config = on_gpu(make_workspace(tmp_path / "space", pruner_startup=50))
    run_tuning(space, config, Plan(n_trials=4, n_workers=2), Console(quiet=True))

    with study_in(space, config) as opened:
        assert [trial.state for trial in opened.trials] == 4 * [TrialState.COMPLETE]
        assert {trial.user_attrs["device"] for trial in opened.trials} == {GPU.type}
