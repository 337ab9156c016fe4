"""The leakage audit as people read it: its files in `reports/audit/`, its picture, and the page's section."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from mammo.core.files import Workspace, atomic_path, write_json
from mammo.data.audit import Audit, flagged_rois, leakage_summary
from mammo.data.audit_search import Box, aligned_crops, overlap_boxes
from mammo.data.decode import GreyImage
from mammo.report import canvas
from mammo.report.blocks import Block, Cell, Paragraph, SourceFile, Table, counted

AUDIT_FILE: Final = "audit/summary.json"
MAX_PAIRS: Final = 20
MOST_ROWS: Final = 40
"""Longer tables end here, and say so; their file holds the rest."""
_DIFFERENCE: Final = Normalize(0, 32)
"""Grey levels of a difference; it is darkest from 32 on."""
_TABLES: Final = {
    "pairs": "Pairs of ROIs that share tissue",
    "flagged_rois": "ROIs of which another part knows something",
}
_HEADINGS: Final = {
    "a": "ROI a",
    "b": "ROI b",
    "split": "part",
    "split_a": "part of a",
    "split_b": "part of b",
    "mad": "mean absolute difference",
    "roi_id": "ROI",
}


def write_audit(workspace: Workspace, audit: Audit, protocol: str) -> None:
    """Write `pairs.csv`, `flagged_rois.csv`, `summary.json` and `pairs.png` into `reports/audit/`."""
    folder = workspace.reports / "audit"
    table = audit.rois.table
    _write_csv(folder / "pairs.csv", audit.pairs)
    # Film and patient stay out of the reports: the films' licence covers them.
    flagged = flagged_rois(audit.pairs, table).drop(columns=["film_id", "patient_id"])
    _write_csv(folder / "flagged_rois.csv", flagged)
    write_json(workspace.reports / AUDIT_FILE, leakage_summary(audit.pairs, table))
    note = (
        f"{audit.rois.name_of_data}, {protocol.replace('_', ' ')} split, {len(table)} ROIs; "
        "shifts are those of b's top-left corner from a's, right and down"
    )
    image_of = dict(zip(table["roi_id"], audit.rois.images, strict=True))
    pairs_sheet(audit.pairs, image_of, folder / "pairs.png", note)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.round(4).to_csv(temporary, index=False)


def audit_headline(summary: SourceFile | None) -> list[Block]:
    """How many test ROIs the other parts know, by patient and by tissue."""
    if summary is None:
        return []
    unknown = summary.value("n_test_rois_of_shared_patients") is None
    return summary.blocks("patients unknown" if unknown else "patients known")


def audit_blocks(summary: SourceFile | None) -> list[Block]:
    """Headline, counts, pairs, flagged ROIs and the pairs' picture; nothing where the stage has not run."""
    if summary is None or summary.folder is None:
        return []
    tables = {name: _rows_of(summary.folder, f"audit/{name}.csv", title) for name, title in _TABLES.items()}
    return summary.blocks("audit", headline=audit_headline(summary), **tables)


def _rows_of(reports: Path, path: str, title: str) -> list[Block]:
    """The first rows of a CSV file, each linked to its line."""
    table = pd.read_csv(reports / path, dtype=str, keep_default_na=False)
    if table.empty:
        return [Paragraph((f"{title}: none (", Cell(path, path), ")."))]
    rows = [
        # RFC 7111 counts the header as row 1.
        [Cell(value, f"{path}#row={number}") for value in row]
        for number, row in enumerate(table.head(MOST_ROWS).to_numpy(), start=2)
    ]
    rest = f" (the first {MOST_ROWS} of {len(table)})" if len(table) > MOST_ROWS else ""
    headings = [_HEADINGS.get(column, column.replace("_", " ")) for column in table.columns]
    return [Table(f"{title}{rest}.", headings, rows, path)]


def pairs_sheet(pairs: pd.DataFrame, image_of: Mapping[str, GreyImage], path: Path, data_note: str) -> None:
    """Draw each pair (`AUDIT_SCHEMA`) as a row: both ROIs with the shared tissue framed, both crops, their difference.

    `image_of` gives the grey levels of a ROI, `(h, w)`, by its id. Pairs across parts come first, the largest overlap
    leading. At most `MAX_PAIRS` are drawn; the title says how many there are.
    """
    rows: list[Any] = [*pairs.itertuples()]
    rows.sort(key=lambda pair: (not _leaks(pair), -pair.overlap_px))
    shown = rows[:MAX_PAIRS]
    n_leaks, verb = sum(map(_leaks, rows)), "shares" if len(rows) == 1 else "share"
    heading = f"Leakage audit: {counted(len(pairs), 'pair')} of ROIs {verb} tissue, {n_leaks} across parts"
    if len(pairs) > len(shown):
        heading += f"; the first {len(shown)} shown"
    if not shown:
        canvas.save(canvas.empty_figure(heading, data_note, "no two ROIs share tissue"), path)
        return
    figure = canvas.new_figure(11.4, 2.35 * len(shown) + 0.75, heading, data_note)
    grid = figure.subplots(len(shown), 5, squeeze=False)
    for axes, pair in zip(grid, shown, strict=True):
        _draw_pair(axes, pair, image_of[pair.a], image_of[pair.b])
    bar: dict[str, Any] = {"ax": list(grid[:, 4]), "aspect": 16, "shrink": 0.9, "pad": 0.015}
    canvas.draw_colour_bar(figure, "gray_r", _DIFFERENCE, "grey levels of |a − b|", **bar)
    canvas.save(figure, path)


def _leaks(pair: Any) -> bool:
    return bool(pair.split_a != pair.split_b)


def _draw_pair(row: npt.NDArray[np.object_], found: Any, image_a: GreyImage, image_b: GreyImage) -> None:
    crop_a, crop_b = aligned_crops(image_a, image_b, found)
    in_a, in_b = overlap_boxes(_shape(image_a), _shape(image_b), found)
    placed = [f"{found.dx_px:+d}, {found.dy_px:+d} px".replace("-", "−")]
    stretches = (("x", found.stretch_x), ("y", found.stretch_y))
    placed += [f"{axis} × {value:.2f}" for axis, value in stretches if not math.isclose(value, 1)]
    turned = ", turned back" if found.kind in ("mirrored", "flipped") else ""
    mad = "0" if found.mad == 0 else f"{found.mad:.1f}" if found.mad >= 0.1 else f"{found.mad:.3f}"
    pictures: list[tuple[npt.NDArray[Any], str, Box | None]] = [
        (image_a, f"a: {canvas.shorten(found.a, 22)}\n{found.split_a} part", in_a),
        (image_b, f"b: {canvas.shorten(found.b, 22)}\n{found.split_b} part", in_b),
        (crop_a, f"a's share\n{found.kind}: {', '.join(placed)}", None),
        (crop_b, f"b's share{turned}\n{found.overlap_px:,} px shared", None),
        (np.abs(crop_a.astype(np.int16) - crop_b), f"|a − b|\nMAD {mad} grey levels", None),
    ]
    for axes, (image, title, box) in zip(row, pictures, strict=True):
        look: tuple[Any, ...] = ("gray_r", _DIFFERENCE) if axes is row[4] else ("gray", canvas.GREY_LEVELS)
        canvas.show_pixels(axes, image, title, 8, *look)
        # In the middle of a square, so that titles and columns are in line.
        height, width = _shape(image)
        x, y, half = (width - 1) / 2, (height - 1) / 2, max(height, width) / 2
        axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
        axes.spines[:].set_visible(box is not None)
        line: dict[str, Any] = {"fill": False, "edgecolor": "#E69F00", "linewidth": 1.8 if box else 1.2}
        box = box or Box(0, 0, width, height)
        size = (box.right - box.left, box.bottom - box.top)
        axes.add_patch(Rectangle((box.left - 0.5, box.top - 0.5), *size, **line))
    verdict, colour = ("LEAK", "#B5342B") if _leaks(found) else ("same part", canvas.MUTED)
    row[0].set_ylabel(verdict, fontsize=8.5, color=colour, weight="bold")


def _shape(image: npt.NDArray[Any]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
