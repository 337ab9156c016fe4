"""The voting service: a page for people, JSON for programs, health and metrics for operators."""

from importlib.resources import files
from time import perf_counter
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from mammo.core.errors import NOTICE, MammoError
from mammo.core.files import Workspace
from mammo.data.decode import decode_roi
from mammo.serve.predict import load_champion

MAX_BODY_BYTES: Final = 16 * 2**20


def create_app(workspace: Workspace) -> FastAPI:
    """Load the champion and build the application around it.

    A vote answers with the row of `mammo predict` and the patch scores that explain it.

    Raises:
        TrackingError: there is no champion, or the store cannot be used.
    """
    voter = load_champion(workspace)
    bundle = voter.scorer.bundle
    app = FastAPI(title="mammo", description=NOTICE, docs_url=None, redoc_url=None)
    registry = CollectorRegistry()
    counted = Counter("mammo_votes", "ROIs voted on", ["label"], registry=registry)
    referred = Counter("mammo_referrals", "ROIs referred to a reader", registry=registry)
    refused = Counter("mammo_refused", "Requests refused", ["status"], registry=registry)
    seconds = Histogram("mammo_vote_seconds", "Time of one vote", registry=registry)
    page = files("mammo.serve").joinpath("page.html").read_text(encoding="utf-8")

    def refuse(status: int, message: str) -> JSONResponse:
        refused.labels(str(status)).inc()
        return JSONResponse({"error": message}, status_code=status)

    @app.get("/", response_class=HTMLResponse)
    def show_page() -> str:
        return page

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok", "model_name": voter.model_name, "model_version": voter.model_version}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/model")
    def model() -> dict[str, Any]:
        return {
            "model_name": voter.model_name,
            "model_version": voter.model_version,
            "system": bundle.system,
            "size_px": bundle.size_px,
            "corners_px": bundle.corners.tolist(),
            "vote": bundle.vote.model_dump(),
            "calibrator": bundle.calibrator.to_dict(),
            "coverage": bundle.conformal.coverage,
            "synthetic": bundle.synthetic,
            "notice": NOTICE,
        }

    @app.post("/api/vote")
    async def vote(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return refuse(413, f"body: must be at most {MAX_BODY_BYTES} bytes; send one 120 × 120 ROI")
        started = perf_counter()
        try:
            decided = await run_in_threadpool(lambda: voter.votes(decode_roi(bytes(body), "body")[None])[0])
        except MammoError as error:
            return refuse(422, str(error))
        seconds.observe(perf_counter() - started)
        counted.labels(decided.label).inc()
        referred.inc(int(decided.referral))
        row = decided.row(voter.model_name, voter.model_version)
        return JSONResponse(row | {"patch_scores": list(decided.patch_scores)})

    return app
