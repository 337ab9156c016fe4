"""Block features of a frozen backbone, computed once for each ROI and kept, so that heads train in seconds.

A file of the folder holds rows of half floats, one for each ROI and view, beside an index of the ROIs' pixel hashes and
views. A row is appended before its line of the index, so a killed or interrupted computation goes on where it was, and
other ROIs and views may be added later: what only votes needs one. What the features rest on (weights, grid, views,
road, code) is hashed in the file's name.

Views of a patch: where the recipe turns by quarters and mirrors only, those, exactly; otherwise the patch as it is and
`N_DRAWS` random draws of the recipe's augmentation.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from mammo.core.config import AugmentConfig, Config, PatchesConfig
from mammo.core.errors import ConfigError
from mammo.core.files import Workspace
from mammo.core.provenance import code_mark, fingerprint
from mammo.core.records import ROI_SIDE_PX
from mammo.core.systems import split_system
from mammo.data.patches import grid_corners
from mammo.data.rois import pixel_hashes
from mammo.models.backbones import BLOCKS
from mammo.models.build import Classifier, build_classifier
from mammo.models.fusion import MODEL2_POOLS
from mammo.models.pooling import flatten, pool_patches, pool_windows, unflatten
from mammo.systems.augment import augment, crop
from mammo.systems.devices import autocast, choose_device, hardware, precision_on
from mammo.systems.score import grid_batch, grid_offsets_on, turned

N_DRAWS: Final = 8
MOST_BYTES: Final = 32 * 2**30
FEATURE_CODE: Final = (
    "data/patches.py",
    "models/backbones.py",
    "models/pooling.py",
    "systems/augment.py",
    "systems/features.py",
)
HALF: Final = np.dtype(np.float16)
Rows = npt.NDArray[np.float16]
StepsObserver = Callable[[int, int], None]
"""Told of ROIs done and ROIs in all."""


@dataclass(frozen=True)
class KeptRows:
    """Rows of one shape in `<path>`, found by the keys in `<path>.index` (`row_key`)."""

    path: Path
    shape: tuple[int, ...]

    @property
    def index(self) -> Path:
        """A line for each row."""
        return self.path.with_suffix(".index")

    def keys(self) -> list[str]:
        """Of the whole rows; half a line that a kill left does not count."""
        with suppress(FileNotFoundError):
            return self.index.read_text().rpartition("\n")[0].split()
        return []

    def rows(self) -> Rows:
        """All whole rows `(n, *shape)`, read from the file as they are needed."""
        return np.memmap(self.path, HALF, "r", shape=(len(self.keys()), *self.shape))

    def fill(
        self,
        wanted: Iterable[str],
        compute: Callable[[str, list[int]], Iterable[Rows]],
        on_step: StepsObserver = lambda done, total: None,
    ) -> dict[str, int]:
        """The row of every key that is kept, once all `wanted` ones are: those without a row are computed.

        `compute` makes the rows of a ROI, by its pixels' hash, in some views. Meanwhile nobody else appends; whoever
        wants to waits.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")) if set(wanted) - set(self.keys()) else nullcontext():
            views: dict[str, list[int]] = {}
            for key in sorted(set(wanted) - set(self.keys())):
                pixels, _, digit = key.partition(".")
                views.setdefault(pixels, []).append(int(digit))
            for done, (pixels, absent) in enumerate(views.items()):
                on_step(done, len(views))
                for view, row in zip(absent, compute(pixels, absent), strict=True):
                    self._append(row_key(pixels, view), row)
            on_step(len(views), len(views))
        return {key: row for row, key in enumerate(self.keys())}

    def _append(self, key: str, row: Rows) -> None:
        n_rows = len(self.keys())
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(n_rows * prod(self.shape) * HALF.itemsize)
            file.write(np.ascontiguousarray(row, HALF).tobytes())
        with self.index.open("r+" if self.index.exists() else "w") as lines:
            lines.seek(n_rows * (len(key) + 1))
            lines.truncate()
            lines.write(f"{key}\n")


def row_key(pixels_sha256: str, view: int) -> str:
    """Of the row of a ROI, by the hash of its pixels, and one of its views, a single digit."""
    return f"{pixels_sha256}.{view}"


@dataclass(frozen=True)
class Extractor:
    """How the features of one frozen backbone are computed: its classifier in evaluation mode, patches and views."""

    classifier: Classifier
    patches: PatchesConfig
    recipe: AugmentConfig
    device: torch.device
    precision: str

    @property
    def road(self) -> str:
        """`exact` or `dense`."""
        return self.classifier.architecture.road

    @property
    def exact_views(self) -> list[int]:
        """The views as `score.turned` counts them, or none where the recipe draws what no such view shows."""
        recipe = self.recipe
        free_rotation = recipe.rotation_deg > 0 and not recipe.quarter_turns
        if free_rotation or recipe.zoom or recipe.gain or recipe.offset:
            return []
        across, down = recipe.flip_horizontal, recipe.flip_vertical
        if recipe.quarter_turns:
            return [*range(8 if across or down else 4)]
        # Upside down is half a turn of the mirror image, and both flips are half a turn.
        return [0, *[4] * across, *[6] * down, *[2] * (across and down)]

    @property
    def n_views(self) -> int:
        """How many views of a patch are kept; the first is the patch as it is."""
        return len(self.exact_views) or 1 + N_DRAWS

    @property
    def corners(self) -> npt.NDArray[np.int64]:
        """Corners of the patches whose features are kept, those of the voting grid: `(s, 2)`, pixels."""
        grid = self.patches
        return grid_corners(grid.size_px, grid.stride_px, corner_patches=grid.corner_patches)

    @torch.inference_mode()
    def exact(self, image: npt.NDArray[np.uint8], views: Sequence[int]) -> Rows:
        """Some views of one ROI → its patches' features, each alone through the backbone: `(views, s, length)`."""
        stack = torch.from_numpy(image[None]).to(self.device)
        size_px, squares = self.patches.size_px, grid_batch(1, self.patches, self.device)
        plain = crop(stack, squares, size_px)

        def seen(view: int) -> Tensor:
            if view == 0 or self.exact_views:
                return turned(plain, self.exact_views[view] if view else 0)
            drawn = torch.Generator().manual_seed(view - 1)
            return augment(stack, squares, size_px, self.recipe, drawn)

        pixels = torch.cat([seen(view) for view in views]).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            features = self.classifier.blocks(pixels)
        return flatten(pool_patches(features)).view(len(views), len(plain), -1).cpu().numpy()

    @torch.inference_mode()
    def maps(self, image: npt.NDArray[np.uint8], views: Sequence[int]) -> Rows:
        """Some views of one ROI → their feature maps, block after block: `(views, length)`."""
        whole = torch.from_numpy(image[None, None]).to(self.device).float()
        pixels = torch.cat([turned(whole, self.exact_views[view]) for view in views])
        with autocast(self.device, self.precision):
            features = self.classifier.blocks(pixels.contiguous(memory_format=torch.channels_last))
        return torch.cat([features[name].half().flatten(1) for name in BLOCKS], dim=1).cpu().numpy()

    @torch.inference_mode()
    def windows(self, rows: Rows, shapes: Sequence[tuple[int, ...]]) -> Rows:
        """Rows of `maps` → features of the patches as windows of them: `(views, s, length)`."""
        flat = torch.from_numpy(rows).to(self.device)
        pieces = flat.split([prod(shape) for shape in shapes], dim=1)
        features = {name: part.view(-1, *shape) for name, part, shape in zip(BLOCKS, pieces, shapes, strict=True)}
        offsets = grid_offsets_on(len(flat), self.patches, self.device)
        return flatten(pool_windows(features, *offsets, self.patches.size_px)).cpu().numpy()

    def shapes(self, side_px: int) -> list[tuple[int, ...]]:
        """Shapes `(c, h, w)` of the blocks of a picture of this side."""
        with torch.inference_mode():
            features = self.classifier.blocks(torch.zeros(1, 1, side_px, side_px, device=self.device))
        return [tuple(features[name].shape[1:]) for name in BLOCKS]

    def mark(self, *, with_grid: bool) -> str:
        """Hash of all that the rows depend on, beside the pixels."""
        weights = hashlib.sha256()
        for name, value in self.classifier.backbone.state_dict().items():
            weights.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        patches = self.patches
        grid = [patches.size_px, patches.stride_px, patches.corner_patches] if with_grid else None
        views: list[Any] = [*self.exact_views] or [N_DRAWS, self.recipe.model_dump()]
        computed = [hardware(self.device), precision_on(self.device, self.precision), torch.__version__]
        preprocessing = self.classifier.architecture.preprocessing
        code = code_mark(FEATURE_CODE)
        return fingerprint([weights.hexdigest(), preprocessing, self.road, grid, views, computed, code])


@dataclass(frozen=True)
class KeptFeatures:
    """The features of ROIs: row `rows[i, v]` of `kept`, `(s, length)`, is that of ROI `i` in view `v`; from `file`."""

    file: Path
    kept: Rows
    rows: npt.NDArray[np.int64]
    channels: tuple[int, ...]
    n_cells: tuple[int, ...]
    corners: npt.NDArray[np.int64]

    @property
    def n_views(self) -> int:
        """How many views of each ROI there are."""
        return len(self.rows[0])

    def parts(self, rois: npt.ArrayLike, views: npt.ArrayLike, slots: npt.ArrayLike) -> list[Tensor]:
        """The blocks' parts (`models.pooling`) of patches, by their ROI, view and place on the grid: `(n,)` each."""
        chosen = self.kept[self.rows[np.asarray(rois), np.asarray(views)], np.asarray(slots)]
        return unflatten(torch.from_numpy(chosen), self.channels, self.n_cells)


def keep_features(
    system: str,
    config: Config,
    images: npt.NDArray[np.uint8],
    workspace: Workspace,
    classifier: Classifier | None = None,
    *,
    to_train: bool = True,
    versioned: bool = False,
    on_step: StepsObserver = lambda done, total: None,
) -> KeptFeatures:
    """Block features of ROIs `(n, 120, 120)` under a system's frozen backbone; what is missing is computed and kept.

    In all views of the recipe if a head is to train on them, else as they are. They are looked for in both folders,
    `data/features` that DVC versions and the cache, and kept in the first if `versioned`, else in the cache.
    `classifier` is the system's, if there is one already.

    Raises:
        ConfigError: the dense road has no views of such a recipe, or the file would be larger than `MOST_BYTES`.
    """
    classifier = classifier or build_classifier(system, config.model, config.train.seed, workspace)
    device = choose_device(config.train.device)
    classifier = classifier.to(device).to(memory_format=torch.channels_last).eval()
    how = Extractor(classifier, config.patches, config.recipe.augment, device, config.train.precision)
    dense, size_px = how.road == "dense", config.patches.size_px
    if dense and not how.exact_views:
        raise ConfigError(
            "params.yaml: model.road dense keeps features of quarter turns and mirror images only, got a recipe "
            f"{config.train.recipe} with rotation_deg, zoom, gain or offset; set quarter_turns: true and zoom: 0, or "
            "model.road: exact"
        )
    blocks = how.shapes(size_px)
    channels = tuple(shape[0] for shape in blocks)
    sides = [size_px // 2 ** (k + 1) if dense else height for k, (_, height, _) in enumerate(blocks)]
    n_cells = tuple((side // pool) ** 2 for side, pool in zip(sides, MODEL2_POOLS, strict=True))
    length = sum(width * (2 + n) for width, n in zip(channels, n_cells, strict=True))
    shape = (len(how.corners), length)
    views = range(how.n_views if to_train else 1)
    hashes = pixel_hashes(images)
    image_of = dict(zip(hashes, images, strict=True))
    wanted = {row_key(pixels, view) for pixels in image_of for view in views}
    if (n_bytes := len(wanted) * prod(shape) * HALF.itemsize) > MOST_BYTES:
        raise ConfigError(
            f"params.yaml: train.features kept would take {n_bytes / 2**30:.0f} GiB for {len(image_of)} ROIs, at "
            f"most {MOST_BYTES // 2**30} are kept; raise patches.stride_px, or set train.features: fresh"
        )
    backbone, _ = split_system(system)
    name = f"{backbone}-{how.mark(with_grid=True)}.f16"
    both = [KeptRows(folder / name, shape) for folder in (workspace.features, workspace.feature_cache)]
    elsewhere, own = reversed(both) if versioned else both
    if not versioned and wanted <= set(elsewhere.keys()):
        own = elsewhere
    passed = partial(_by_windows, how, workspace, backbone) if dense else how.exact
    known = elsewhere.keys()
    others = dict(zip(known, elsewhere.rows(), strict=True)) if known else {}

    def rows_of(pixels: str, absent: list[int]) -> list[Rows]:
        fresh = [view for view in absent if row_key(pixels, view) not in others]
        rows = dict(zip(fresh, passed(image_of[pixels], fresh), strict=True)) if fresh else {}
        return [rows[view] if view in rows else others[row_key(pixels, view)] for view in absent]

    row_of = own.fill(wanted, rows_of, on_step)
    places = np.array([[row_of[row_key(pixels, view)] for view in views] for pixels in hashes], dtype=np.int64)
    return KeptFeatures(own.path, own.rows(), places, channels, n_cells, how.corners)


def _by_windows(
    how: Extractor, workspace: Workspace, backbone: str, image: npt.NDArray[np.uint8], views: Sequence[int]
) -> Rows:
    """Features of one ROI by its maps, which are kept too: they serve every size and stride of patches."""
    shapes = how.shapes(ROI_SIDE_PX)
    name = f"{backbone}-maps-{how.mark(with_grid=False)}.f16"
    kept = KeptRows(workspace.feature_cache / name, (sum(prod(shape) for shape in shapes),))
    (pixels,) = pixel_hashes(image[None])
    keys = [row_key(pixels, view) for view in views]
    row_of = kept.fill(keys, lambda _, absent: how.maps(image, absent))
    return how.windows(kept.rows()[[row_of[key] for key in keys]], shapes)
