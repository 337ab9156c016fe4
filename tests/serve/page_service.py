"""A small service for the page: the addresses of the real one, real votes of tiny networks, and no store."""

import base64
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from mammo.core.config import VoteConfig
from mammo.core.errors import NOTICE, MammoError
from mammo.data.decode import GreyImage, decode_image, decode_roi
from mammo.data.extraction import read_film
from mammo.evaluation.conformal import Conformal
from mammo.models.bundle import Bundle
from mammo.serve.pictures import overlay, png, preview
from mammo.systems.explanation import explain
from mammo.systems.fit import fit
from mammo.systems.score import RoiScorer
from tests.disc_rois import disc_rois
from tests.settings import section
from tests.tiny_fits import CPU, SETTINGS, TRAIN, VAL, new_classifier, recipe

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATIC: Final = str(files("mammo.serve").joinpath("static"))
FILM_BYTES: Final = 4 * 2**20
ESTIMATES: Final = [
    {"name": "AUC", "value": 0.916, "ci_low": 0.838, "ci_high": 0.973, "n": 64},
    {"name": "Accuracy", "value": 0.844, "ci_low": 0.75, "ci_high": 0.922, "n": 64},
]


@dataclass
class Served:
    """Versions that can answer, and which one does."""

    versions: dict[str, RoiScorer]
    champion: str = "1"
    challenger: str | None = "2"
    answered: list[dict[str, Any]] = field(default_factory=list)
    """Every row, in order."""

    def described(self, number: str | None) -> dict[str, Any] | None:
        """A version as GET /v1/model tells it."""
        if number is None:
            return None
        bundle = self.versions[number].bundle
        return {
            "model_name": "mammo-roi",
            "model_version": number,
            "system": bundle.system,
            "synthetic": bundle.synthetic,
            "data": "discs in noise, 64 test ROIs",
            "size_px": bundle.size_px,
            "corners_px": bundle.corners.tolist(),
            "vote": bundle.vote.model_dump(),
            "coverage": bundle.conformal.coverage,
            "estimates": ESTIMATES if number == "1" else ESTIMATES[:1],
        }

    def row(self, image: GreyImage, at: list[int] | None = None, shown: bool = False) -> dict[str, Any]:
        """The champion's answer about a ROI."""
        scorer, pixels = self.versions[self.champion], hashlib.sha256(image.tobytes()).hexdigest()
        (vote,) = scorer.votes(image[None])
        row = {"name": None, **({"at": at} if at else {}), **vote.row("mammo-roi", self.champion)}
        row |= {"prediction_id": f"v{self.champion}.c74c813a.{pixels[:16]}"}
        row |= {"patch_scores": list(vote.patch_scores), "picture": encoded(png(image)) if shown else None}
        self.answered.append(row)
        return row


def tiny_versions() -> dict[str, RoiScorer]:
    """Two networks that see discs, of 25 patches each; the first wants few votes, the second has learned less."""
    scorers = {}
    for number, epochs, changes in (("1", 8, {"share_threshold": 0.26}), ("2", 2, {})):
        classifier = new_classifier(seed=int(number))
        fit(classifier, TRAIN, VAL, recipe(epochs=epochs, patches_per_epoch=192), SETTINGS)
        vote = section(VoteConfig, **changes)
        bundle = Bundle(
            classifier, 40, 20, vote, conformal=Conformal(0.1, 0.62, 0.62, True, 40), synthetic=True
        )
        scorers[number] = RoiScorer.on(bundle, CPU, "float32")
    return scorers


def encoded(content: bytes) -> str:
    """In base64."""
    return base64.b64encode(content).decode()


def page_service(served: Served) -> FastAPI:
    """The page and what it asks."""
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.middleware("http")
    async def secured(request: Request, go_on: Any) -> Response:
        answer: Response = await go_on(request)
        answer.headers["Content-Security-Policy"] = CSP
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    @app.exception_handler(MammoError)
    def refuse(_: Request, error: MammoError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(files("mammo.serve").joinpath("static/page.html").read_text(encoding="utf-8"))

    @app.get("/v1/model")
    def model() -> Any:
        versions = {name: served.described(getattr(served, name)) for name in ("champion", "challenger")}
        return {**versions, "notice": NOTICE, "limits": {"roi_bytes": 2**19, "film_bytes": FILM_BYTES}}

    @app.get("/v1/example")
    def example() -> Response:
        return Response(png(disc_rois(0, 1, seed=5).images[0]), media_type="image/png")

    @app.post("/v1/pictures")
    async def pictures(request: Request) -> Any:
        grey = decode_image(await request.body(), "body")
        height, width = grey.shape
        kind = "roi" if grey.shape == (120, 120) else "film"
        sizes = {"width_px": width, "height_px": height, "roi_px": 120}
        return {"kind": kind, **sizes, "png": encoded(preview(grey))}

    @app.post("/v1/rois")
    async def rois(request: Request, picture: bool = False) -> Any:
        return {"rois": [served.row(decode_roi(await request.body(), "body"), shown=picture)]}

    async def cut(request: Request, at: str) -> tuple[GreyImage, list[int]]:
        x, y = map(int, at.split(","))
        return read_film(await request.body(), "body").roi(x, y, "body")[0], [x, y]

    @app.post("/v1/films")
    async def films(request: Request, at: str, picture: bool = False) -> Any:
        return {"rois": [served.row(*await cut(request, at), shown=picture)]}

    @app.post("/v1/explanations")
    async def explanations(request: Request, at: str | None = None) -> Any:
        image = (await cut(request, at))[0] if at else decode_roi(await request.body(), "body")
        (found,) = explain(served.versions[served.champion], image[None])
        facts = {"block": found.block, "n_agreeing": found.n_agreeing, "n_patches": len(found.corners)}
        return served.row(image) | facts | {"grad_cam_png": encoded(overlay(found.grad_cam))}

    return app


def film_of_discs() -> GreyImage:
    """A film of 500 × 620 pixels: dark ground, tissue, and one bright disc at row 380, column 200, from 0."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:620, :500]
    grey = rng.normal(90, 12, (620, 500)) - np.hypot(columns, rows - 310) / 12
    grey[np.hypot(columns, rows - 310) > 420] = 4
    grey[np.hypot(rows - 380, columns - 200) < 28] += 70
    film: GreyImage = grey.clip(0, 255).astype(np.uint8)
    return film
