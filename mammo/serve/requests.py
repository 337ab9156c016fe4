"""What comes in over HTTP and what is answered, as OpenAPI tells it: bodies within limits, pictures, refusals."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from mammo.core.errors import MammoError
from mammo.serve.predict import place_of

FILM_BYTES: Final = 20 * 2**20
"""Of an uncompressed film of 0.05 mm pixels."""
BODY_BYTES: Final = {"/v1/rois": 2**20} | dict.fromkeys(("/v1/explanations", "/v1/films", "/v1/pictures"), FILM_BYTES)
"""A ROI needs few kilobytes, and many may come at once."""


def from_base64(text: Any) -> bytes:
    """What a text in base64 stands for; `ValueError` where it is none, for which Pydantic's own type is too patient."""
    if not isinstance(text, str):
        raise ValueError("must be a text in base64")
    return base64.b64decode(text, validate=True)


Base64 = Annotated[bytes, BeforeValidator(from_base64, json_schema_input_type=str)]


class Refusal(BaseModel):
    """Why nothing was answered: rule, value, remedy."""

    error: str = Field(examples=["body: a ROI must be 120 x 120 pixels, got 64 x 64; …"])


class RoisRequest(BaseModel):
    """One or many ROIs in JSON."""

    @model_validator(mode="before")
    @classmethod
    def _knows(cls, values: Any) -> Any:
        # Pydantic's own rule lists each unknown key, which takes seconds where there are thousands.
        if isinstance(values, dict) and (unknown := sorted(values.keys() - {"images"})):
            raise ValueError(f"{unknown[0]!r:.80} is not known")
        return values

    images: Annotated[list[Base64], Field(min_length=1, max_length=256)]
    """Files of 120 × 120 pixels (PNG, PGM, TIFF, DICOM) in base64."""


class Answer(BaseModel):
    """The row of an answer, the same on every road."""

    name: str | None = Field(description="The file's name, where the request gave one.", examples=["roi.png"])
    at: tuple[float, float] | None = Field(default=None, description="Place in the film: x, y in pixels from 1.")
    label: str = Field(examples=["Tumor"])
    vote_share: float = Field(examples=[0.92], description="Share of the patches that vote Tumor.")
    votes: list[int] = Field(examples=[[1, 1, 0]], description="0 Normal, 1 Tumor, row by row over the grid.")
    patch_scores: list[float] = Field(examples=[[0.9, 0.8, 0.3]], description="Probability of Tumor of each patch.")
    score: float = Field(examples=[0.81], description="Mean of the patch scores.")
    model_name: str = Field(examples=["mammo-roi"])
    model_version: str = Field(examples=["2"])
    prediction_id: str = Field(examples=["v2.c74c813a.1f0c2a9b7d3e4455"], description="For `mammo trace`.")
    probability: float = Field(examples=[0.85], description="Calibrated probability of Tumor.")
    threshold: float = Field(examples=[0.42], description="Tumor is decided above this.")
    decided_by: str = Field(
        default="",
        examples=["12 of 25 votes, a share of 0.48, against the threshold 0.26, chosen on validation data"],
    )
    prediction_set: list[str] = Field(examples=[["Normal", "Tumor"]], description="The classes that remain possible.")
    referral: bool = Field(examples=[True], description="A reader has to decide.")
    in_domain: bool = Field(examples=[True], description="The picture is like the ROIs of training.")
    domain_reason: str | None = Field(examples=[None])
    picture: str | None = Field(default=None, description="PNG of what the model saw, in base64.")


class Answers(BaseModel):
    """One answer for each ROI, in their order."""

    rois: list[Answer]


class Explained(Answer):
    """An answer with its Grad-CAM."""

    grad_cam_png: str = Field(description="RGBA of 120 × 120 in base64: red speaks for Tumor, blue for Normal.")
    block: str = Field(examples=["all"])
    n_agreeing: int = Field(
        description="Patches whose Grad-CAM has the sign of the network's own logit.", examples=[24]
    )
    n_patches: int = Field(examples=[25])


class Picture(BaseModel):
    """A picture that a browser can show."""

    kind: str = Field(examples=["film"], description="roi or film.")
    width_px: int = Field(examples=[1024], description="Of the file.")
    height_px: int = Field(examples=[1024])
    roi_px: float = Field(examples=[120], description="Side of a ROI in the file's pixels.")
    png: str = Field(description="Base64; of a film at most 1024 pixels a side.")


class Model(BaseModel):
    """The version that answers and its challenger, with what the test part said of them."""

    champion: dict[str, Any]
    challenger: dict[str, Any] | None
    notice: str
    limits: dict[str, int]


REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Refusal, "description": why}
    for status, why in {
        401: "The bearer token is missing or wrong.",
        408: "The body was not there in time.",
        413: "The body is larger than a ROI or a film needs.",
        422: "A picture or a place is refused, and with it the whole request.",
        429: "Too many requests of one client at a time; Retry-After says when.",
        503: "Too many ROIs wait, or a worker did not answer; Retry-After says when.",
    }.items()
}
_FILE: Final = {"type": "string", "format": "binary"}
_FORM: Final = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "array", "items": _FILE}},
}
_TYPES: Final = ("application/octet-stream", "image/png", "image/tiff", "application/dicom")


def picture_body(schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """OpenAPI's `requestBody` of a picture: raw bytes or a form, and JSON of a schema where many may come."""
    schemas = dict.fromkeys(_TYPES, _FILE) | {"multipart/form-data": _FORM}
    schemas |= {} if schema is None else {"application/json": schema}
    content = {kind: {"schema": one} for kind, one in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


class RefusedError(MammoError):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def body_of(request: Request, seconds: float) -> bytes:
    """The whole body, within the limits of size and time of its road."""
    limit = BODY_BYTES[request.url.path]
    too_large = RefusedError(413, f"body: must be at most {limit} bytes; send fewer or smaller pictures")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise RefusedError(408, f"body: must be there within {seconds:g} s; send it again") from error
    return bytes(body)


async def waiting(request: Request) -> None:
    """`ClientDisconnect` if nobody waits for the answer any more."""
    if await request.is_disconnected():
        raise ClientDisconnect


async def files_of(request: Request, seconds: float) -> Sequence[tuple[str | None, bytes]]:
    """Name and content of each picture of a request: raw, in a form, or in JSON."""
    body = await body_of(request, seconds)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return [(None, image) for image in RoisRequest.model_validate_json(body).images]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise RefusedError(
                422, f'{where}: {first["msg"].removeprefix("Value error, ")}; send {{"images": [base64, …]}}'
            ) from error
    if kind != "multipart/form-data":
        return [(None, body)]
    request._body = body  # where Starlette looks for it
    try:
        async with request.form(max_files=256, max_fields=16) as form:
            uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            # A name may hold what is no character.
            names = [(one.filename or "").encode("utf-8", "replace").decode() for one in uploads]
            found = list(zip(names, [await one.read() for one in uploads], strict=True))
    except (HTTPException, UnicodeError) as error:
        why = getattr(error, "detail", error)
        raise RefusedError(422, f"body: is no whole form ({why}); send each picture as a file") from error
    if not found:
        raise RefusedError(422, "body: the form must hold a file, got none; send each picture as a file in it")
    return found


async def one_of(request: Request, seconds: float) -> tuple[str | None, bytes]:
    """The only picture of a request."""
    found = await files_of(request, seconds)
    if len(found) != 1:
        raise RefusedError(422, f"body: one picture is wanted, got {len(found)}; send them one at a time")
    return found[0]


def places_of(texts: Sequence[str], most: int = 64) -> list[tuple[float, float]]:
    """Places `X,Y` in a film."""
    if not 1 <= len(texts) <= most:
        raise RefusedError(422, f"at: 1 to {most} places are wanted, got {len(texts)}; ask with ?at=X,Y for each ROI")
    return [place_of(text, "at") for text in texts]
