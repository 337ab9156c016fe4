"""Which versions a service loads and keeps as the alias wanders, without processes."""

import asyncio
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


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Follower:
    """It asks a registry whose aliases the test sets, and loads whatever it is told to."""
    monkeypatch.setattr(follow, "fetch_version", lambda *_: None)
    monkeypatch.setattr(follow, "Loaded", Standing)
    monkeypatch.setattr(follow, "Worker", Refusing)
    return Follower(Workspace(Path()), settings(serve={"standby": 3, "voters": 1}), lambda _: None)


async def crowned(follower: Follower, number: str) -> set[str]:
    """Let a version be champion; returns those that are loaded then."""

    async def ask() -> None:
        follower.aliases = {"champion": number}

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
