"""The voting service over HTTP: votes for programs and for people, health and metrics for operators."""

import asyncio
import base64
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Annotated, Any, Final

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammo.core.errors import NOTICE
from mammo.data.decode import MAX_ROI_BYTES, PHANTOM_ROI
from mammo.serve import schemas
from mammo.serve.requests import BODY_BYTES, RefusedError, files_of, one_of, places_of
from mammo.serve.service import Service, admitted, describe

log = logging.getLogger("mammo.serve")
Places = Annotated[
    list[str],
    Query(alias="at", description="X,Y of a ROI's centre, in pixels from the film's top-left corner, from 1"),
]
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(service: Service, allowed_hosts: Sequence[str] = ("*",)) -> FastAPI:
    """Build the application around a service, which runs as long as the application."""
    follower, measures, serve = service.follower, service.measures, service.config.serve

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="mammo",
        description=f"Votes on ROIs of mammograms. {NOTICE}",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        responses={422: schemas.REFUSALS[422]},
    )
    app.state.service = service
    static = files("mammo.serve").joinpath("static")
    app.mount("/static", StaticFiles(directory=str(static)))
    app.add_middleware(Outermost, service=service)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))

    @app.exception_handler(RefusedError)
    def refuse(_: Request, error: RefusedError) -> JSONResponse:
        measures.refused.labels(str(error.status)).inc()
        headers = {} if error.retry_s is None else {"Retry-After": str(error.retry_s)}
        return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    def refuse_query(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refuse(_, RefusedError(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}; see /docs"))

    @app.exception_handler(HTTPException)
    def refuse_address(_: Request, error: HTTPException) -> JSONResponse:
        return refuse(_, RefusedError(error.status_code, f"{error.detail}; see /docs"))

    @app.post(
        "/v1/rois",
        response_model=schemas.Answers,
        responses=schemas.REFUSALS,
        openapi_extra=schemas.body_of(json=True),
    )
    async def rois(request: Request, picture: bool = False) -> Any:
        """Vote on one or many ROIs; one bad picture refuses the whole request."""
        async with admitted(service, request) as batcher:
            sent = await files_of(request, serve.body_s)
            started = time.perf_counter()
            tasks = [batcher.loaded.decode(content, name or "body") for name, content in sent]
            images = await asyncio.gather(*tasks)
            rows = await service.answer(batcher, images, "rois", started)
            shown = await batcher.loaded.pngs(np.stack(images)) if picture else [None] * len(rows)
        named = zip(sent, rows, shown, strict=True)
        return JSONResponse(
            {"rois": [{"name": name, **row, "picture": png} for (name, _), row, png in named]}
        )

    @app.post(
        "/v1/films",
        response_model=schemas.Answers,
        responses=schemas.REFUSALS,
        openapi_extra=schemas.body_of(),
    )
    async def films(request: Request, at: Places = [], picture: bool = False) -> Any:  # noqa: B006 (FastAPI copies it)
        """Vote on places of a film, each cut as in training."""
        async with admitted(service, request) as batcher:
            places, (name, content) = places_of(at), await one_of(request, serve.body_s)
            started = time.perf_counter()
            images = await batcher.loaded.cut(content, name or "body", places)
            rows = await service.answer(batcher, list(images), "films", started)
            shown = await batcher.loaded.pngs(images) if picture else [None] * len(rows)
        placed = zip(places, rows, shown, strict=True)
        return JSONResponse(
            {"rois": [{"name": name, "at": at, **row, "picture": png} for at, row, png in placed]}
        )

    @app.post(
        "/v1/pictures",
        response_model=schemas.Picture,
        responses=schemas.REFUSALS,
        openapi_extra=schemas.body_of(),
    )
    async def pictures(request: Request) -> Any:
        """Show a picture as the model reads it: a ROI or a film, in any format, as PNG."""
        async with admitted(service, request) as batcher:
            name, content = await one_of(request, serve.body_s)
            facts, png = await batcher.loaded.show(content, name or "body")
        return facts | {"png": base64.b64encode(png).decode()}

    @app.post(
        "/v1/explanations",
        response_model=schemas.Explained,
        responses=schemas.REFUSALS,
        openapi_extra=schemas.body_of(),
    )
    async def explanations(request: Request, at: Places = []) -> Any:  # noqa: B006 (FastAPI copies it)
        """Vote on a ROI, or on one place of a film, and compute its Grad-CAM."""
        async with admitted(service, request) as batcher:
            name, content = await one_of(request, serve.body_s)
            if at:
                places = places_of(at[:1])
                image = (await batcher.loaded.cut(content, name or "body", places))[0]
            else:
                image = await batcher.loaded.decode(content, name or "body")
            row, _ = await batcher.loaded.explain(image)
        return JSONResponse({"name": name} | ({"at": places[0]} if at else {}) | row)

    @app.get("/v1/model", response_model=schemas.Model)
    async def model() -> Any:
        """The version that answers, and its challenger."""
        challenger = follower.aliases.get("challenger")
        return {
            "champion": await asyncio.to_thread(describe, follower, follower.champion.loaded.files.number),
            "challenger": challenger and await asyncio.to_thread(describe, follower, challenger),
            "notice": NOTICE,
            "limits": {"roi_bytes": MAX_ROI_BYTES, "film_bytes": BODY_BYTES["/v1/films"]},
        }

    @app.get("/v1/example", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def example() -> Response:
        """A phantom ROI to try."""
        return Response(PHANTOM_ROI.read_bytes(), media_type="image/png")

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready(response: Response) -> dict[str, Any]:
        """Whether requests should be sent here, and which version answers."""
        is_ready = not service.draining
        response.status_code = 200 if is_ready else 503
        alias, loaded = follower.aliases.get("champion"), follower.champion.loaded.files.number
        return {
            "ready": is_ready,
            "draining": service.draining,
            "alias": alias,
            "loaded": loaded,
            "refused": follower.refused,
            "registry": follower.trouble or "ok",
        }

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        measures.queue.set(follower.champion.n_waiting)
        measures.drifted.set(follower.drifted)
        measures.loaded(follower.champion.loaded.files.number)
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    def text(name: str) -> HTMLResponse:
        return HTMLResponse(static.joinpath(name).read_text(encoding="utf-8"))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return text("page.html")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs() -> HTMLResponse:
        return text("docs.html")

    return app


class Outermost:
    """Security headers on every answer, the token of `/v1`, a line of log; nobody hears of a client that hangs up."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        token, given = self.service.token, Headers(scope=scope).get("authorization", "")
        with suppress(ClientDisconnect):
            if (
                token
                and scope["path"].startswith("/v1/")
                and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
            ):
                denied = JSONResponse(
                    {
                        "error": "authorization: must be `Bearer TOKEN` with this service's token; ask its operator"
                    },
                    401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await denied(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        if scope["path"].startswith("/v1/"):
            client = scope["client"][0] if scope.get("client") else None
            line = {
                "path": scope["path"],
                "status": status,
                "seconds": round(time.perf_counter() - started, 4),
            }
            log.info(json.dumps(line | {"method": scope["method"], "client": client}))
