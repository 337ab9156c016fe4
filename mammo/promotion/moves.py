"""Promotion through the gates, and the way back along the history."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mlflow import MlflowClient

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace
from mammo.evaluation.intervals import Estimate
from mammo.promotion.gates import LOADS, Evidence, Gate, evidence_of, judged
from mammo.promotion.monitoring import agreements
from mammo.serve.loaded import checked
from mammo.track.history import CHAMPION, History, Step, move, settled
from mammo.track.registry import Version, announced, version_of
from mammo.track.store import MISSING, unless, using_store

LONGEST_VALUE: Final = 120
"""Letters of a gate's value that the history keeps."""


@dataclass(frozen=True)
class Verdict:
    """The gates of a version against the champion of that moment."""

    number: str
    champion: str | None
    gates: list[Gate]

    @property
    def failed(self) -> list[Gate]:
        """Those that do not hold."""
        return [gate for gate in self.gates if not gate.passed]


def judge(workspace: Workspace, config: Config, number: str) -> Verdict:
    """Judge a version; nothing moves."""
    name = config.register_.model_name
    with using_store(workspace) as client, TemporaryDirectory() as scratch:

        def evidence(number: str) -> Evidence:
            return evidence_of(client, version_of(client, name, number), Path(scratch) / number)

        def agreement() -> Estimate | None:
            pair = [one.version.mark for one in (against, candidate) if one]
            shadowed = agreements(workspace)
            return next((one.agreement for one in shadowed if [one.champion, one.challenger] == pair), None)

        candidate, champion = evidence(number), settled(workspace, client, name).told.get(CHAMPION)
        against, number = evidence(champion) if champion else None, candidate.version.number
        gates = judged(config, candidate, against, partial(checked, workspace, number), agreement)
        return Verdict(number, champion, gates)


def promote(
    workspace: Workspace, config: Config, verdict: Verdict, *, force: bool = False, reason: str = ""
) -> Version:
    """Make the judged version champion; with `force` and a reason whatever its gates say, if only it votes.

    `TrackingError` where a gate does not hold, or the champion is another than the version was judged against.
    """
    name, number, failed = config.register_.model_name, verdict.number, verdict.failed
    if force and not reason.strip():
        raise TrackingError('--force: needs a reason for the history, got none; add --reason "…"')
    gates = {
        gate.name: {"value": gate.value[:LONGEST_VALUE], "bound": gate.bound, "passed": gate.passed}
        for gate in verdict.gates
    }

    def plan(now: History) -> Step:
        champion = now.told.get(CHAMPION)
        if champion == number:
            return Step("promote", {})
        if champion != verdict.champion:
            raise TrackingError(
                f"{name}: version {number} was judged against champion {verdict.champion or 'none'}, but version "
                f"{champion or 'none'} has become champion since; judge it again with `mammo promote {number}`"
            )
        lame = any(gate.name == LOADS for gate in failed)
        if lame or (failed and not force):
            way = "a version that cannot vote is not forced" if lame else '--force --reason "…" overrules them'
            raise TrackingError(
                f"{name}: version {number} stays out, {len(failed)} of {len(gates)} gates do not hold; {way}\n"
                + "\n".join(f"- {gate}" for gate in failed)
            )
        return Step("forced" if failed else "promote", now.crowning(number), reason, gates)

    with using_store(workspace) as client:
        moved = move(workspace, client, name, plan).to
        before = f"champion was version {verdict.champion or 'none'}"
        said = before if moved else f"version {number} is champion already"
        return version_of(client, name, number, said)


def rollback(workspace: Workspace, model_name: str, steps: int = 1, reason: str = "") -> Version:
    """Give the champion alias back to the version that held it `steps` champions before, once that has been checked."""
    with using_store(workspace) as client:
        start = settled(workspace, client, model_name).champions
        number = _back(client, model_name, start, steps)

        def plan(now: History) -> Step:
            if now.champions != start:
                raise TrackingError(
                    f"{model_name}: the champion was moved while version {number} was checked; "
                    "run `mammo rollback` again"
                )
            return Step("rollback", now.crowning(number), reason, steps=steps)

        with announced(workspace, model_name, number):
            try:
                checked(workspace, number)
            except MammoError as error:
                raise TrackingError(f"{model_name} version {number}: cannot be loaded ({error})") from error
            move(workspace, client, model_name, plan)
        return version_of(client, model_name, number, f"rolled back from version {start[-1] or 'none'}")


def _back(client: MlflowClient, name: str, champions: list[str | None], steps: int) -> str:
    """The champion so many steps down the stack, if it is still there."""
    number = champions[-1 - steps] if 0 < steps < len(champions) else None
    if number is None:
        held = f"version {champions[0]} alone" if champions else "none"
        why = f"there is no champion to go back to, the history holds {held}"
        if len(champions) > 1:
            why = f"rollback must take 1 to {len(champions) - 1} steps, got {steps}: the history of champions begins "
            why += f"with version {champions[0]}"
        raise TrackingError(f"{name}: {why}; promote another with `mammo promote VERSION`")
    with unless(MISSING):
        return str(client.get_model_version(name, number).version)
    raise TrackingError(
        f"{name}: version {number}, {steps} back, has been deleted; go past it with `mammo rollback {steps + 1}`"
    )
