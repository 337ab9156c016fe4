"""Roads from ROIs to votes and to a trained head, against one another and against what the machine could do."""

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import keras_loop
from benchmarks.measure import Plan, Row, Way, rates, with_ratios
from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.core.records import ROI_SIDE_PX
from mammo.models.build import Classifier, build_classifier
from mammo.systems.augment import crop
from mammo.systems.devices import autocast, computes_bfloat16
from mammo.systems.features import keep_features
from mammo.systems.fit import start
from mammo.systems.inputs import FitData, FrozenData, PatchData
from mammo.systems.score import Grid, grid_batch, grid_logits, patch_logits
from mammo.systems.train import fit_settings

PAPER_PATCHES: Final = 103_447
PAPER_ROIS: Final = 197
PAPER_EPOCHS: Final = 5
"""Patches of an epoch's training, ROIs that they come from, epochs (Yu et al. 2020): 1,001 of each of 72 Tumor ROIs and
251 of each of 125 Normal ones."""
ONE_BY_ONE, EXACT, DENSE = "one patch at a time, float32", "exact road", "dense road"
KERAS, EAGER = "the authors' way, Keras", "plain PyTorch, float32"
TO_KEEP: Final = {"recipe": "frozen", "features": "kept"}


@dataclass(frozen=True)
class Keras:
    """The process that runs `keras_loop`, or why there is none."""

    pool: ProcessPoolExecutor | None
    skipped: str = ""

    @classmethod
    @contextmanager
    def started(cls, device: torch.device) -> Iterator["Keras"]:
        """Run it until the block ends."""
        if device.type != "cpu":
            yield cls(None, "the extra bench has TensorFlow for CPUs only")
        elif importlib.util.find_spec("tensorflow") is None:
            yield cls(None, "TensorFlow is not installed: pip install --constraint constraints.txt -e .[bench]")
        else:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                yield cls(pool)

    def way(self, name: str, do: Callable[[int], int], amount: int) -> Way:
        """A function of `keras_loop` as a way."""
        pool = self.pool
        if pool is None:
            return Way(name, None, skipped=self.skipped)
        return Way(name, lambda: pool.submit(do, amount).result())


def config_of(system: str, road: str = "exact", device: str = "cpu", **train: Any) -> Config:
    """The project's settings for a system; VGG16 has the paper's head, and HED's weights where they are at hand."""
    config = Config.load(Workspace().params)
    model: dict[str, Any] = {"road": road}
    if system.startswith("vgg16"):
        places = (str(Workspace().hed), os.environ.get("MAMMO_WEIGHTS", ""))
        weights = next((place for place in places if Path(place).is_file()), "none")
        paper = {"preprocessing": "samplewise_center", "head_units": 1024, "head_dropout": 0.0}
        model |= {"weights": weights} | paper
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "train": config.train.model_copy(update={"device": device, **train}),
        }
    )


@cache
def classifier_of(system: str, road: str, device: torch.device) -> Classifier:
    """In evaluation mode on the device, its pixels laid out as the package has them."""
    classifier = build_classifier(system, config_of(system, road).model, 0).to(device)
    return classifier.to(memory_format=torch.channels_last).eval()


def noise(n_rois: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """ROIs of random grey levels."""
    shape = (n_rois, ROI_SIDE_PX, ROI_SIDE_PX)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def scoring(plan: Plan, device: torch.device, keras: Keras) -> Iterator[Row]:
    """ROIs a second from pixels to the logits of their patches."""
    images = torch.from_numpy(noise(32)).to(device)
    for system, exact, dense in (
        (plan.frozen, (ONE_BY_ONE, 3.0), (ONE_BY_ONE, 25.0)),
        ("compact-model1", (ONE_BY_ONE, None), (EXACT, 10.0)),
    ):
        config = config_of(system)
        grid, plain = config.patches, build_classifier(system, config.model, 0).to(device).eval()
        patches = crop(images, grid_batch(1, grid, device), grid.size_px)
        by_exact, by_dense = (classifier_of(system, road, device) for road in ("exact", "dense"))
        ways = [
            Way(ONE_BY_ONE, partial(_one_by_one, plain, patches)),
            Way(EXACT, partial(_by_road, by_exact, images[:10], grid), *exact),
            Way(DENSE, partial(_by_road, by_dense, images, grid), *dense),
        ]
        if system == plan.frozen:
            ways.insert(0, keras.way(f"{KERAS}, one patch at a time", keras_loop.score, 1))
        yield from rates(f"scoring, {system}", "ROIs/s", ways, plan)


@torch.inference_mode()
def _one_by_one(classifier: Classifier, patches: Tensor) -> int:
    for patch in patches:
        classifier(patch[None]).cpu()
    return 1


def _by_road(classifier: Classifier, images: Tensor, grid: Grid) -> int:
    grid_logits(classifier, images, grid, "auto")
    return len(images)


def training(plan: Plan, device: torch.device, keras: Keras) -> Iterator[Row]:
    """The paper's recipe for VGG16 and Model1: what its parts do in a second, and the whole estimated from that."""
    system, group, images, seeds = plan.frozen, f"training, {plan.frozen}", noise(8), count(1)
    configs = {road: config_of(system, road, device.type, **TO_KEEP) for road in ("exact", "dense")}
    nets = {road: classifier_of(system, road, device) for road in configs}
    paper, patches = config_of(system, device=device.type, recipe="paper"), configs["exact"].patches
    pixels = _grid_of(images, patches, device)
    squares, labels = pixels.patches, pixels.labels
    slot = torch.arange(len(labels), device=device) % (len(labels) // len(images))

    with TemporaryDirectory() as folder:
        space = Workspace(Path(folder))

        def keep(road: str, n_rois: int) -> int:
            keep_features(system, configs[road], noise(n_rois, next(seeds)), space, nets[road])
            return n_rois

        kept = keep_features(system, configs["exact"], images, space, nets["exact"])
        features = FrozenData(kept, labels, squares.roi, slot, labels)
        train = partial(_train, nets["exact"])
        of_patches = [
            keras.way(KERAS, keras_loop.train, 3),
            Way(EAGER, lambda: train(pixels, paper, "float32", 3)),
            Way("head on kept features", lambda: train(features, configs["exact"], "auto", 50)),
        ]
        of_rois = [Way(EXACT, lambda: keep("exact", 2)), Way(DENSE, lambda: keep("dense", 8))]
        steps = rates(f"{group}: its steps", "patches/s", of_patches, plan.short())
        passes = rates(f"{group}: features in 8 views", "ROIs/s", of_rois, plan.short())
    yield from steps
    yield from passes
    yield from whole_recipe(f"{group}: the whole recipe, estimated", steps, passes)


def whole_recipe(group: str, steps: Sequence[Row], passes: Sequence[Row]) -> list[Row]:
    """Minutes that the recipe's training takes, by the rates of its steps (Keras, eager, head) and of the features."""
    by_keras, eager, head = steps

    def minutes(step: Row, features: Row | None = None) -> tuple[float, ...]:
        patches_s = [PAPER_EPOCHS * PAPER_PATCHES / rate for rate in step.values]
        rois_s = [PAPER_ROIS / rate for rate in features.values] if features else [0.0] * len(patches_s)
        return tuple((first + second) / 60 for first, second in zip(patches_s, rois_s, strict=True))

    against = KERAS if by_keras.values else EAGER
    kept = [
        Row(group, f"kept features, {row.name}", "min", minutes(head, row), against, wanted=wanted)
        for row, wanted in zip(passes, (20.0, 60.0) if by_keras.values else (None, None), strict=True)
    ]
    others = [
        Row(group, KERAS, "min", minutes(by_keras), skipped=by_keras.skipped),
        Row(group, EAGER, "min", minutes(eager)),
    ]
    return with_ratios([*others, *kept], less_is_better=True)


def _train(classifier: Classifier, data: FitData, config: Config, precision: str, n_steps: int) -> int:
    """Steps of a recipe on batches drawn at random; how many patches they held."""
    recipe, settings = config.recipe, fit_settings(config)
    optimizer = start(classifier, recipe, data.labels.device).optimizer
    generator = torch.Generator().manual_seed(0)
    classifier.train().backbone.train(recipe.backbone_lr > 0)
    for _ in range(n_steps):
        which = torch.randint(len(data.labels), (recipe.batch_size,), generator=generator).to(data.labels.device)
        logits = data.train_logits(classifier, which, settings, recipe.augment, generator)
        loss = F.cross_entropy(logits.float(), data.labels[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    classifier.eval()
    return n_steps * recipe.batch_size


def _grid_of(images: npt.NDArray[np.uint8], grid: Grid, device: torch.device) -> PatchData:
    squares = grid_batch(len(images), grid, device)
    labels = squares.roi % 2
    return PatchData(torch.from_numpy(images).to(device), labels, squares, labels)


def compact_training(plan: Plan, device: torch.device) -> Iterator[Row]:
    """Whole networks' training, with freed memory kept (`devices.keep_freed_memory`), and where it is given back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def elsewhere(system: str) -> int:
            return pool.submit(_train_compact, system, device).result()

        for system in plan.trained:
            ways = [
                Way("freed memory given back", partial(elsewhere, system)),
                Way("freed memory kept", partial(_train_compact, system, device), "freed memory given back"),
            ]
            yield from rates(f"training, {system}", "patches/s", ways, plan.short())


def _train_compact(system: str, device: torch.device) -> int:
    config = config_of(system, device=device.type)
    data = _grid_of(noise(8), config.patches, device)
    return _train(classifier_of(system, "exact", device), data, config, "auto", 10)


def limits(plan: Plan, device: torch.device) -> Iterator[Row]:
    """The exact road's arithmetic against that of a large matrix product of the same type."""
    system, n_rois, side = (
        plan.frozen,
        4 if device.type == "cpu" else 40,
        3072 if device.type == "cpu" else 8192,
    )
    classifier, grid = classifier_of(system, "exact", device), config_of(system).patches
    squares = grid_batch(n_rois, grid, device)
    pixels = crop(torch.from_numpy(noise(n_rois)).to(device), squares, grid.size_px)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(pixels[:1])
    of_batch = float(counter.get_total_flops()) * len(pixels) / 1e9

    @torch.inference_mode()
    def forward(precision: str) -> float:
        with autocast(device, precision):
            classifier(pixels).cpu()
        return of_batch

    def multiply(matrix: Tensor) -> float:
        (matrix @ matrix)[0, 0].item()
        return 2e-9 * float(side) ** 3

    ways = []
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        matrix = torch.rand(side, side, device=device).to(dtype)
        skipped = "" if precision == "float32" or computes_bfloat16(device) else "no bfloat16 in this hardware"
        ways += [
            Way(
                f"matrix product, {precision}",
                None if skipped else partial(multiply, matrix),
                skipped=skipped,
            ),
            Way(
                f"{EXACT}, {precision}",
                None if skipped else partial(forward, precision),
                f"matrix product, {precision}",
                0.9,
                skipped=skipped,
            ),
        ]
    yield from rates(f"arithmetic, {system}", "GFLOP/s", ways, plan)


def gpu(plan: Plan, device: torch.device) -> Iterator[Row]:
    """Patches a second by the size of the batch, with and without torch.compile."""
    grid = config_of("compact-model1").patches
    images = torch.from_numpy(noise(41))
    squares = grid_batch(len(images), grid, device).take(slice(1024))
    skipped = "" if device.type == "cuda" else "no GPU is visible"

    def score(classifier: Any, size: int) -> int:
        patch_logits(classifier, images.to(device), squares, grid.size_px, batch_size=size)
        return len(squares.roi)

    for system in (plan.frozen, "compact-model1"):
        ways = []
        for compiled, size in product((False, True), (64, 512)):
            name = f"batches of {size}{', torch.compile' if compiled else ''}"
            if skipped:
                ways.append(Way(name, None, skipped=skipped))
                continue
            classifier: Any = classifier_of(system, "exact", device)
            classifier = torch.compile(classifier) if compiled else classifier
            ways.append(Way(name, partial(score, classifier, size), "batches of 64"))
        yield from rates(f"batches on a GPU, {system}", "patches/s", ways, plan)
