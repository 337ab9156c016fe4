"""The history of the aliases: whole whatever is killed, moved by hand or tried by two at once."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.track import history
from mammo.track.history import CHALLENGER, CHAMPION, Entry, History, Step, history_of, look, move, settled
from tests.tracked.registered import NAME, crown, with_versions

Place = tuple[Workspace, MlflowClient]
MUTATING = (
    "create_registered_model",
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "delete_registered_model",
)


class Killed(BaseException):
    """What kill -9 does to a process: nothing after it runs."""


class Wrapped:
    """A client that calls `before(k, name)` ahead of its k-th change of the store, and `after(k, name)` behind it."""

    def __init__(
        self,
        client: MlflowClient,
        before: Callable[[int, str], None] = lambda *_: None,
        after: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        self.client, self.before, self.after, self.n_calls = client, before, after, 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)
        if name not in MUTATING:
            return call

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.n_calls += 1
            self.before(self.n_calls, name)
            done = call(*args, **kwargs)
            self.after(self.n_calls, name)
            return done

        return wrapped


@pytest.fixture
def place(tmp_path: Path, store_of: Callable[[Workspace], None]) -> Place:
    space = Workspace(tmp_path)
    store_of(space)
    return space, with_versions(space)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leaves the owner of a claim time to go on with it."""
    monkeypatch.setattr(history, "GRACE_S", 0.0)


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def any_place(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store as a file, and behind MLflow's server."""
    if request.param == "sqlite":
        yield place
        return
    monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    client = with_versions(place[0])
    yield place[0], client
    client.delete_registered_model(NAME)


def champion_of(client: MlflowClient) -> str | None:
    return look(client, NAME)[0].get(CHAMPION)


def claims_of(client: MlflowClient) -> list[str]:
    return [model.name for model in client.search_registered_models() if model.name != NAME]


def moves_of(space: Workspace) -> list[tuple[str, dict[str, tuple[str | None, str | None]]]]:
    return [(entry.kind, entry.moves) for entry in history_of(space, NAME, verify=True).entries]


def test_each_move_is_an_entry_with_its_reason_and_hashes_and_leaves_no_claim(any_place: Place) -> None:
    space, client = any_place
    move(space, client, NAME, lambda _: Step("register", {CHAMPION: "1"}, "there was no champion"))
    move(space, client, NAME, lambda _: Step("register", {CHALLENGER: "2"}))
    move(space, client, NAME, lambda _: Step("promote", {CHAMPION: "2", CHALLENGER: None}, gates={"a": 1}))
    first, second, third = history_of(space, NAME, verify=True).entries
    assert (first.number, first.kind, first.moves) == (1, "register", {CHAMPION: (None, "1")})
    assert (first.reason, first.hashes, first.previous) == (
        "there was no champion",
        {"weights": "weights of 1"},
        None,
    )
    assert re.fullmatch(r".+@.+", first.who)
    assert second.previous == first.sha256
    assert third.moves == {CHAMPION: ("1", "2"), CHALLENGER: ("2", None)}
    assert third.gates == {"a": 1}
    assert look(client, NAME)[0] == {CHAMPION: "2"}
    assert claims_of(client) == []


@pytest.mark.slow
def test_of_two_promoters_at_once_each_step_is_won_by_one(any_place: Place) -> None:
    space, client = any_place
    n_rounds = 20
    command = [sys.executable, "-m", "tests.tracked.registered", str(space.root), str(n_rounds)]
    both = [
        subprocess.Popen([*command, first], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for first in ("0", "2")
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    won = [int(out.split()[-1]) for out, _ in said]
    found = history_of(space, NAME, verify=True)
    assert [entry.kind for entry in found.entries] == ["promote"] * sum(won)
    assert sum(won) >= n_rounds
    assert all(entry.reason == f"judged against {entry.moves[CHAMPION][0]}" for entry in found.entries)
    assert champion_of(client) == found.told[CHAMPION]
    assert claims_of(client) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_champion_and_the_next_command_mends_the_rest(
    place: Place, when: str, k: int
) -> None:
    space, client = place
    move(space, client, NAME, lambda _: Step("register", {CHAMPION: "1"}))
    move(space, client, NAME, lambda _: Step("register", {CHALLENGER: "2"}))

    def die(n_calls: int, _: str) -> None:
        if n_calls == k:
            raise Killed

    dying: Any = Wrapped(client, **{when: die})
    with pytest.raises(Killed):
        move(space, dying, NAME, lambda _: Step("promote", {CHAMPION: "2", CHALLENGER: None}))
    assert champion_of(client) in ("1", "2")
    began = (when, k) != ("before", 1)
    after = settled(space, client, NAME)
    assert len(after.entries) == 2 + began
    assert after.told == after.aliases == ({CHAMPION: "2"} if began else {CHAMPION: "1", CHALLENGER: "2"})
    assert history_of(space, NAME, verify=True) == after
    assert claims_of(client) == []
    crown(space, client, "3", after.told[CHAMPION])
    assert champion_of(client) == "3"


@pytest.mark.usefixtures("impatient")
def test_an_owner_who_sleeps_while_others_go_on_leaves_no_old_champion_behind(place: Place) -> None:
    space, client = place
    crown(space, client, "1", None)

    def others_go_on(_: int, name: str) -> None:
        if name == "set_registered_model_alias":
            slow.before = lambda *_: None
            crown(space, client, "3", "2")

    slow: Any = Wrapped(client, before=others_go_on)
    crown(space, slow, "2", "1")
    assert champion_of(client) == "3"
    assert [moves[CHAMPION][1] for _, moves in moves_of(space)] == ["1", "2", "3"]


@pytest.mark.usefixtures("impatient")
def test_a_move_whose_answer_got_lost_is_made_once(place: Place) -> None:
    """MLflow's client sends a request again where the connection breaks, and is told that the model exists."""
    space, client = place

    def forget(n_calls: int, _: str) -> None:
        if n_calls == 1:
            raise MlflowException("exists", error_code=RESOURCE_ALREADY_EXISTS)

    forgetful: Any = Wrapped(client, after=forget)
    crown(space, forgetful, "1", None)
    assert moves_of(space) == [("promote", {CHAMPION: (None, "1")})]


@pytest.mark.usefixtures("impatient")
def test_a_claim_that_came_too_late_is_void(place: Place) -> None:
    space, client = place
    kept: dict[str, Any] = {}

    def another_is_faster(n_calls: int, _: str) -> None:
        if n_calls == 1:
            kept["won"] = crown(space, client, "2", None)

    late: Any = Wrapped(client, before=another_is_faster)
    with pytest.raises(TrackingError, match="champion has changed"):
        crown(space, late, "1", None)
    assert moves_of(space) == [("promote", {CHAMPION: (None, "2")})]
    assert claims_of(client) == []


def test_an_alias_moved_by_hand_is_noted_once(place: Place) -> None:
    space, client = place
    crown(space, client, "1", None)
    client.set_registered_model_alias(NAME, CHAMPION, "4")
    for _ in range(2):
        assert settled(space, client, NAME).told == {CHAMPION: "4"}
    client.delete_registered_model_alias(NAME, CHAMPION)
    client.set_registered_model_alias(NAME, CHALLENGER, "5")
    settled(space, client, NAME)
    assert moves_of(space) == [
        ("promote", {CHAMPION: (None, "1")}),
        ("by hand", {CHAMPION: ("1", "4")}),
        ("by hand", {CHAMPION: ("4", None), CHALLENGER: (None, "5")}),
    ]
    assert champion_of(client) is None


def test_aliases_older_than_the_history_are_its_first_entry(place: Place) -> None:
    space, client = place
    client.set_registered_model_alias(NAME, CHAMPION, "3")
    crown(space, client, "4", "3")
    assert moves_of(space) == [("found", {CHAMPION: (None, "3")}), ("promote", {CHAMPION: ("3", "4")})]


@pytest.mark.usefixtures("impatient")
def test_a_version_deleted_before_its_move_was_mended_is_a_move_by_hand(place: Place) -> None:
    space, client = place
    crown(space, client, "1", None)

    def die(n_calls: int, _: str) -> None:
        if n_calls == 2:
            raise Killed

    dying: Any = Wrapped(client, before=die)
    with pytest.raises(Killed):
        crown(space, dying, "2", "1")
    client.delete_model_version(NAME, "2")
    assert settled(space, client, NAME).told == {CHAMPION: "1"}
    assert [kind for kind, _ in moves_of(space)] == ["promote", "promote", "by hand"]


def tag_of(number: int) -> str:
    return f"mammo.history.{number:06}"


def rewrite(client: MlflowClient, number: int, consistent: bool, **changes: Any) -> None:
    fields = json.loads(client.get_registered_model(NAME).tags[tag_of(number)]) | changes
    if consistent:
        fields["sha256"] = Entry.model_validate_json(json.dumps(fields)).digest
    client.set_registered_model_tag(NAME, tag_of(number), json.dumps(fields))


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "another"},
        {"who": "nobody@nowhere"},
        {"moves": {"champion": ["1", "5"]}},
        {"kind": "forced"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_entry_is_found_and_named(place: Place, changes: dict[str, Any], number: int) -> None:
    space, client = place
    for old, new in ((None, "1"), ("1", "2"), ("2", "3")):
        crown(space, client, new, old)
    rewrite(client, number, consistent=False, **changes)
    with pytest.raises(TrackingError, match=f"entry {number} was changed"):
        history_of(space, NAME, verify=True)


def test_a_changed_entry_with_a_new_hash_and_a_taken_entry_are_found(place: Place) -> None:
    space, client = place
    for old, new in ((None, "1"), ("1", "2"), ("2", "3")):
        crown(space, client, new, old)
    kept = client.get_registered_model(NAME).tags[tag_of(2)]
    rewrite(client, 2, consistent=True, reason="another")
    with pytest.raises(TrackingError, match="entry 3 does not follow entry 2"):
        history_of(space, NAME, verify=True)
    client.delete_registered_model_tag(NAME, tag_of(2))
    with pytest.raises(TrackingError, match="entry 2 is missing"):
        history_of(space, NAME, verify=True)
    client.set_registered_model_tag(NAME, tag_of(2), kept[:50])
    with pytest.raises(TrackingError, match=r"mammo.history.000002 must be an entry"):
        history_of(space, NAME, verify=False)
    client.set_registered_model_tag(NAME, tag_of(2), kept)
    history_of(space, NAME, verify=True)
    client.delete_registered_model_tag(NAME, tag_of(3))
    with pytest.raises(TrackingError, match="champion is version 3 where entry 2 leaves 2"):
        history_of(space, NAME, verify=True)


def told(kind: Any, number: int, old: str | None, new: str | None, steps: int | None) -> Entry:
    plain: dict[str, Any] = {"at": "", "who": "", "reason": "", "hashes": {}}
    plain |= dict.fromkeys(("gates", "commit", "previous"))
    return Entry(number=number, kind=kind, moves={CHAMPION: (old, new)}, steps=steps, **plain)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30))
def test_rollbacks_go_down_a_stack_that_promotions_push_onto(wishes: list[tuple[bool, int]]) -> None:
    stack: list[str | None] = []
    entries: list[Entry] = []
    for is_rollback, n in wishes:
        now = stack[-1] if stack else None
        if is_rollback and n < len(stack):
            del stack[-n:]
            entries.append(told("rollback", len(entries) + 1, now, stack[-1], n))
        elif not is_rollback and str(n) != now:
            stack.append(str(n))
            entries.append(told("promote", len(entries) + 1, now, str(n), None))
        assert History(tuple(entries), {}).champions == stack
