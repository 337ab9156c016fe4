"""What the fusions need of a patch's blocks, small enough to keep: of each block its means, mean squares and cells.

Exact road: the patch passes through the backbone by itself. Dense road: its whole ROI does, once, and the patch is a
window of the feature maps. They differ where a convolution looks over the patch's border, at padding there and at
the ROI's tissue here, and in `samplewise` preprocessing, which takes the mean of the ROI instead of the patch's.

A block's part is `(n, 2 + cells, channels)`: the mean and the mean square of the whole patch, and the cells of
Model2's average pooling, row by row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mammo.models.backbones import BLOCKS
from mammo.models.fusion import MODEL2_POOLS


def pool_patches(features: dict[str, Tensor]) -> list[Tensor]:
    """Blocks of whole patches, `blockK`: `(n, c, h, w)` → each block's part, float32."""
    parts = []
    for name, pool in zip(BLOCKS, MODEL2_POOLS, strict=True):
        maps = features[name].float()
        mean, square = maps.mean(dim=(2, 3)), maps.square().mean(dim=(2, 3))
        cells = F.avg_pool2d(maps, pool).flatten(2).transpose(1, 2)
        parts.append(torch.cat([mean[:, None], square[:, None], cells], dim=1))
    return parts


def pool_windows(features: dict[str, Tensor], tops: Tensor, lefts: Tensor, size_px: int) -> list[Tensor]:
    """Blocks of whole ROIs → each block's part of the patches at every pair of the tops and lefts.

    Args:
        features: `blockK`: `(n, c, h, w)`, with a pixel for each 2^K pixels of the ROI.
        tops, lefts: corners in pixels, `(n, t)` and `(n, l)`.
        size_px: side of a patch.

    Returns:
        Of each block `(n, t · l, 2 + cells, c)`, float32; windows row by row. A mean is that of the area: pixels of a
        map that a window cuts count by their share.
    """
    parts = []
    for level, (name, pool) in enumerate(zip(BLOCKS, MODEL2_POOLS, strict=True), start=1):
        maps, stride = features[name].float(), 2**level
        n_along = size_px // stride // pool
        cell_starts = torch.arange(n_along, device=maps.device) * stride * pool

        def means(
            of: Tensor, starts: Tensor | None, side_px: int, stride: int = stride, n_along: int = n_along
        ) -> Tensor:
            rows, columns = (
                _shares(
                    corners if starts is None else (corners[:, :, None] + starts).flatten(1),
                    side_px,
                    stride,
                    n,
                )
                for corners, n in ((tops, of.shape[2]), (lefts, of.shape[3]))
            )
            found = _weighted(of, rows, columns)
            if starts is None:
                return found.flatten(1, 2)[:, :, None]
            n_rows, n_columns = tops.shape[1], lefts.shape[1]
            by_cell = found.reshape(len(of), n_rows, n_along, n_columns, n_along, -1)
            return by_cell.transpose(2, 3).reshape(len(of), n_rows * n_columns, n_along**2, -1)

        mean, square = means(maps, None, size_px), means(maps.square(), None, size_px)
        parts.append(torch.cat([mean, square, means(maps, cell_starts, stride * pool)], dim=2))
    return parts


def _weighted(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`(n, c, h, w)`, `(n, t, h)` and `(n, l, w)` → sums over pixels `(n, t, l, c)`, as two products of matrices."""
    n, width, height, _ = maps.shape
    with torch.autocast(
        maps.device.type, enabled=False
    ):  # means of maps in bfloat16 keep the digits of float32
        along = maps.contiguous().flatten(1, 2) @ columns.transpose(1, 2)
        across = along.view(n, width, height, -1).transpose(2, 3).flatten(1, 2) @ rows.transpose(1, 2)
    return across.view(n, width, columns.shape[1], -1).permute(0, 3, 2, 1)


def _shares(starts_px: Tensor, side_px: int, stride: int, n: int) -> Tensor:
    """How much of each of a map's `n` pixels along one axis an interval holds, as shares that sum to 1: `(…, n)`."""
    edges = torch.arange(n, device=starts_px.device)
    starts = (starts_px / stride)[..., None]
    covered = torch.minimum(starts + side_px / stride, edges + 1.0) - torch.maximum(starts, edges.float())
    covered = covered.clamp(min=0)
    return covered / covered.sum(dim=-1, keepdim=True)


def flatten(parts: Sequence[Tensor]) -> Tensor:
    """The parts of all blocks `(…, 2 + cells, channels)` as half floats in one row: `(…, length)`.

    Mean squares are kept as their roots, which half floats can hold.
    """
    roots = [
        torch.cat([part[..., :1, :], part[..., 1:2, :].sqrt(), part[..., 2:, :]], dim=-2) for part in parts
    ]
    return torch.cat([part.flatten(-2) for part in roots], dim=-1).half()


def unflatten(flat: Tensor, channels: Sequence[int], n_cells: Sequence[int]) -> list[Tensor]:
    """The reverse of `flatten`, float32."""
    rows = [2 + cells for cells in n_cells]
    widths = [n * width for n, width in zip(rows, channels, strict=True)]
    pieces = zip(flat.float().split(widths, dim=-1), rows, channels, strict=True)
    parts = [piece.unflatten(-1, (n, width)) for piece, n, width in pieces]
    for part in parts:
        part[..., 1, :].square_()
    return parts
