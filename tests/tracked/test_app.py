"""The voting service over HTTP."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from mammo.serve.app import MAX_BODY_BYTES, create_app
from mammo.serve.predict import predict_files


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Encode grey pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(finished: tuple[Workspace, Config]) -> Iterator[TestClient]:
    with TestClient(create_app(finished[0])) as client:
        yield client


def test_a_picture_gets_the_row_of_mammo_predict_and_its_patch_scores(
    client: TestClient, finished: tuple[Workspace, Config]
) -> None:
    space, _ = finished
    content = png(read_rois(space.rois).images[1])
    path = space.root / "roi.png"
    path.write_bytes(content)
    row = client.post("/api/vote", content=content).json()
    expected = predict_files(space, [path])[0]

    assert row == {key: value for key, value in expected.items() if key != "file"} | {
        "patch_scores": row["patch_scores"]
    }
    assert [int(score > 0.5) for score in row["patch_scores"]] == row["votes"]
    assert row["score"] == pytest.approx(np.mean(row["patch_scores"]))


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "empty"),
        (b"no picture at all", 422, "PNG"),
        (png(np.zeros((1, 1), dtype=np.uint8)), 422, "120"),
        (png(np.zeros((120, 120, 4), dtype=np.uint8)), 422, "grey"),
        (b"0" * (MAX_BODY_BYTES + 1), 413, str(MAX_BODY_BYTES)),
    ],
    ids=["empty", "text", "one pixel", "four channels", "too large"],
)
def test_a_bad_body_is_refused_with_a_status_and_a_reason(
    client: TestClient, content: bytes, status: int, message: str
) -> None:
    answer = client.post("/api/vote", content=content)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_health_names_the_version_that_serves(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "model_name": "mammo-roi", "model_version": "1"}


def test_metrics_count_votes_and_referrals(client: TestClient, finished: tuple[Workspace, Config]) -> None:
    def counted(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    names = ("mammo_votes_total{", "mammo_referrals_total")
    before = [counted(name) for name in names]
    images = read_rois(finished[0].rois).images[:3]
    rows = [client.post("/api/vote", content=png(image)).json() for image in images]
    referred = sum(row["referral"] for row in rows)
    assert [counted(name) - old for name, old in zip(names, before, strict=True)] == [3, referred]


def test_a_picture_unlike_the_rois_of_training_is_referred_with_the_reason(client: TestClient) -> None:
    row = client.post("/api/vote", content=png(np.zeros((120, 120), dtype=np.uint8))).json()
    assert (row["in_domain"], row["referral"]) == (False, True)
    assert row["domain_reason"] == "shows one grey value, 0; check the file"


def test_the_page_needs_nothing_from_elsewhere_and_says_what_it_is(client: TestClient) -> None:
    page = client.get("/").text
    assert "no medical device" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_model_is_described_with_its_grid_and_how_it_decides(
    client: TestClient, finished: tuple[Workspace, Config]
) -> None:
    described = client.get("/api/model").json()
    assert described["corners_px"] == [[top, left] for top in (0, 36, 72) for left in (0, 36, 72)]
    assert described["synthetic"] is True
    row = client.post("/api/vote", content=png(read_rois(finished[0].rois).images[0])).json()
    assert described["vote"]["share_threshold"] == row["threshold"]
    assert described["coverage"] == finished[1].referral.coverage
    assert set(described["calibrator"]) == {"slope", "intercept"}
