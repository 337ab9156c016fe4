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


def pool_windows(
    features: dict[str, Tensor], tops: Tensor, lefts: Tensor, size_px: int, *, means_only: bool = False
) -> list[Tensor]:
    """Blocks of whole ROIs → each block's part of the patches at every pair of the tops and lefts.

    Args:
        features: `blockK`: `(n, c, h, w)`, with a pixel for each 2^K pixels of the ROI; all blocks or some.
        tops, lefts: corners in pixels, `(n, t)` and `(n, l)`.
        size_px: side of a patch.
        means_only: leave out of the parts what only Model2 needs.

    Returns:
        Of each block `(n, t · l, 2 + cells, c)`, float32, or `(n, t · l, 1, c)`; windows row by row. A mean is that of
        the area: pixels of a map that a window cuts count by their share.
    """
    parts = []
    for level, (name, pool) in enumerate(zip(BLOCKS, MODEL2_POOLS, strict=True), start=1):
        if name not in features:
            continue
        maps, stride = features[name].float(), 2**level
        part = [_window_means(maps, tops, lefts, size_px, stride).flatten(1, 2)[:, :, None]]
        if not means_only:
            squares = _window_means(maps.square(), tops, lefts, size_px, stride)
            n_along = size_px // stride // pool
            starts = torch.arange(n_along, device=maps.device) * stride * pool
            of_rows, of_columns = ((corners[:, :, None] + starts).flatten(1) for corners in (tops, lefts))
            cells = _window_means(maps, of_rows, of_columns, stride * pool, stride)
            by_cell = cells.unflatten(2, (-1, n_along)).unflatten(1, (-1, n_along)).transpose(2, 3)
            part += [squares.flatten(1, 2)[:, :, None], by_cell.flatten(3, 4).flatten(1, 2)]
        parts.append(torch.cat(part, dim=2))
    return parts


def _window_means(maps: Tensor, tops: Tensor, lefts: Tensor, side_px: int, stride: int) -> Tensor:
    """Maps `(n, c, h, w)` of a pixel for each `stride` → means of squares of `side_px`, `(n, t, l, c)`.

    Two products of matrices, along the rows and along the columns; channels stay last, as the convolutions left them.
    """
    pixels = maps.permute(0, 2, 3, 1).contiguous()
    rows, columns = (
        _shares(corners, side_px, stride, n) for corners, n in ((tops, pixels.shape[1]), (lefts, pixels.shape[2]))
    )
    # Means of maps in bfloat16 keep the digits of float32.
    with torch.autocast(maps.device.type, enabled=False):
        of_rows = (rows @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])
        return torch.matmul(columns[:, None], of_rows)


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
    roots = [torch.cat([part[..., :1, :], part[..., 1:2, :].sqrt(), part[..., 2:, :]], dim=-2) for part in parts]
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
