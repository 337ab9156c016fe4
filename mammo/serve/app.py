"""The voting service over HTTP: votes for programs and for people, health and metrics for operators; as a program."""

import asyncio
import base64
import ctypes
import gc
import ipaddress
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Annotated, Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from mammo.core.errors import NOTICE, MammoError
from mammo.core.files import Workspace
from mammo.data.decode import MAX_ROI_BYTES, PHANTOM_ROI
from mammo.serve.door import Outermost
from mammo.serve.requests import (
    BODY_BYTES,
    REFUSALS,
    Answers,
    Explained,
    Model,
    Picture,
    RefusedError,
    RoisRequest,
    files_of,
    one_of,
    picture_body,
    places_of,
    waiting,
)
from mammo.serve.service import TOKEN, Service, admitted

log = logging.getLogger("mammo.serve")
Places = Annotated[
    list[str],
    Query(alias="at", description="X,Y of a ROI's centre, in pixels from the film's top-left corner, from 1"),
]
LOCAL: Final = ("localhost", "127.0.0.1", "[::1]", "testserver")
IDLE_S: Final = 10
M_MMAP_THRESHOLD: Final = -3


def create_app(service: Service, allowed_hosts: Sequence[str] = ("*",)) -> ASGIApp:
    """Build the application around a service, which runs as long as the application."""
    follower, measures, serve = service.follower, service.measures, service.config.serve

    app = FastAPI(
        title="mammo",
        description=f"Votes on ROIs of mammograms. {NOTICE}",
        lifespan=lambda _: service.running(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={422: REFUSALS[422]},
    )
    static = Path(__file__).with_name("static")
    app.mount("/static", StaticFiles(directory=static))

    @app.exception_handler(MammoError)
    def refuse(_: Request, error: MammoError) -> JSONResponse:
        status = getattr(error, "status", 422)
        headers = {"Retry-After": "1"} if status in (429, 503) else {}
        return JSONResponse({"error": str(error)}, status, headers)

    @app.exception_handler(RequestValidationError)
    def refuse_query(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refuse(_, RefusedError(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}; see /docs"))

    @app.exception_handler(HTTPException)
    def refuse_address(_: Request, error: HTTPException) -> JSONResponse:
        answer = refuse(_, RefusedError(error.status_code, f"{error.detail}; see /docs"))
        answer.headers.update(error.headers or {})  # such as Allow
        return answer

    @app.exception_handler(ClientDisconnect)
    def hang_up(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # for the log: nobody hears it

    many = picture_body(RoisRequest.model_json_schema())

    @app.post("/v1/rois", response_model=Answers, responses=REFUSALS, openapi_extra=many)
    async def rois(request: Request, picture: bool = False) -> Any:
        """Vote on one or many ROIs; one bad picture refuses the whole request."""
        async with admitted(service, request) as batcher:
            sent = await files_of(request, serve.body_s)
            started, wanted = time.perf_counter(), partial(waiting, request)
            tasks = [
                batcher.loaded.decode(content, name or (f"images.{i}" if len(sent) > 1 else "body"), wanted)
                for i, (name, content) in enumerate(sent)
            ]
            images, names = np.stack(await asyncio.gather(*tasks)), [{"name": name} for name, _ in sent]
            rows = await service.answer(batcher, images, started, "rois", names, picture)
        return JSONResponse({"rois": rows})

    @app.post("/v1/films", response_model=Answers, responses=REFUSALS, openapi_extra=picture_body())
    async def films(request: Request, at: Places = [], picture: bool = False) -> Any:  # noqa: B006 (FastAPI copies it)
        """Vote on places of a film, each cut as in training."""
        async with admitted(service, request) as batcher:
            places, (name, content) = places_of(at), await one_of(request, serve.body_s)
            started = time.perf_counter()
            images = await batcher.loaded.cut(content, name or "body", places, partial(waiting, request))
            names = [{"name": name, "at": place} for place in places]
            rows = await service.answer(batcher, images, started, "films", names, picture)
        return JSONResponse({"rois": rows})

    @app.post("/v1/pictures", response_model=Picture, responses=REFUSALS, openapi_extra=picture_body())
    async def pictures(request: Request) -> Any:
        """Show a picture as the model reads it: a ROI or a film, in any format, as PNG."""
        async with admitted(service, request) as batcher:
            name, content = await one_of(request, serve.body_s)
            facts, png = await batcher.loaded.show(content, name or "body", partial(waiting, request))
        return facts | {"png": base64.b64encode(png).decode()}

    @app.post("/v1/explanations", response_model=Explained, responses=REFUSALS, openapi_extra=picture_body())
    async def explanations(request: Request, at: Places = []) -> Any:  # noqa: B006 (FastAPI copies it)
        """Vote on a ROI, or on one place of a film, and compute its Grad-CAM."""
        async with admitted(service, request) as batcher:
            places, (name, content) = places_of(at, 1) if at else [], await one_of(request, serve.body_s)
            started, wanted = time.perf_counter(), partial(waiting, request)
            if places:
                image = (await batcher.loaded.cut(content, name or "body", places, wanted))[0]
            else:
                image = await batcher.loaded.decode(content, name or "body", wanted)
            row = await batcher.explain(image)
            service.note(image[None], [row], "explanations", started)
        return JSONResponse({"name": name} | ({"at": places[0]} if places else {}) | row)

    @app.get("/v1/model", response_model=Model)
    async def model() -> Any:
        """The version that answers, and its challenger where that is loaded."""
        return {
            "champion": await service.told(follower.champion),
            "challenger": follower.challenger and await service.told(follower.challenger),
            "notice": NOTICE,
            "limits": {"roi_bytes": MAX_ROI_BYTES, "film_bytes": BODY_BYTES["/v1/films"]},
        }

    @app.get("/v1/example", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def example() -> Response:
        """A phantom ROI to try."""
        return Response(PHANTOM_ROI.read_bytes(), media_type="image/png")

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def ready(response: Response) -> dict[str, Any]:
        """Whether requests should be sent here, and which version answers."""
        response.status_code = 503 if service.draining else 200
        return {
            "ready": not service.draining,
            "draining": service.draining,
            "alias": follower.aliases.get("champion"),
            "loaded": follower.champion.loaded.files.number,
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

    @app.head("/", response_class=HTMLResponse, include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return (static / "page.html").read_text(encoding="utf-8")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs() -> str:
        return (static / "docs.html").read_text(encoding="utf-8")

    return Outermost(app, service, allowed_hosts)


class Draining(uvicorn.Server):
    """On SIGTERM it says that it is not ready, answers for a while longer, and then ends as uvicorn does."""

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.listening = service, listening

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and tell of it."""
        await super().startup(sockets)
        self.listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGTERM and SIGINT; a second signal ends at once."""
        loop = asyncio.get_running_loop()
        if self.service.draining:
            self.force_exit = self.should_exit = True
            for task in (*self.server_state.tasks, *self.service.shadows):
                loop.call_soon_threadsafe(task.cancel)
            return
        self.service.draining = True
        seconds = self.service.config.serve.drain_s if sig == signal.SIGTERM else 0
        loop.call_soon_threadsafe(loop.call_later, seconds, setattr, self, "should_exit", True)


def give_memory_back() -> None:
    """Have the C library (glibc alone) give large blocks back when they are freed, however many came before them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**17)


def serve(workspace: Workspace, host: str, port: int, allowed_hosts: Sequence[str], say: Callable[[str], None]) -> None:
    """Serve the champion until the end, and say where once it answers."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mammo.serve").setLevel(logging.INFO)
    give_memory_back()
    # Every poll of the registry asks again: MLflow's own repetitions would hold it for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    service, at = Service(workspace), f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        create_app(service, [*LOCAL, at, *allowed_hosts]),
        host=host,
        port=port,
        timeout_keep_alive=IDLE_S,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",  # the service runs around the server: what ends its start is told in one sentence
    )

    async def run() -> None:
        async with service.running():
            gc.freeze()  # MLflow's half a million objects: looking through them would hold every answer for 150 ms
            where = f"voting service: http://{at}:{port} (stop with Ctrl-C)"
            await Draining(config, service, partial(say, where)).serve()

    asyncio.run(run())


def warning_for(host: str) -> str:
    """What to know before the service is reachable from elsewhere; empty on the machine itself."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if is_loopback or os.environ.get(TOKEN):
        return ""
    return (
        f"warning: {host} can be reached from elsewhere and anyone may ask: set {TOKEN}, and put a proxy with TLS "
        "in front (docker/nginx.conf)"
    )
