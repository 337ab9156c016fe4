"""The figures that a test's pictures were saved from."""

import pytest

from tests.report.drawn_figures import Gallery, catch_figures


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Gallery:
    return catch_figures(monkeypatch)
