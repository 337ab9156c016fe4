"""A worker of one version: answers requests on standard input until it ends. It runs the version's own code.

What must stay as it is for other versions to understand each other: `run`, the framing of messages, the names of the
requests and what they hold.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.core.errors import MammoError
from mammo.core.files import DESCRIPTION_FILE, read_json
from mammo.core.records import ROI_SIDE_PX
from mammo.data.decode import PHANTOM_ROI, PIXEL_MM, GreyImage, decode_picture, decode_roi, read_roi
from mammo.data.extraction import read_film

if TYPE_CHECKING:
    from mammo.evaluation.voting import RoiVote
    from mammo.systems.score import RoiScorer

Header = dict[str, Any]
Request = Callable[[Header, bytes], tuple[Header, bytes]]
LENGTHS: Final = 4
"""Bytes of each of the two lengths, big-endian, before a message: of its header (JSON) and of its body."""
TUMOR_RGB: Final = (230, 60, 40)
NORMAL_RGB: Final = (40, 130, 230)
STRONGEST_ALPHA: Final = 190
HATCH_PX: Final = 4
PREVIEW_PX: Final = 1024
"""Longest side of a film as a browser is shown it."""


def read_message(stream: BinaryIO) -> tuple[Header, bytes] | None:
    """The next message; None at the end."""
    lengths = stream.read(2 * LENGTHS)
    if len(lengths) < 2 * LENGTHS:
        return None
    header, body = (int.from_bytes(lengths[at : at + LENGTHS], "big") for at in (0, LENGTHS))
    return json.loads(stream.read(header)), stream.read(body)


def message(header: Header, body: bytes = b"") -> bytes:
    """A message as it is sent."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTHS, "big") + len(body).to_bytes(LENGTHS, "big") + text + body


def run(order: Header, requests: BinaryIO, answers: BinaryIO) -> None:
    """Become the worker that the order wants, and answer until the requests end.

    The order names `kind` (`votes` or `pictures`), `memory_mb` (null: no limit), `nice`, and for votes the folder
    `bundle`, `model_name`, `model_version` and `threads`.
    """
    if order["memory_mb"]:
        import resource  # Unix alone has it, and MLflow loads a voter anywhere

        size = order["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    os.nice(order["nice"])

    def send(header: Header, body: bytes = b"") -> None:
        answers.write(message(header, body))
        answers.flush()

    try:
        known = voting(order) if order["kind"] == "votes" else PICTURES
    except MammoError as error:
        send({"error": str(error)})
        return
    send({"ready": True})
    while (request := read_message(requests)) is not None:
        header, body = request
        try:
            answer = known[header["do"]](header, body)
        except MammoError as error:
            answer = {"error": str(error)}, b""
        except MemoryError:
            why = "the picture needs more memory than a request may have; send a smaller one"
            answer = {"error": why}, b""
        send(*answer)


@dataclass(frozen=True)
class RoiVoter:
    """A bundle, under the name and version that it is registered as: every road answers with it."""

    scorer: "RoiScorer"
    model_name: str
    model_version: str
    weights_sha256: str

    @classmethod
    def load(cls, bundle: Path, model_name: str, model_version: str) -> "RoiVoter":
        """Load a bundle's folder onto the GPU where there is one."""
        from mammo.models.bundle import load_bundle
        from mammo.systems.devices import choose_device
        from mammo.systems.score import RoiScorer

        scorer = RoiScorer.on(load_bundle(bundle), choose_device("auto"))
        weights = str(read_json(bundle / DESCRIPTION_FILE)["weights_sha256"])
        return cls(scorer, model_name, model_version, weights)

    def rows(self, images: npt.NDArray[np.uint8]) -> list[Header]:
        """uint8 ROIs `(n, 120, 120)` → the answer about each, with its patch scores.

        The same pixels and version have the same `prediction_id`, wherever it votes: `mammo trace` takes it apart.
        """
        return [self.row(*one) for one in zip(images, self.scorer.votes(images), strict=True)]

    def row(self, image: GreyImage, vote: "RoiVote") -> Header:
        """The answer that tells a decision."""
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        prediction_id = f"v{self.model_version}.{self.weights_sha256[:8]}.{pixels[:16]}"
        own = {"prediction_id": prediction_id, "patch_scores": list(vote.patch_scores)}
        return vote.row(self.model_name, self.model_version) | own


def voting(order: Header) -> dict[str, Request]:
    """Requests about ROIs, `n` times 14,400 grey levels: rows, and explanations."""
    import torch

    torch.set_num_threads(order["threads"])
    voter = RoiVoter.load(Path(order["bundle"]), order["model_name"], order["model_version"])

    def vote(_: Header, body: bytes) -> tuple[Header, bytes]:
        return {"rows": voter.rows(rois_of(body))}, b""

    def reference(_: Header, __: bytes) -> tuple[Header, bytes]:
        return {"rows": voter.rows(read_roi(PHANTOM_ROI)[None])}, b""

    def explain_one(header: Header, body: bytes) -> tuple[Header, bytes]:
        from mammo.systems.explanation import explain

        (image,) = rois_of(body)
        (found,) = explain(voter.scorer, image[None], header["block"])
        row = voter.row(image, found.vote)
        facts = {"block": found.block, "n_agreeing": found.n_agreeing, "n_patches": len(found.corners)}
        maps = BytesIO()
        arrays: Any = {name: getattr(found, name) for name in ("corners", "vote_map", "coverage", "grad_cam")}
        np.savez(maps, **arrays)
        drawn = {"grad_cam_png": base64.b64encode(overlay(found.grad_cam)).decode()}
        facts |= {"size_px": found.size_px, "patch_threshold": found.patch_threshold, "system": found.system}
        return {"rows": [row | facts | drawn]}, maps.getvalue()

    return {"vote": vote, "reference": reference, "explain": explain_one}


def rois_of(body: bytes) -> npt.NDArray[np.uint8]:
    """Grey levels as they are sent → `(n, 120, 120)`."""
    return np.frombuffer(body, dtype=np.uint8).reshape(-1, ROI_SIDE_PX, ROI_SIDE_PX).copy()


def png(grey: GreyImage) -> bytes:
    """Grey levels `(height, width)`, shrunk where the longer side has more than `PREVIEW_PX`."""
    image = Image.fromarray(grey)
    image.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BOX)
    return _saved(image)


def overlay(signed: npt.NDArray[np.float64]) -> bytes:
    """A signed map `(height, width)`: red above 0, blue and hatched below, clear at 0 and where NaN.

    The opacity grows with the distance from 0; the largest of the map is the most opaque.
    """
    values = np.nan_to_num(signed)
    alpha = STRONGEST_ALPHA * np.abs(values) / max(np.abs(values).max(), np.finfo(float).tiny)
    rows, columns = np.indices(values.shape)
    # Stripes tell the two signs apart where the colours do not.
    alpha[(values < 0) & ((rows + columns) % HATCH_PX == 0)] /= 4
    colours = np.where(values[..., None] < 0, NORMAL_RGB, TUMOR_RGB)
    return _saved(Image.fromarray(np.dstack([colours, alpha.round()]).astype(np.uint8)))


def _saved(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _roi(header: Header, body: bytes) -> tuple[Header, bytes]:
    return {}, decode_roi(body, header["name"]).tobytes()


def _film(header: Header, body: bytes) -> tuple[Header, bytes]:
    name, film = header["name"], read_film(body, header["name"])
    if max(film.grey.shape) <= ROI_SIDE_PX:
        raise MammoError(f"{name}: a film must be larger than a ROI, got {film.grey.shape}; send it without a place")
    cut = [film.roi(x, y, name, header["bounding_box"])[0] for x, y in header["at"]]
    return {}, b"".join(roi.tobytes() for roi in cut)


def _show(header: Header, body: bytes) -> tuple[Header, bytes]:
    grey, spacing_mm = decode_picture(body, header["name"])
    height, width = grey.shape
    kind = "roi" if grey.shape == (ROI_SIDE_PX, ROI_SIDE_PX) else "film"
    side = ROI_SIDE_PX * PIXEL_MM / (spacing_mm or PIXEL_MM)
    return {"kind": kind, "width_px": width, "height_px": height, "roi_px": side}, png(grey)


def _png(_: Header, body: bytes) -> tuple[Header, bytes]:
    return {"pngs": [base64.b64encode(png(roi)).decode() for roi in rois_of(body)]}, b""


PICTURES: Final[dict[str, Request]] = {"roi": _roi, "film": _film, "show": _show, "png": _png}
"""Requests about files of pictures: grey levels of a ROI or of places in a film, and what a browser can show."""
