"""The voting service over HTTP: the whole of it, with its processes, on a registered version."""

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.extraction import read_film
from mammo.serve.predict import predict_film
from mammo.serve.requests import BODY_BYTES
from mammo.serve.service import Service
from tests.data.pictures import dicom, encoded
from tests.tracked.asking import Pixels, counted, vote

FORM: Final = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="\\\\ud800.png"\r\n\r\n'
    b"\x89PNG\r\n\x1a\n\r\n--x--\r\n"
)
BAD_REQUESTS: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "empty": ({"content": b""}, 422, "empty"),
    "text": ({"content": b"no picture at all"}, 422, "PNG"),
    "one pixel": ({"content": encoded(np.zeros((1, 1), dtype=np.uint8))}, 422, "120"),
    "alpha": ({"content": encoded(np.zeros((120, 120, 4), dtype=np.uint8))}, 422, "grey"),
    "too large": ({"content": b"0" * (BODY_BYTES["/v1/rois"] + 1)}, 413, "send fewer or smaller pictures"),
    "no images": ({"json": {"images": []}}, 422, "images: List should have at least 1 item"),
    "no base64": ({"json": {"images": ["no base64!"]}}, 422, "images.0"),
    "null": ({"json": {"images": [None]}}, 422, "images.0: must be a text in base64"),
    "a typo": ({"json": {"image": []}}, 422, "'image' is not known"),
    "half json": ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "send {"),
    "half json in capitals": (
        {"content": b"{", "headers": {"content-type": "Application/JSON"}},
        422,
        "send {",
    ),
    "urlencoded": ({"data": {"file": "text"}, "files": {}}, 422, "PNG"),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "form"),
    "a charset that is none": (
        {"content": FORM, "headers": {"content-type": "multipart/form-data; boundary=x; charset=undefined"}},
        422,
        "body: is no whole form",
    ),
    "a name of no characters": (
        {
            "content": FORM,
            "headers": {"content-type": "multipart/form-data; boundary=x; charset=unicode_escape"},
        },
        422,
        "?.png: is not a whole PNG file",
    ),
    "bad query": ({"content": b"x", "params": {"picture": "perhaps"}}, 422, "picture"),
}


def test_many_pictures_in_a_form_or_in_json_get_the_rows_of_each_alone(client: TestClient, images: Pixels) -> None:
    contents = [encoded(image) for image in images[:3]]
    alone = [vote(client, content) for content in contents]
    form = client.post("/v1/rois", files=[("file", (f"{i}.png", one)) for i, one in enumerate(contents)]).json()["rois"]
    coded = [base64.b64encode(one).decode() for one in contents]
    in_json = client.post("/v1/rois", json={"images": coded}).json()["rois"]
    assert [row["name"] for row in form] == ["0.png", "1.png", "2.png"]
    for rows in (form, in_json):
        assert [row["prediction_id"] for row in rows] == [row["prediction_id"] for row in alone]
        np.testing.assert_allclose([row["score"] for row in rows], [row["score"] for row in alone], atol=1e-6)


def test_the_same_pixels_have_the_same_prediction_id_in_any_format(client: TestClient, images: Pixels) -> None:
    first, second, other = (
        vote(client, encoded(images[0])),
        vote(client, encoded(images[0], "PPM")),
        vote(client, encoded(images[1])),
    )
    assert first["prediction_id"] == second["prediction_id"] != other["prediction_id"]
    assert first["prediction_id"].startswith("v1.")


def test_the_picture_comes_back_as_png_where_it_is_wanted(client: TestClient, images: Pixels) -> None:
    tiff = encoded(images[2], "TIFF")
    row = vote(client, tiff, picture="true")
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(row["picture"]))))
    np.testing.assert_array_equal(shown, images[2])
    assert vote(client, tiff)["picture"] is None


def test_a_place_of_a_film_is_cut_as_in_training(client: TestClient, images: Pixels) -> None:
    film = np.tile(images[0], (3, 4))
    answer = client.post("/v1/films", params={"at": ["200,150", "61,61"]}, content=encoded(film)).json()["rois"]
    cut = [read_film(encoded(film), "film").roi(x, y, "film")[0] for x, y in ((200, 150), (61, 61))]
    assert [row["at"] for row in answer] == [[200, 150], [61, 61]]
    assert [row["prediction_id"] for row in answer] == [vote(client, encoded(roi))["prediction_id"] for roi in cut]


def test_a_film_and_a_roi_are_shown_with_their_kind_and_size(client: TestClient, images: Pixels) -> None:
    roi = client.post("/v1/pictures", content=encoded(images[0])).json()
    assert (roi["kind"], roi["width_px"], roi["height_px"]) == ("roi", 120, 120)
    film = client.post("/v1/pictures", content=encoded(np.tile(images[0], (9, 18)))).json()
    assert (film["kind"], film["width_px"], film["height_px"]) == ("film", 2160, 1080)
    fine = dicom(np.tile(images[0], (9, 18)), ImagerPixelSpacing=[0.05, 0.05])
    spaced = client.post("/v1/pictures", content=fine).json()
    assert (film["roi_px"], spaced["roi_px"]) == (120, 480)  # of 0.2 mm
    assert Image.open(io.BytesIO(base64.b64decode(film["png"]))).size == (1024, 512)


def test_an_explanation_has_the_row_and_a_transparent_picture_of_the_roi_s_size(
    client: TestClient, images: Pixels
) -> None:
    explained = client.post("/v1/explanations", content=encoded(images[3])).json()
    row = vote(client, encoded(images[3]))
    assert {name: explained[name] for name in ("label", "votes", "prediction_id")} == {
        name: row[name] for name in ("label", "votes", "prediction_id")
    }
    overlay = Image.open(io.BytesIO(base64.b64decode(explained["grad_cam_png"])))
    assert (overlay.mode, overlay.size) == ("RGBA", (120, 120))
    assert 0 <= explained["n_agreeing"] <= explained["n_patches"] == len(row["votes"])


def test_an_explanation_at_a_place_of_a_film_has_the_row_of_mammo_predict(
    client: TestClient, finished: tuple[Workspace, Config], images: Pixels, tmp_path: Path
) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(encoded(np.tile(images[0], (3, 4))))
    road = "/v1/explanations"
    explained = client.post(road, params={"at": "200,150"}, content=film.read_bytes()).json()
    (row,) = predict_film(finished[0], [film], ["200,150"])
    del row["file"]
    assert {name: explained[name] for name in row} == row
    two = client.post(road, params={"at": ["200,150", "61,61"]}, content=film.read_bytes())
    assert (two.status_code, two.json()["error"][:20]) == (422, "at: 1 to 1 places ar")


@pytest.mark.parametrize(("request_", "status", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_with_a_status_and_a_reason(
    client: TestClient, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post("/v1/rois", **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]


@pytest.mark.parametrize("at", [[], ["9"], ["1,2,3"], ["nan,1"], ["1e9,1"], ["0,5"], ["1,1"] * 65])
def test_a_place_that_is_none_is_refused(client: TestClient, images: Pixels, at: list[str]) -> None:
    answer = client.post("/v1/films", params={"at": at}, content=encoded(np.tile(images[0], (3, 3))))
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_one_bad_picture_refuses_the_whole_request_by_name(client: TestClient, images: Pixels) -> None:
    before = counted(client, "mammo_votes_total{")
    files = [("file", ("good.png", encoded(images[0]))), ("file", ("bad.png", b"\x89PNG\r\n\x1a\n"))]
    answer = client.post("/v1/rois", files=files)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("bad.png: is not a whole PNG file")
    coded = [base64.b64encode(content).decode() for _, (_, content) in files]
    in_json = client.post("/v1/rois", json={"images": coded})
    assert in_json.json()["error"].startswith("images.1: is not a whole PNG file")
    assert counted(client, "mammo_votes_total{") == before


def test_metrics_count_votes_referrals_and_refusals(client: TestClient, images: Pixels) -> None:
    names = ("mammo_votes_total{", "mammo_referrals_total{", 'mammo_refused_total{status="422"}')
    before = [counted(client, name) for name in names]
    rows = [vote(client, encoded(image)) for image in images[:3]]
    client.post("/v1/rois", content=b"?")
    expected = [3, sum(row["referral"] for row in rows), 1]
    assert [counted(client, name) - old for name, old in zip(names, before, strict=True)] == expected
    assert counted(client, 'mammo_version_loaded{version="1"}') == 1
    assert counted(client, "mammo_alias_drift") == 0


def test_health_readiness_and_the_model_name_what_serves(
    client: TestClient, finished: tuple[Workspace, Config], images: Pixels
) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert [client.head(path).status_code for path in ("/healthz", "/readyz", "/")] == [200, 200, 200]
    wrong = client.head("/v1/rois")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    slash = client.post("/v1/rois/", content=encoded(images[0]), follow_redirects=False)
    assert (slash.status_code, slash.json()) == (404, {"error": "Not Found; see /docs"})
    ready = client.get("/readyz").json()
    assert (ready["ready"], ready["alias"], ready["loaded"], ready["registry"]) == (True, "1", "1", "ok")
    champion = client.get("/v1/model").json()["champion"]
    row = vote(client, encoded(images[0]))
    assert champion["corners_px"] == [[top, left] for top in (0, 36, 72) for left in (0, 36, 72)]
    assert champion["synthetic"] is True
    assert champion["vote"]["share_threshold"] == row["threshold"]
    assert champion["coverage"] == finished[1].referral.coverage
    (auc,) = [one for one in champion["estimates"] if one["name"].startswith("AUC")]
    assert auc["ci_low"] is None or auc["ci_low"] <= auc["value"] <= auc["ci_high"]
    assert auc["n"] == 8


def test_a_challenger_that_cannot_be_loaded_leaves_the_champion_described(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        service.follower.aliases = {"champion": "1", "challenger": "99"}

    monkeypatch.setattr(service.follower, "_ask", ask)
    asyncio.run(ask())
    told = client.get("/v1/model").json()
    assert (told["champion"]["model_version"], told["challenger"]) == ("1", None)


def test_test_results_that_cannot_be_had_are_asked_again(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_results", {})
    with monkeypatch.context() as away:
        away.setattr("mammo.serve.service.text_of", lambda *_: None)
        champion = client.get("/v1/model").json()["champion"]
        assert (champion["data"], champion["estimates"]) == ("no test results at hand", [])
    assert client.get("/v1/model").json()["champion"]["estimates"]


def test_an_answer_is_written_down_without_its_picture(
    client: TestClient, finished: tuple[Workspace, Config], images: Pixels
) -> None:
    row = vote(client, encoded(images[4]))
    client.post("/v1/explanations", content=encoded(images[4]))
    (log,) = (finished[0].predictions).iterdir()
    line, explained = map(json.loads, log.read_text().splitlines()[-2:])
    own = ("time", "road", "seconds")
    assert explained["road"] == "explanations"
    assert {key: explained[key] for key in line if key not in own} == {key: line[key] for key in line if key not in own}
    assert line["prediction_id"] == row["prediction_id"]
    assert line["inputs"]["mean"] == pytest.approx(images[4].mean(), abs=1e-3)
    assert line["inputs"]["p95"] == pytest.approx(np.percentile(images[4], 95), abs=1e-3)
    assert line["challenger"] is None
    assert len(json.dumps(line)) < 600


def test_the_openapi_document_names_every_road_and_its_refusals(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/rois", "/v1/films", "/v1/pictures", "/v1/explanations", "/v1/model"} <= document["paths"].keys()
    rois = document["paths"]["/v1/rois"]["post"]
    assert {"401", "408", "413", "422", "429", "503"} <= rois["responses"].keys()
    assert {"application/json", "multipart/form-data", "image/png"} <= rois["requestBody"]["content"].keys()
    assert "Tumor" in json.dumps(document)


def test_the_page_needs_nothing_from_elsewhere_and_says_what_it_is(client: TestClient) -> None:
    for path in ("/", "/docs"):
        page = client.get(path).text
        assert "no medical device" in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "https://" not in page


def test_a_proxy_may_put_the_pages_under_a_path_of_its_own(client: TestClient) -> None:
    """All that they ask for is named from where they lie."""
    named = re.compile(r"""(?:href=|src=|fetch\(|from |ask(?:Json)?\()["'`]([^"'`]+)""")
    for path in ("/", "/docs", "/static/page.js", "/static/docs.js"):
        found = named.findall(client.get(path).text)
        assert found
        assert [one for one in found if one.startswith("/")] == []
