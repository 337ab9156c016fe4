"""A ROI sent to the service as a client sends it."""

from typing import Any

import numpy as np
from fastapi.testclient import TestClient

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def vote(client: TestClient, content: bytes, **query: str) -> dict[str, Any]:
    """The row of the only ROI of a request."""
    answer = client.post("/v1/rois", content=content, params=query)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["rois"]
    return dict(row)


def counted(client: TestClient, name: str) -> float:
    """The sum of a metric's lines that begin so."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
