"""What the service is asked and what it answers, as OpenAPI tells it."""

import base64
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ID: Final = "v2.c74c813a.1f0c2a9b7d3e4455"


def from_base64(text: Any) -> bytes:
    """What a text in base64 stands for; `ValueError` where it is none, for which Pydantic's own type is too patient."""
    return base64.b64decode(text, validate=True)


Base64 = Annotated[bytes, BeforeValidator(from_base64, json_schema_input_type=str)]


class Refusal(BaseModel):
    """Why nothing was answered: rule, value, remedy."""

    error: str = Field(examples=["body: a ROI must be 120 x 120 pixels, got 64 x 64; …"])


class RoisRequest(BaseModel):
    """One or many ROIs in JSON."""

    model_config = ConfigDict(extra="forbid")
    images: Annotated[list[Base64], Field(min_length=1, max_length=256)]
    """Files of 120 × 120 pixels (PNG, PGM, TIFF, DICOM) in base64."""


class Answer(BaseModel):
    """The row of an answer, the same on every road."""

    name: str | None = Field(description="The file's name, where the request gave one.", examples=["roi.png"])
    at: tuple[float, float] | None = Field(
        default=None, description="Place in the film: x, y in pixels from 1."
    )
    label: str = Field(examples=["Tumor"])
    vote_share: float = Field(examples=[0.92], description="Share of the patches that vote Tumor.")
    votes: list[int] = Field(examples=[[1, 1, 0]], description="0 Normal, 1 Tumor, row by row over the grid.")
    patch_scores: list[float] = Field(
        examples=[[0.9, 0.8, 0.3]], description="Probability of Tumor of each patch."
    )
    score: float = Field(examples=[0.81], description="Mean of the patch scores.")
    model_name: str = Field(examples=["mammo-roi"])
    model_version: str = Field(examples=["2"])
    prediction_id: str = Field(examples=[ID], description="For `mammo trace`.")
    probability: float = Field(examples=[0.85], description="Calibrated probability of Tumor.")
    threshold: float = Field(examples=[0.42], description="Tumor is decided above this.")
    decided_by: str = Field(
        default="",
        examples=["12 of 25 votes, a share of 0.48, against the threshold 0.26, chosen on validation data"],
    )
    prediction_set: list[str] = Field(
        examples=[["Normal", "Tumor"]], description="The classes that remain possible."
    )
    referral: bool = Field(examples=[True], description="A reader has to decide.")
    in_domain: bool = Field(examples=[True], description="The picture is like the ROIs of training.")
    domain_reason: str | None = Field(examples=[None])
    picture: str | None = Field(default=None, description="PNG of what the model saw, in base64.")


class Answers(BaseModel):
    """One answer for each ROI, in their order."""

    rois: list[Answer]


class Explained(Answer):
    """An answer with its Grad-CAM."""

    grad_cam_png: str = Field(
        description="RGBA of 120 × 120 in base64: red speaks for Tumor, blue for Normal."
    )
    block: str = Field(examples=["all"])
    n_agreeing: int = Field(
        description="Patches whose Grad-CAM has the sign of their own vote.", examples=[24]
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
    401: {"model": Refusal, "description": "The bearer token is missing or wrong."},
    408: {"model": Refusal, "description": "The body was not there in time."},
    413: {"model": Refusal, "description": "The body is larger than a ROI or a film needs."},
    422: {"model": Refusal, "description": "A picture or a place is refused, and with it the whole request."},
    429: {
        "model": Refusal,
        "description": "Too many requests of one client at a time; Retry-After says when.",
    },
    503: {"model": Refusal, "description": "Too many ROIs wait; Retry-After says when."},
}

_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_PICTURES: Final = dict.fromkeys(
    ("application/octet-stream", "image/png", "image/tiff", "application/dicom"), _FILE
)
_FORM: Final = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "array", "items": _FILE["schema"]}},
        }
    }
}


def body_of(*, json: bool = False) -> dict[str, Any]:
    """The `requestBody` of a picture: raw bytes or a form, and JSON where many may come."""
    content: dict[str, Any] = _PICTURES | _FORM
    if json:
        content = content | {"application/json": {"schema": RoisRequest.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
