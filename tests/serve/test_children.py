"""Workers from the side that asks."""

import asyncio
from pathlib import Path

import pytest

import mammo
from mammo.serve.children import Worker, WorkerGoneError


@pytest.mark.parametrize(
    ("kind", "status", "remedy"),
    [
        ("pictures", 422, "send a smaller or a simpler picture"),
        ("votes", 503, "send the request again later"),
    ],
)
def test_who_is_too_slow_is_ended_and_a_picture_is_blamed_for_no_vote(kind: str, status: int, remedy: str) -> None:
    async def ask() -> None:
        worker = Worker(kind)
        await worker.load()
        await worker.ask({}, seconds=0.01)  # it still waits for its order

    with pytest.raises(WorkerGoneError, match=remedy) as refused:
        asyncio.run(ask())
    assert refused.value.status == status


def test_a_spare_that_has_died_is_started_again_for_its_order() -> None:
    async def start() -> bool:
        worker = Worker("pictures")
        await worker.load()
        assert worker.process is not None
        worker.process.kill()
        await worker.process.wait()
        await worker.start({"code": str(Path(mammo.__file__).parents[1]), "memory_mb": None, "nice": 0})
        is_running = worker.process.returncode is None
        await worker.close()
        return is_running

    assert asyncio.run(start())


def test_a_machine_that_starts_no_more_processes_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(WorkerGoneError, match=r"temporarily unavailable.*allow more processes"):
        asyncio.run(Worker("votes").ask({}))
