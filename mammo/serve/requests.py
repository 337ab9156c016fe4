"""What comes in over HTTP: bodies within limits of size and time, pictures out of them, and refusals."""

import asyncio
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mammo.serve.schemas import RoisRequest

FILM_BYTES: Final = 20 * 2**20
"""Of an uncompressed film of 0.05 mm pixels."""
BODY_BYTES: Final = {"/v1/rois": 2**20} | dict.fromkeys(
    ("/v1/explanations", "/v1/films", "/v1/pictures"), FILM_BYTES
)
"""A ROI needs few kilobytes, and many may come at once."""


class RefusedError(Exception):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, message: str, retry_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_s = status, retry_s


async def body_of(request: Request, seconds: float) -> bytes:
    """The whole body, within the limits of size and time of its road."""
    limit = BODY_BYTES[request.url.path]
    too_large = RefusedError(
        413, f"body: must be at most {limit} bytes; send ROIs, or a film of 0.05 mm pixels"
    )
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


async def files_of(request: Request, seconds: float) -> list[tuple[str | None, bytes]]:
    """Name and content of each picture of a request: raw, in a form, or in JSON."""
    body, kind = (
        await body_of(request, seconds),
        request.headers.get("content-type", "").partition(";")[0].strip(),
    )
    if kind == "application/json":
        try:
            return [(None, image) for image in RoisRequest.model_validate_json(body).images]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise RefusedError(422, f'{where}: {first["msg"]}; send {{"images": [base64, …]}}') from error
    if kind != "multipart/form-data":
        return [(None, body)]
    request._body = body  # where Starlette looks for it
    try:
        async with request.form(max_files=256, max_fields=16) as form:
            uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            found = [(upload.filename, await upload.read()) for upload in uploads]
    except HTTPException as error:
        raise RefusedError(
            422, f"body: is no whole form ({error.detail}); send each picture as a file"
        ) from error
    if not found:
        raise RefusedError(
            422, "body: the form must hold a file, got none; send each picture as a file in it"
        )
    return found


async def one_of(request: Request, seconds: float) -> tuple[str | None, bytes]:
    """The only picture of a request."""
    found = await files_of(request, seconds)
    if len(found) != 1:
        raise RefusedError(422, f"body: one picture is wanted, got {len(found)}; send them one at a time")
    return found[0]


def places_of(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Places `X,Y` in a film."""
    places = []
    for text in texts:
        try:
            x, y = map(float, text.split(","))
        except ValueError:
            raise RefusedError(422, f"at: must be X,Y in pixels such as 535,599, got {text[:40]!r}") from None
        if not (abs(x) < 1e6 and abs(y) < 1e6):
            raise RefusedError(422, f"at: must lie inside the film, got {text[:40]!r}; correct it")
        places.append((x, y))
    if not 1 <= len(places) <= 64:
        raise RefusedError(422, f"at: 1 to 64 places are wanted, got {len(places)}; add ?at=X,Y for each ROI")
    return places
