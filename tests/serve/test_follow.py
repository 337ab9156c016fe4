"""Which versions a service loads and keeps as the alias wanders, without processes."""

import asyncio
import threading
from pathlib import Path

import pytest

from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.serve import follow
from mammo.serve.follow import Follower
from tests.settings import settings


class Standing:
    """A version that is loaded, whatever its number."""

    def __init__(self, *_: object) -> None:
        self.voters, self.workers = self, list[object]()

    async def start(self) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class Refusing:
    """A worker on a machine that starts no more processes."""

    def __init__(self, kind: str) -> None: ...

    async def load(self) -> None:
        raise MammoError("no process can be started")

    async def close(self) -> None: ...


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Follower:
    """It asks a registry whose aliases the test sets, and loads whatever it is told to."""
    monkeypatch.setattr(follow, "fetch_version", lambda *_: None)
    monkeypatch.setattr(follow, "Loaded", Standing)
    monkeypatch.setattr(follow, "Worker", Refusing)
    return Follower(Workspace(Path()), settings(serve={"standby": 3, "voters": 1}), lambda _: None)


async def crowned(follower: Follower, number: str, challenger: str | None = None) -> set[str]:
    """Let a version be champion; returns those that are loaded then."""

    async def ask() -> None:
        follower.aliases = {"champion": number} | ({"challenger": challenger} if challenger else {})

    follower._ask = ask  # type: ignore[method-assign]
    await follower.step()
    return set(follower._loaded)


def test_a_checked_version_answers_though_no_process_can_be_started_for_the_next(follower: Follower) -> None:
    assert asyncio.run(crowned(follower, "1")) == {"1"}
    assert follower.refused == {}


def test_as_many_former_champions_stand_by_as_the_settings_say_the_last_ones(follower: Follower) -> None:
    async def all_in_turn() -> list[set[str]]:
        return [await crowned(follower, number) for number in "12345"]

    *_, after_3, after_4, after_5 = asyncio.run(all_in_turn())
    assert (after_3, after_4, after_5) == (set("123"), set("1234"), set("2345"))


def test_a_version_that_stands_by_answers_though_another_is_being_loaded(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, going_on = threading.Event(), threading.Event()

    def fetch(_: object, __: object, number: str) -> None:
        if number == "9":
            loading.set()
            assert going_on.wait(60)

    monkeypatch.setattr(follow, "fetch_version", fetch)

    async def back_while_9_loads() -> str:
        for number, challenger in (("1", None), ("2", "9")):
            await crowned(follower, number, challenger)
        await asyncio.to_thread(loading.wait)
        try:
            await asyncio.wait_for(crowned(follower, "1", "9"), 30)
            return follower._current
        finally:
            going_on.set()
            await follower.close()

    assert asyncio.run(back_while_9_loads()) == "1"


def test_a_version_whose_load_has_a_defect_is_refused_with_it_and_the_end_is_clean(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end_after_the_defect() -> dict[str, str]:
        await crowned(follower, "1")
        monkeypatch.setattr(follow, "fetch_version", {}.__getitem__)  # a TypeError: it takes one argument
        await crowned(follower, "1", "9")
        assert follower._preloading is not None
        await asyncio.wait([follower._preloading])
        await follower.close()
        return follower.refused

    refused = asyncio.run(end_after_the_defect())
    assert list(refused) == ["9"]
    assert refused["9"].startswith("TypeError(")
