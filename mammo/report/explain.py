"""`mammo explain`: picture files or ROIs of the table → one picture each, of what the champion saw in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mammo.core.errors import DataError
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.decode import GreyImage, read_roi
from mammo.data.rois import RoiSet, read_rois
from mammo.serve.predict import load_champion


@dataclass(frozen=True)
class Named:
    """A ROI to explain: its name as it was asked for, its pixels, and what is known about it."""

    name: str
    image: GreyImage
    truth: str | None
    synthetic: bool


def explain_named(
    space: Workspace, names: Sequence[str], folder: Path, block: str | None = None
) -> list[dict[str, Any]]:
    """Draw the champion's decision about each ROI.

    All names are checked first: one bad name refuses the whole call, and no picture is written.

    Args:
        space: the workspace with the registry.
        names: picture files, or roi_ids of the workspace's ROI table; a file is preferred.
        folder: where the pictures go.
        block: of Grad-CAM; the system's default when None.

    Returns:
        One row for each name: `roi`, `picture`, `label`, `truth` (null where unknown), `vote_share`, `votes`,
        `patch_scores`, `score`, `block`, `synthetic`, `model_name`, `model_version`.

    Raises:
        DataError: a name is neither a file nor a roi_id, or a file is no readable ROI.
        MammoError: there is no such block.
        TrackingError: there is no champion.
    """
    rois = named_rois(space, names)
    voter = load_champion(space).unwrap_python_model()
    from mammo.report.canvas import save
    from mammo.report.explanations import Subject, explanation_figure
    from mammo.serve.explanation import explain

    bundle = voter.scorer.bundle
    model = f"{voter.model_name} v{voter.model_version} ({bundle.system})"
    explanations = explain(voter.scorer, np.stack([roi.image for roi in rois]), block)
    rows = []
    for roi, explained, path in zip(rois, explanations, picture_paths(names, folder), strict=True):
        subject = Subject(roi.name, model, roi.truth, roi.synthetic or bundle.synthetic)
        save(explanation_figure(roi.image, explained, subject), path)
        vote = explained.vote
        rows.append(
            {
                "roi": roi.name,
                "picture": str(path),
                "label": vote.label,
                "truth": roi.truth,
                "vote_share": vote.vote_share,
                "votes": list(vote.votes),
                "patch_scores": list(vote.patch_scores),
                "score": vote.score,
                "block": explained.block,
                "synthetic": subject.synthetic,
                "model_name": voter.model_name,
                "model_version": voter.model_version,
            }
        )
    return rows


def named_rois(space: Workspace, names: Sequence[str]) -> list[Named]:
    """Read each name as a picture file or, where there is none, as a roi_id of the ROI table.

    Raises:
        DataError: a name is neither, or a file is no readable ROI.
    """
    files = [Path(name).exists() for name in names]
    table = read_rois(space.rois) if not all(files) and (space.rois / "rois.parquet").is_file() else None
    return [
        Named(name, read_roi(Path(name)), None, synthetic=False)
        if is_file
        else _from_table(name, space, table)
        for name, is_file in zip(names, files, strict=True)
    ]


def _from_table(name: str, space: Workspace, rois: RoiSet | None) -> Named:
    found: list[int] = [] if rois is None else np.flatnonzero(rois.table["roi_id"] == name).tolist()
    if rois is None or not found:
        where = space.rois / "rois.parquet"
        known = "which does not exist" if rois is None else f"such as {rois.table['roi_id'].iloc[0]!r}"
        raise DataError(
            f"{name}: must be a picture file or a roi_id of {where} ({known}), but does not exist as either; check the "
            "path or the id"
        )
    row = rois.table.iloc[found[0]]
    return Named(name, rois.images[found[0]], Label(int(row["label"])).title, bool(row["synthetic"]))


def picture_paths(names: Sequence[str], folder: Path) -> list[Path]:
    """A PNG for each name: its last two parts, with a number where two names would share one."""
    taken: list[str] = []
    for name in names:
        stem = _stem(name)
        numbered = (f"{stem}-{number}" for number in count(2))
        taken.append(next(free for free in chain([stem], numbered) if free not in taken))
    return [folder / f"{stem}.png" for stem in taken]


def _stem(name: str) -> str:
    path = Path(name)
    last = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.]+", "-", "-".join([*path.parts[-2:-1], last])).strip("-.") or "roi"
