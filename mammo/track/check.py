"""Where MLflow's store lies, and what it lacks of a workspace's results.

Asked of the store itself, in SQL: the answer takes a tenth of a second, MLflow's import takes two. Standard library
only, for the stage that asks runs in every `dvc repro`.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Final

from mammo.core.files import Workspace, read_json, sha256_of

BUNDLE_TAG: Final = "mammo.bundle_sha256"
"""Of the description, which names the weights' own hash: another threshold makes another run and another version."""

EVALUATION_TAG: Final = "mammo.results_sha256"
"""Of the evidence that a run holds; set after it, so that a run that has the tag has all of it."""

EXPERIMENT: Final = "DVC_EXP_NAME"
"""Set by DVC while an experiment runs."""
A_CHAMPION: Final = "a champion"
CARD: Final = "model_card.md"
_BESIDE_RESULTS: Final = ("audit/flagged_rois.csv", "audit/summary.json", "expectations/*.json", CARD)

_RUNS: Final = """
SELECT bundle FROM (
    SELECT run_uuid, value AS bundle, max(start_time) FROM runs JOIN tags USING (run_uuid)
    WHERE lifecycle_stage = 'active' AND key = ? GROUP BY value
) JOIN tags USING (run_uuid) WHERE key = ? AND value = ?"""
"""The newest run of a bundle is asked: one that trained the same weights again has to get the results too."""
_VERSIONS: Final = """
SELECT tag.value FROM model_versions JOIN model_version_tags AS tag USING (name, version)
WHERE name = ? AND tag.key = ? AND current_stage != 'Deleted_Internal'"""
_CHAMPIONS: Final = "SELECT name FROM registered_model_aliases WHERE alias = 'champion'"


def tracking_uri(workspace: Workspace) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else the SQLite store of the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(workspace.mlruns / 'mlflow.db').resolve()}"


def sqlite_path(workspace: Workspace) -> Path | None:
    """The store's file, or None where it is a server or another database."""
    uri = tracking_uri(workspace)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def evidence(workspace: Workspace) -> list[Path]:
    """The files that speak for a system: its test results, what audit and expectations found in its data, the card."""
    found = (sorted(workspace.reports.glob(kind)) for kind in _BESIDE_RESULTS)
    return [workspace.reports / "evaluate" / "results.json", *chain.from_iterable(found)]


def evidence_sha256(workspace: Workspace) -> str:
    """Their hash."""
    return sha256("".join(map(sha256_of, evidence(workspace))).encode()).hexdigest()


def lacking(workspace: Workspace) -> list[str] | None:
    """What the store lacks of the results in this workspace, in words; empty if it is complete.

    Returns:
        None where only MLflow can tell (the store is a server, is in use, or has tables unknown here), and where there
        are no results.

    Raises:
        DataError: results are no JSON, say after a conflict of two branches.
    """
    chosen, results = workspace.reports / "champion.json", evidence(workspace)[0]
    if not (chosen.is_file() and results.is_file()):
        return None
    choice, systems = read_json(chosen), read_json(results)["systems"]
    try:
        bundles = {system: sha256_of(workspace.description(system)) for system in systems}
        name, best = choice["model_name"], choice["system"]
        with _reading(workspace) as ask:
            runs = ask(_RUNS, BUNDLE_TAG, EVALUATION_TAG, evidence_sha256(workspace))
            versions = ask(_VERSIONS, name, BUNDLE_TAG)
            champions = ask(_CHAMPIONS)
    except (OSError, sqlite3.Error):
        return None
    without_run = [system for system, digest in bundles.items() if digest not in runs]
    lacks = [f"a run of {system} with these test results" for system in without_run]
    if bundles[best] not in versions:
        lacks.append(f"a version of {name} from {best}")
    if name not in champions:
        lacks.append(f"{A_CHAMPION} of {name}")
    return lacks


def lacks_champion(workspace: Workspace) -> bool:
    """Whether there are results here, of which one could be champion, and the store has none."""
    return any(one.startswith(A_CHAMPION) for one in lacking(workspace) or [])


def place_of_champion(*folders: str) -> str:
    """The first of these workspaces whose store has a champion; where none has, the first of all."""

    def has_champion(folder: str) -> bool:
        try:
            with _reading(Workspace(Path(folder))) as ask:
                return bool(ask(_CHAMPIONS))
        except sqlite3.Error:
            return False

    return next(filter(has_champion, folders), folders[0])


@contextmanager
def _reading(workspace: Workspace) -> Iterator[Any]:
    """Yield a function `(query, *values)` → set of the first column; a store that is not there is empty."""
    path = sqlite_path(workspace)
    if path is None:
        raise sqlite3.NotSupportedError("the store is a server")
    if not path.is_file() or path.stat().st_size == 0:
        yield lambda *_: set()
        return
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        yield lambda query, *values: {str(row[0]) for row in connection.execute(query, values)}
