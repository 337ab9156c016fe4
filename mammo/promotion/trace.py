"""Where an answer comes from: version → run → commit, data, settings and ROIs; and what of a version can be made again.

`rebuild` makes it from its commit, its settings and the raw data.
"""

import io
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import WEIGHTS_FILE, Workspace, read_json, sha256_of
from mammo.core.provenance import git, hashes_in, run_dvc
from mammo.core.settings import parse_yaml
from mammo.serve.log import read_log
from mammo.track.history import CODE_TAG
from mammo.track.registry import Version, version_of
from mammo.track.store import FITTED, connect, find_run, first_line, tags_of, text_of

PREDICTION: Final = re.compile(r"v(?P<version>\d+)\.(?P<weights>[0-9a-f]{8})\.(?P<pixels>[0-9a-f]{16})")
RAW: Final = ("data/raw", "data/weights")


@dataclass(frozen=True)
class Trace:
    """What made a version, and with it an answer.

    Attributes:
        data_md5: DVC's hashes of the data sets.
        settings: of the run, as dotted keys.
        rois: number of ROIs by part, of those that the fit saw.
        training_roi: the ROI that has the picture's very pixels, where the fit saw it; null otherwise.
        answers: lines of the prediction log about the picture and the version.
    """

    version: dict[str, Any]
    run_id: str
    experiment: str
    trained: str
    commit: str
    code_sha256: str
    data_md5: dict[str, str]
    settings: dict[str, str]
    rois: dict[str, int]
    training_roi: str | None = None
    answers: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Compared:
    """One thing that was made again."""

    name: str
    registered: str
    rebuilt: str

    @property
    def agrees(self) -> bool:
        """Whether it came out the same."""
        return self.registered == self.rebuilt


def trace(workspace: Workspace, name: str, what: str) -> Trace:
    """Trace a version's number or a `prediction_id`; `TrackingError` where this registry does not know it."""
    client, found = connect(workspace), PREDICTION.fullmatch(what)
    number = found["version"] if found else what.removeprefix("v")
    if not found and not number.isdigit():
        raise TrackingError(
            f"{what}: must be a version of {name} such as 2, or a prediction_id such as v2.1a2b3c4d.0123456789abcdef; "
            "list the versions with `mammo runs`"
        )
    version = version_of(client, name, number)
    if found and not version.weights_sha256.startswith(found["weights"]):
        raise TrackingError(
            f"{what}: version {number} of this registry has the weights {version.weights_sha256[:8]}, so another "
            "registry's version gave this answer; name its store in MLFLOW_TRACKING_URI"
        )
    run = _run_of(client, name, version)
    run_id = str(run.info.run_id)
    rois = pd.read_csv(io.StringIO(text_of(run_id, FITTED) or "roi_id,part,sha256\n"), dtype=str)
    same = rois["roi_id"][rois["sha256"].str.startswith(found["pixels"])] if found else ()
    lines = read_log(workspace.predictions) if found else ()
    return Trace(
        version=asdict(version),
        run_id=run_id,
        experiment=client.get_experiment(run.info.experiment_id).name,
        trained=pd.Timestamp(run.info.start_time, unit="ms", tz="UTC").isoformat(timespec="seconds"),
        commit=run.data.tags.get("mammo.git_commit", ""),
        code_sha256=tags_of(client, name, number).get(CODE_TAG, ""),
        data_md5=hashes_in(text_of(run_id, "evaluate/dvc.lock") or ""),
        settings=dict(run.data.params),
        rois={str(part): int(n) for part, n in rois["part"].value_counts().items()},
        training_roi=next(iter(same), None),
        answers=tuple(line for line in lines if line["prediction_id"] == what),
    )


def _run_of(client: MlflowClient, name: str, version: Version) -> Run:
    """The run that made a version; where it is gone, the newest of the same bundle."""
    try:
        with suppress(MlflowException):
            return client.get_run(version.run_id)
        return client.get_run(find_run(client, version.bundle_sha256) or version.run_id)
    except MlflowException as error:
        raise TrackingError(
            f"{name} version {version.number}: its run {version.run_id or '(it has none)'} cannot be read "
            f"({first_line(error)}); `dvc repro` writes it again where models/ holds its bundle"
        ) from error


def rebuild(workspace: Workspace, name: str, number: str, say: Callable[[str], None]) -> list[Compared]:
    """Run the pipeline for a version's system in a clean worktree of its commit; compare weights and test metrics.

    Nothing is taken from DVC's cache: every stage runs. It takes as long as `dvc repro` does for one system.
    """
    made = trace(workspace, name, number)
    system, params = made.version["system"], text_of(made.run_id, "params.yaml")
    results = text_of(made.run_id, "evaluate/results.json")
    if params is None or results is None:
        raise TrackingError(
            f"{name} version {number}: its run {made.run_id} keeps no params.yaml or no test results; register the "
            "system with `dvc repro`, which logs both"
        )
    with worktree(workspace.root, made.commit) as root:
        settings = parse_yaml(params) | {"systems": [system]}
        (root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        for folder in RAW:
            if (workspace.root / folder).is_dir():
                shutil.copytree(workspace.root / folder, root / folder, dirs_exist_ok=True)
        say(f"{root}: running the pipeline of commit {made.commit[:10]} for {system}")
        (root / "dvc.lock").unlink(missing_ok=True)
        store = f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"
        run_dvc(root, "repro", "evaluate", PYTHONPATH=str(root), MLFLOW_TRACKING_URI=store)
        rebuilt = Workspace(root)
        again = read_json(rebuilt.reports / "evaluate" / "results.json")["systems"][system]["roi"]
        before = json.loads(results)["systems"][system]["roi"]
        weights = sha256_of(rebuilt.bundle(system) / WEIGHTS_FILE)
        compared = [Compared("weights", made.version["weights_sha256"], weights)]
        return compared + [Compared(one, _shown(before[one]), _shown(again.get(one))) for one in before]


def _shown(estimate: dict[str, Any] | None) -> str:
    return "none" if estimate is None else str(estimate["value"])


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A clean checkout of a commit, in a folder of its own that goes at the end."""
    if not commit or commit.endswith("-dirty") or " " in commit:
        raise MammoError(
            f"commit: the version must come from a clean commit to be made again, its run says {commit or 'none'!r}; "
            "commit the code and train again with `dvc repro`"
        )
    with tempfile.TemporaryDirectory(prefix="mammo-rebuild-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        try:
            within = git(root, "rev-parse", "--show-prefix")
            git(root, "worktree", "add", "--detach", str(tree), commit)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            raise MammoError(
                f"{root.resolve()}: has no commit {commit[:10]} ({said.strip().splitlines()[-1]}); fetch it with git"
            ) from error
        try:
            yield tree / within
        finally:
            with suppress(subprocess.CalledProcessError):
                git(root, "worktree", "remove", "--force", str(tree))
