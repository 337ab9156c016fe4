"""The voting service when processes are killed or slow, or when more is asked than it takes."""

import base64
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from mammo.data.decode import MAX_ROI_BYTES
from mammo.serve.children import Pool
from mammo.serve.service import Service
from tests.data.pictures import encoded
from tests.tracked.asking import Pixels, vote


def pids(pool: Pool) -> list[int]:
    return [one.process.pid for one in pool.workers if one.process]


def test_who_decodes_waits_for_the_first_picture(client: TestClient, service: Service) -> None:
    assert len(pids(service.follower.champion.loaded.decoders)) == service.config.serve.decoders


def voters(service: Service) -> list[int]:
    return pids(service.follower.champion.loaded.voters)


def test_a_voting_process_that_is_killed_is_started_again_and_nobody_notices(
    client: TestClient, service: Service, images: Pixels
) -> None:
    expected = vote(client, encoded(images[5]))
    pids = voters(service)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert vote(client, encoded(images[5])) == expected
    assert voters(service) != pids


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_is_voted_on(
    client: TestClient, service: Service, images: Pixels
) -> None:
    loaded = service.follower.champion.loaded
    patient, hurried = loaded.settings, loaded.settings.model_copy(update={"film_s": 1e-4})
    loaded.settings = hurried
    slow = client.post("/v1/pictures", content=bytes(MAX_ROI_BYTES + 1))
    loaded.settings = patient
    assert slow.status_code == 422
    assert "no answer within 0.0001 s" in slow.json()["error"]
    assert client.post("/v1/pictures", content=encoded(images[0])).status_code == 200


def test_a_roi_is_shown_while_films_wait_and_a_film_in_a_small_file_has_a_films_time(
    client: TestClient, service: Service, images: Pixels
) -> None:
    loaded = service.follower.champion.loaded
    film = encoded(np.tile(images[0], (9, 9)))
    assert len(film) <= MAX_ROI_BYTES
    patient = loaded.settings
    loaded.settings = patient.model_copy(update={"decode_s": 1e-4})
    shown = client.post("/v1/pictures", content=film)
    loaded.settings = patient
    assert (shown.status_code, shown.json()["width_px"]) == (200, 1080)
    (pid,) = pids(loaded.films)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert client.post("/v1/pictures", content=encoded(images[0])).json()["kind"] == "roi"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_decoder_may_not_take_all_memory(client: TestClient, service: Service, images: Pixels) -> None:
    loaded = service.follower.champion.loaded
    vote(client, encoded(images[0]))
    pid = pids(loaded.decoders)[0]
    limits = Path(f"/proc/{pid}/limits")
    if not limits.exists():
        pytest.skip("limits of a process are read from /proc")
    (line,) = [one for one in limits.read_text().splitlines() if one.startswith("Max address space")]
    assert int(line.split()[3]) == loaded.settings.decode_memory_mb * 2**20


def test_too_many_at_once_are_told_when_to_come_again(
    client: TestClient, service: Service, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = service.follower.champion.loaded
    monkeypatch.setattr(loaded, "settings", loaded.settings.model_copy(update={"queue": 2}))
    coded = [base64.b64encode(encoded(images[0])).decode()] * 3
    never = client.post("/v1/rois", json={"images": coded})
    assert (never.status_code, never.json()["error"][:28]) == (422, "body: at most 2 ROIs may wai")
    monkeypatch.setattr(service.follower.champion, "_n_explained", 1)
    full = client.post("/v1/rois", json={"images": coded[:2]})
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    monkeypatch.setattr(loaded, "settings", loaded.settings.model_copy(update={"queue": 1}))
    assert client.post("/v1/explanations", content=encoded(images[0])).status_code == 503
    monkeypatch.undo()
    service.open_of["testclient"] = service.config.serve.per_client
    greedy = client.post("/v1/rois", content=encoded(images[0]))
    del service.open_of["testclient"]
    assert (greedy.status_code, greedy.headers["retry-after"]) == (429, "1")
    assert vote(client, encoded(images[0]))["label"]


def test_no_more_films_than_may_wait_and_none_whose_client_has_gone(
    client: TestClient, service: Service, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    films, film = service.follower.champion.loaded.films, encoded(np.tile(images[0], (3, 3)))
    at = {"at": "150,150"}
    with monkeypatch.context() as crowded:
        crowded.setattr(films, "most", -1)
        full = client.post("/v1/films", params=at, content=film)
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")

    async def gone(_: Request) -> bool:
        return True

    monkeypatch.setattr(Request, "is_disconnected", gone)
    monkeypatch.setattr(films.workers[0], "ask", None)  # which is not called
    assert client.post("/v1/films", params=at, content=film).status_code == 499


def test_readiness_is_told_at_once_while_votes_wait(client: TestClient, service: Service, images: Pixels) -> None:
    pids = voters(service)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(vote, client, encoded(images[0]))
            started = time.monotonic()
            assert client.get("/readyz").status_code == 200
            assert client.get("/metrics").status_code == 200
            assert not waiting.done()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert waiting.result(60)["label"]
        assert time.monotonic() - started < 60
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
