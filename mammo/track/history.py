"""Every move of the aliases champion and challenger: numbered, chained by hashes, kept as tags of the registered model.

MLflow can neither lock nor compare and swap. But where two processes create a registered model of one name, one of them
fails. So a move begins with a claim: the model `NAME.move-000007`, which holds the entry. Then the entry is written
as a tag, the aliases are pointed, and the claim is deleted. Whoever finds a claim completes it before a move of his
own: a process that was killed leaves no lock. A claim whose number the history has already came too late and is void.

One hole is left, for want of a swap: a process that sleeps between a look and its write of an alias while others make
two moves writes an old version. It looks again and puts that right; killed in between, it leaves a move "by hand".
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from hashlib import sha256
from socket import gethostname
from typing import Any, Final, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.core.provenance import git_commit
from mammo.core.settings import Section
from mammo.track.check import BUNDLE_TAG
from mammo.track.store import EXISTS, MISSING, WEIGHTS_TAG, tags_of, unless, using_store

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
TAG: Final = "mammo.history."
CLAIMED: Final = "mammo.entry"
NEXT: Final = "mammo.next"
"""Tag of the registered model: the version that is being checked to become champion; services load it meanwhile."""
CODE_TAG: Final = "mammo.code_sha256"
LONGEST_REASON: Final = 1000
"""Letters: a tag of a registered model holds 5,000 (`SqlRegisteredModelTag`), gates take up to 3,000 of them."""
GRACE_S: Final = 2.0
"""How long the owner of a claim may go on with it before others help; no entry hangs on it."""

Kind = Literal["register", "promote", "rollback", "by hand", "found", "forced"]


class Entry(Section):
    """One step of the history."""

    number: int
    """From 1, without a gap."""
    at: str
    """UTC, ISO 8601."""
    who: str
    """user@host; of a move by hand, who noticed it."""
    kind: Kind
    """`by hand` in MLflow's page, noticed later; `found` when the history began."""
    moves: dict[str, tuple[str | None, str | None]]
    """Of each alias that moves the version it leaves and the one it goes to; null is none."""
    steps: int | None
    """Of a rollback: champions that it takes off the stack."""
    gates: dict[str, Any] | None
    """What was judged: name → value, bound and whether it passed."""
    reason: str
    commit: str | None
    hashes: dict[str, str]
    """SHA-256 of weights, bundle and code of the version that the first alias goes to, where known."""
    previous: str | None
    """`sha256` of the entry before."""
    sha256: str = ""
    """Of the canonical JSON of all other fields."""

    @property
    def digest(self) -> str:
        """What `sha256` must be."""
        return sha256(self.canonical("sha256").encode()).hexdigest()

    def canonical(self, *without: str) -> str:
        """JSON of the fields, but for some, in one way of writing it."""
        fields = self.model_dump(exclude=set(without))
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Step:
    """A move that is asked for: aliases and where they go; the other fields are those of `Entry`."""

    kind: Kind
    to: dict[str, str | None]
    reason: str = ""
    gates: dict[str, Any] | None = None
    steps: int | None = None


@dataclass(frozen=True)
class History:
    """Entries in order, and where the aliases point; equal to another look if nothing moved in between."""

    entries: tuple[Entry, ...]
    aliases: dict[str, str]

    @property
    def told(self) -> dict[str, str]:
        """Where the aliases point by the entries."""
        last = {alias: to for entry in self.entries for alias, (_, to) in entry.moves.items()}
        return {alias: to for alias, to in last.items() if to is not None}

    @property
    def strays(self) -> dict[str, str | None]:
        """Aliases that point elsewhere than the entries say, and where."""
        told, names = self.told, (CHAMPION, CHALLENGER)
        return {name: to for name in names if (to := self.aliases.get(name)) != told.get(name)}

    @property
    def champions(self) -> list[str | None]:
        """The stack that rollbacks go down, the present champion on top (None: its alias was deleted by hand)."""
        stack: list[str | None] = []
        for entry in self.entries:
            if entry.steps is not None:
                del stack[-entry.steps :]
            elif CHAMPION in entry.moves:
                _, to = entry.moves[CHAMPION]
                if stack[-1:] == [None]:
                    stack.pop()
                if stack[-1:] != [to]:
                    stack.append(to)
        return stack

    def crowning(self, number: str) -> dict[str, str | None]:
        """Where the aliases go when a version becomes champion: it is no challenger any more."""
        return {CHAMPION: number} | ({CHALLENGER: None} if self.told.get(CHALLENGER) == number else {})

    @property
    def flaw(self) -> str | None:
        """The first thing wrong with the chain, or with the aliases beside it; None if it is whole."""
        told: dict[str, str | None] = {}
        number, previous = 0, None
        for number, entry in enumerate(self.entries, start=1):
            if entry.number != number:
                return f"entry {number} is missing"
            if entry.sha256 != entry.digest:
                return f"entry {number} was changed: its fields do not give its sha256"
            if entry.previous != previous:
                return f"entry {number} does not follow entry {number - 1}: one of the two was changed"
            if any(start != told.get(alias) for alias, (start, _) in entry.moves.items()):
                return f"entry {number} starts from other aliases than the entries before it leave"
            told |= {alias: to for alias, (_, to) in entry.moves.items()}
            previous = entry.sha256
        for alias, to in self.strays.items():
            return f"{alias} is version {to or 'none'} where entry {number} leaves {told.get(alias)}"
        return None


def look(client: MlflowClient, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Aliases and tags of a registered model; empty where there is none."""
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == MISSING:  # any other failure is no proof that there is none
            return {}, {}
        raise
    return {alias: str(number) for alias, number in model.aliases.items()}, dict(model.tags)


def read(client: MlflowClient, name: str) -> History:
    """What the registered model says, whether a move is under way or not; `TrackingError` where an entry is none."""
    aliases, tags = look(client, name)
    entries = (_parsed(name, key, tags[key]) for key in sorted(tags) if key.startswith(TAG))
    return History(tuple(entries), aliases)


def _parsed(name: str, key: str, text: str) -> Entry:
    try:
        return Entry.model_validate_json(text)
    except ValidationError as error:
        raise TrackingError(
            f"{name}: tag {key} must be an entry of the history, got {text[:80]!r}; restore it from a backup"
        ) from error


def at_rest(client: MlflowClient, name: str) -> History:
    """The history with no move under way: what others left unfinished is completed, unless they still work on it.

    Aliases may stray from it; then they were moved by hand.
    """
    seen: History | None = None
    while True:
        for claim, entry in _claims(client, name):
            _leave_time(client, claim)
            _complete(client, name, claim, entry)
            seen = None
        now = read(client, name)
        if not now.strays or now == seen:  # a move between two looks would have left a claim or an entry
            return now
        seen = now


def settled(workspace: Workspace, client: MlflowClient, name: str) -> History:
    """The history at rest, once aliases that were moved by hand have their entry.

    The service may call it whenever the champion has changed.
    """
    while (now := at_rest(client, name)).strays:
        kind: Kind = "by hand" if now.entries else "found"
        _append(workspace, client, name, now, Step(kind, now.strays))
    return now


def history_of(workspace: Workspace, name: str, verify: bool) -> History:
    """The settled history, or where it is to be verified one in which no move by hand is noted first.

    Raises:
        TrackingError: verified, it is broken.
    """
    with using_store(workspace) as client:
        if not verify:
            return settled(workspace, client, name)
        found = at_rest(client, name)
        if found.flaw:
            raise TrackingError(
                f"{name}: its history must be whole, but {found.flaw}; `mammo history` notes aliases moved by hand, "
                "entries come back from a backup of the store"
            )
        return found


def move(workspace: Workspace, client: MlflowClient, name: str, plan: Callable[[History], Step]) -> Step:
    """Move aliases of a registered model that exists, with an entry; what was done.

    `plan` says what to do from a settled history, and is asked again where others were faster. A step that moves
    nothing has no entry.

    Raises:
        TrackingError: the plan's refusal, or the reason is too long.
    """
    while True:
        now = settled(workspace, client, name)
        step = plan(now)
        if not step.to:
            return step
        if len(step.reason) > LONGEST_REASON:
            raise TrackingError(
                f"reason: must have at most {LONGEST_REASON} letters, got {len(step.reason)}; shorten it"
            )
        mine = _append(workspace, client, name, now, step)
        # Asked of the history: a server that took it may not have said so.
        if mine in settled(workspace, client, name).entries:
            return step


def _append(workspace: Workspace, client: MlflowClient, name: str, now: History, step: Step) -> Entry:
    """Try to make a step the next entry, and point the aliases; whether it came first is for the caller to see."""
    told, last = now.told, now.entries[-1] if now.entries else None
    goal = next(iter(step.to.values()))
    tags = {} if goal is None else tags_of(client, name, goal)
    known = {"weights": WEIGHTS_TAG, "bundle": BUNDLE_TAG, "code": CODE_TAG}
    entry = Entry(
        number=last.number + 1 if last else 1,
        at=datetime.now(UTC).isoformat(),
        who=_who(),
        kind=step.kind,
        moves={alias: (told.get(alias), to) for alias, to in step.to.items()},
        steps=step.steps,
        gates=step.gates,
        reason=step.reason,
        commit=git_commit(workspace.root),
        hashes={what: tags[tag] for what, tag in known.items() if tag in tags},
        previous=last.sha256 if last else None,
    )
    entry = entry.model_copy(update={"sha256": entry.digest})
    claim, first = f"{name}.move-{entry.number:06}", False
    with unless(EXISTS, MISSING):  # the second where it is gone before MLflow can say that it exists
        client.create_registered_model(claim, {CLAIMED: entry.canonical()})
        first = True
    if first:
        _complete(client, name, claim, entry)
    return entry


def _who() -> str:
    try:
        return f"{getuser()}@{gethostname()}"
    except (KeyError, OSError):  # a container whose user has no name
        return f"unknown@{gethostname()}"


def _claims(client: MlflowClient, name: str) -> Iterator[tuple[str, Entry]]:
    """Claims on steps; to be asked for before the history is read, which has those that are completed meanwhile."""
    for model in client.search_registered_models(f"name LIKE '{name}.move-%'"):
        # It is made with its tag; one that a list shows without it was being deleted.
        if model.name.startswith(f"{name}.move-") and CLAIMED in model.tags:
            yield model.name, _parsed(model.name, CLAIMED, model.tags[CLAIMED])


def _leave_time(client: MlflowClient, claim: str) -> None:
    end = time.monotonic() + GRACE_S
    with unless(MISSING):
        while time.monotonic() < end and client.get_registered_model(claim):
            time.sleep(GRACE_S / 20)


def _complete(client: MlflowClient, name: str, claim: str, entry: Entry) -> None:
    """Write a claimed entry and do what it says, unless another has its number; then the claim goes."""
    entries = {one.number: one for one in read(client, name).entries}
    if entries.setdefault(entry.number, entry) == entry:
        client.set_registered_model_tag(name, f"{TAG}{entry.number:06}", entry.canonical())
        to_point, n_entries = () if entry.kind in ("by hand", "found") else tuple(entry.moves), -1
        # Whoever slept on the way here must not leave an old version behind: the newest entry says where to.
        while to_point and n_entries != len((now := read(client, name)).entries):
            n_entries = len(now.entries)
            for alias in to_point:
                with unless(MISSING):  # the version was deleted meanwhile: then the alias strays, and that is noted
                    if (number := now.told.get(alias)) is None:
                        client.delete_registered_model_alias(name, alias)
                    else:
                        client.set_registered_model_alias(name, alias, number)
    with unless(MISSING):
        client.delete_registered_model(claim)
