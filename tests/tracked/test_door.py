"""What stands before every road of the service: its names, headers, token and log, and where it listens."""

import asyncio
import json
import logging
import os
import socket

import pytest
import uvicorn
from fastapi.testclient import TestClient

from mammo.serve.app import Draining
from mammo.serve.service import TOKEN, Service
from tests.data.pictures import encoded
from tests.docker.processes import free_port
from tests.tracked.asking import Pixels, counted, vote


def test_every_answer_forbids_what_a_page_of_ours_does_not_need(client: TestClient) -> None:
    for path in ("/", "/docs", "/healthz", "/v1/model", "/nowhere"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
    evil = client.get("/", headers={"host": "evil.example"})
    assert (evil.status_code, evil.headers["x-content-type-options"]) == (400, "nosniff")
    assert evil.json()["error"].startswith("host: must be a name of this service; start it with --allowed-host")
    for host, status in (
        ("Voting.Example:8000", 200),
        ("a.b.example", 200),
        ("[::1]:8000", 200),
        ("b.example", 400),
        ("voting.example.evil", 400),
        ("", 400),
    ):
        assert client.get("/", headers={"host": host}).status_code == status
    for probed in ("/healthz", "/readyz", "/metrics"):  # by the address of one service
        hosts = ("10.0.0.7:8000", "[fd00::7]", "rebound.evil")
        assert [client.get(probed, headers={"host": host}).status_code for host in hosts] == [200, 200, 400]


def test_a_token_is_wanted_where_one_is_set(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, images: Pixels
) -> None:
    monkeypatch.setattr(service, "token", "secret")
    content, of_401 = encoded(images[0]), 'mammo_refused_total{status="401"}'
    before = counted(client, of_401)
    assert client.post("/v1/rois", content=content).status_code == 401
    assert counted(client, of_401) == before + 1
    assert client.post("/v1/rois", content=content, headers={"authorization": "Bearer no"}).status_code == 401
    accepted = client.post("/v1/rois", content=content, headers={"authorization": "Bearer secret"})
    assert accepted.status_code == 200
    monkeypatch.setattr(service, "token", "geheimß")
    for token in ("geheimß".encode(), "geheimß".encode("latin-1")):
        accepted = client.get("/v1/example", headers=[(b"authorization", b"Bearer " + token)])
        assert accepted.status_code == 200
    assert client.get("/readyz").status_code == 200
    assert TOKEN not in os.environ


def test_a_service_says_where_it_is_once_it_listens(service: Service, client: TestClient) -> None:
    port = free_port()

    def told() -> None:
        socket.create_connection(("127.0.0.1", port)).close()
        server.should_exit = True

    config = uvicorn.Config(client.app, port=port, lifespan="off", log_level="error", ws="none")
    server = Draining(config, service, told)
    asyncio.run(server.serve())
    assert server.started


def test_a_request_is_one_line_of_json_in_the_log(
    client: TestClient, images: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mammo.serve"):
        vote(client, encoded(images[0]))
        client.post("/v1/rois", content=b"?")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "mammo.serve"]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/rois", 200), ("/v1/rois", 422)]


def test_a_defect_of_the_service_is_answered_with_500_headers_and_a_line_in_the_log(
    service: Service, client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "follower", None)
    told = TestClient(client.app, raise_server_exceptions=False)
    with caplog.at_level(logging.INFO, logger="mammo.serve"):
        answer = told.post("/v1/rois", content=b"?")
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (500, "nosniff")
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "mammo.serve"]
    assert (line["path"], line["status"]) == ("/v1/rois", 500)
