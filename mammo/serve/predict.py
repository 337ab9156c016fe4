"""Pictures on disk → the champion's votes, and explanations of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from mammo.core.config import Config
from mammo.core.errors import DataError, TrackingError
from mammo.core.files import Workspace
from mammo.core.records import ROI_SIDE_PX, Label
from mammo.data.decode import GreyImage, read_picture, read_roi
from mammo.data.extraction import read_film
from mammo.data.rois import TABLE_FILE, read_rois
from mammo.systems.explanation import Explanation, explain
from mammo.track.registry import champion
from mammo.track.store import connect, first_line

if TYPE_CHECKING:
    from mammo.serve.voter import Voter


def load_champion(workspace: Workspace) -> "Voter":
    """Load the registered champion through MLflow, as any client would.

    Raises:
        TrackingError: there is no champion, its files are gone, or the store cannot be used.
    """
    connect(workspace)
    name = Config.load_own(workspace.params).register_.model_name
    number = champion(workspace, name).number
    try:
        voter: Voter = mlflow.pyfunc.load_model(f"models:/{name}/{number}").unwrap_python_model()
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{name} version {number}: its files cannot be read ({first_line(error)}); they lie where the store was "
            "made. If that folder was moved, empty mlruns/ and run `dvc repro`"
        ) from error
    return voter


def predict_files(workspace: Workspace, files: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for each file: `file` and the fields of `RoiVote.row`.

    All files are read first: one bad file refuses the whole call.

    Raises:
        DataError: a file is no readable ROI.
        TrackingError: there is no champion.
    """
    images = np.stack([read_roi(path) for path in files])
    voter = load_champion(workspace)
    return [
        {"file": str(path), **vote.row(voter.model_name, voter.model_version)}
        for path, vote in zip(files, voter.votes(images), strict=True)
    ]


def predict_film(workspace: Workspace, files: Sequence[Path], places: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each place of one film, cut as ingest cuts: `file`, `at` and the fields of `RoiVote.row`.

    Args:
        workspace: with the registry, and `ingest.bounding_box`.
        files: the film, alone.
        places: centres of ROIs, such as `535,599`: pixels from the film's top-left corner, counted from 1.

    Raises:
        DataError: there is more than one file, it is no film, or a place is not in it.
        TrackingError: there is no champion.
    """
    if len(files) > 1:
        raise DataError(f"--at: names places of one film, got {len(files)} files; predict one film at a time")
    path, stretch = files[0], Config.load_own(workspace.params).ingest.bounding_box
    film = read_film(read_picture(path), str(path))
    if max(film.grey.shape) <= ROI_SIDE_PX:
        raise DataError(
            f"{path}: a film must be larger than a ROI, got {film.grey.shape}; predict it without --at"
        )
    at = [_place(place) for place in places]
    images = np.stack([film.roi(x, y, str(path), stretch)[0] for x, y in at])
    voter = load_champion(workspace)
    return [
        {"file": str(path), "at": [x, y], **vote.row(voter.model_name, voter.model_version)}
        for (x, y), vote in zip(at, voter.votes(images), strict=True)
    ]


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise DataError(f"--at: must be X,Y in pixels such as 535,599, got {text!r}; correct it") from error
    return x, y


def explain_rois(
    workspace: Workspace, names: Sequence[str], block: str | None = None
) -> list[tuple[dict[str, Any], Explanation]]:
    """Row and explanation of the champion's decision about each ROI; one bad name refuses the whole call.

    `names` are picture files, or roi_ids of the workspace's ROI table (a file is preferred); `block` is of Grad-CAM,
    the system's default when None.

    Raises:
        DataError: a name is neither a file nor a roi_id, or a file is no readable ROI.
        MammoError: there is no such block.
        TrackingError: there is no champion.
    """
    rois = _read_named(workspace, names)
    voter = load_champion(workspace)
    explanations = explain(voter.scorer, np.stack([image for image, _, _ in rois]), block)
    explained = []
    for name, (_, truth, phantom), found in zip(names, rois, explanations, strict=True):
        row = {"roi": name, "truth": truth, **found.vote.row(voter.model_name, voter.model_version)}
        row |= {"patch_scores": list(found.vote.patch_scores), "block": found.block}
        explained.append((row | {"synthetic": phantom or voter.scorer.bundle.synthetic}, found))
    return explained


def _read_named(workspace: Workspace, names: Sequence[str]) -> list[tuple[GreyImage, str | None, bool]]:
    """Pixels, truth and whether it is a phantom, of each picture file or, where there is none, roi_id."""
    table = workspace.rois / TABLE_FILE
    from_table = table.is_file() and not all(Path(name).exists() for name in names)
    rois = read_rois(workspace.rois) if from_table else None
    row_of = {} if rois is None else {roi_id: row for row, roi_id in enumerate(rois.table["roi_id"])}
    found: list[tuple[GreyImage, str | None, bool]] = []
    for name in names:
        if Path(name).exists():
            found.append((read_roi(Path(name)), None, False))
        elif rois is not None and name in row_of:
            fields = rois.table.iloc[row_of[name]]
            truth = Label(int(fields["label"])).title
            found.append((rois.images[row_of[name]], truth, bool(fields["synthetic"])))
        else:
            known = f"such as {next(iter(row_of))!r}" if row_of else "which does not exist"
            raise DataError(
                f"{name}: must be a picture file or a roi_id of {table} ({known}), but does not exist as either; check "
                "the path or the id"
            )
    return found
