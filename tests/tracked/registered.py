"""A registered model whose versions are names only: enough to move aliases between."""

import sys
from pathlib import Path

from mlflow import MlflowClient

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.track.history import CHAMPION, History, Step, at_rest, move
from mammo.track.store import WEIGHTS_TAG, connect

NAME = "mammo-roi"


def with_versions(workspace: Workspace, n_versions: int = 5) -> MlflowClient:
    """A client of the workspace's store, which gets the model with versions 1 to `n_versions`."""
    client = connect(workspace)
    client.create_registered_model(NAME)
    for number in range(1, n_versions + 1):
        client.create_model_version(NAME, f"s3://nowhere/{number}", tags={WEIGHTS_TAG: f"weights of {number}"})
    return client


def crown(workspace: Workspace, client: MlflowClient, number: str, judged_against: str | None) -> Step:
    """Promote a version that was judged against a champion."""

    def plan(now: History) -> Step:
        if now.told.get(CHAMPION) != judged_against:
            raise TrackingError("the champion has changed")
        return Step("promote", {CHAMPION: number}, f"judged against {judged_against}")

    return move(workspace, client, NAME, plan)


def contend(root: Path, n_rounds: int, first: int) -> None:
    """Promote versions 1 to 5 in turn, always against the champion that was seen before; print what was won."""
    workspace = Workspace(root)
    client = connect(workspace)
    won = 0
    for turn in range(n_rounds):
        champion = at_rest(client, NAME).told.get(CHAMPION)
        number = str(1 + (first + turn) % 5)
        if number == champion:
            number = str(1 + int(number) % 5)
        try:
            crown(workspace, client, number, champion)
            won += 1
        except TrackingError:
            continue
    sys.stdout.write(f"won {won}\n")


if __name__ == "__main__":
    contend(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
