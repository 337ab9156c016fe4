"""DVC reruns a stage when something changes that `dvc.yaml` declares for it: a stage must declare what it uses."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grimp
import pytest
import yaml

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.core.settings import Section
from mammo.systems.train import FIT_CODE
from tests.pipeline.workspaces import PROJECT, make_workspace

STAGES: Final = (
    *("ingest", "locate", "validate", "audit", "split", "leakage", "patches", "features"),
    *("train", "evaluate", "choose"),
)
SYSTEM: Final = "compact-baseline"
SMALL: Final[dict[str, Any]] = {
    "systems": [SYSTEM],
    "phantom": {"n_patients": 36, "seed": 3},
    "patches": {"tumor_draws": 4, "normal_draws": 4},
    "train": {"epochs": 1, "patches_per_epoch": 64},
    "evaluate": {"n_bootstrap": 100},
}
IN_THE_DATA: Final = ("ingest.source", "split")
"""Whatever they change shows in the ROIs and their parts, on which every later stage depends."""
NOT_IN_THE_RESULT: Final = ("settings_from", "train.device", "train.threads")
"""Where the values come from (DVC names the file itself), and on what the work is done."""
NOT_IN_ITS_OUTS: Final = {
    "features": {"evaluation"},  # votes and metrics, beside scoring
    "leakage": {"evaluation"},  # formats of the report's numbers
}
"""Rooms whose change leaves what a stage writes for others as it is."""


@pytest.fixture(scope="module")
def read_by_stage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The settings that each stage has read, all stages run one after the other on a small phantom set."""
    space = make_workspace(tmp_path_factory.mktemp("declared") / "space", SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(space.root)
        return {stage: settings_read_by(stage, space, patch) for stage in STAGES}


def settings_read_by(stage: str, space: Workspace, patch: pytest.MonkeyPatch) -> set[str]:
    """Run a stage in this process; returns the dotted names of the settings that it has read."""
    script = space.root / "pipelines" / f"{stage}.py"
    patch.setattr(sys, "argv", [str(script), *([SYSTEM] if stage == "train" else [])])
    spec = importlib.util.spec_from_file_location(f"stage_{stage}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with noted_settings() as read:
        module.main()
    return read


@contextmanager
def noted_settings() -> Iterator[set[str]]:
    """Note what is read of every `Config` that is loaded meanwhile, but for a dump of the whole (a run's record)."""
    read: set[str] = set()
    names: dict[int, tuple[str, Section]] = {}
    load, get, dump = Config.load, Section.__getattribute__, Section.model_dump
    is_dumping = False

    def name_all(section: Section, prefix: str) -> None:
        names[id(section)] = prefix, section
        for key, value in section.__dict__.items():
            for name, each in (value if isinstance(value, dict) else {"": value}).items():
                if isinstance(each, Section):
                    name_all(each, dotted(prefix, key.rstrip("_"), name))

    def load_named(path: Path) -> Config:
        config = load(path)
        name_all(config, "")
        return config

    def noting(self: Section, name: str) -> Any:
        value = get(self, name)
        is_setting = id(self) in names and name in get(self, "__dict__") and not isinstance(value, Section)
        if is_setting and not is_dumping:
            read.add(dotted(names[id(self)][0], name))
        return value

    def quiet_dump(self: Section, **options: Any) -> Any:
        nonlocal is_dumping
        is_dumping = True
        try:
            return dump(self, **options)
        finally:
            is_dumping = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "load", load_named)
        patch.setattr(Section, "__getattribute__", noting)
        patch.setattr(Section, "model_dump", quiet_dump)
        yield read


def dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def declared(stage: str) -> list[str]:
    """What `dvc.yaml` says that a stage depends on, as dotted names."""
    params = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"][stage].get("params", [])
    return [name for entry in params for name in ([entry] if isinstance(entry, str) else entry["${settings_from}"])]


def covers(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_settings_that_it_declares(stage: str, read_by_stage: dict[str, set[str]]) -> None:
    known = (*declared(stage), *IN_THE_DATA, *NOT_IN_THE_RESULT)
    assert {name for name in read_by_stage[stage] if not any(covers(one, name) for one in known)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ingest", "split", "patches", "train", "evaluate", "choose"])
def test_what_a_stage_declares_is_read_by_it(stage: str, read_by_stage: dict[str, set[str]]) -> None:
    assert {one for one in declared(stage) if not any(covers(one, n) for n in read_by_stage[stage])} == set()


def stages() -> Iterator[tuple[str, dict[str, Any]]]:
    for graph in ("dvc.yaml", "pipelines/studies/dvc.yaml"):
        yield from yaml.safe_load((PROJECT / graph).read_text())["stages"].items()


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("mammo", exclude_type_checking_imports=True)


def rooms_used(stage: str, imports: grimp.ImportGraph) -> set[str]:
    """Rooms that a stage's script imports, and what these import in turn; of a `mammo` command those of a fit."""
    script = PROJECT / "pipelines" / f"{stage}.py"
    if not script.is_file():
        return {name.partition("/")[0] for name in FIT_CODE}
    tree = ast.walk(ast.parse(script.read_text()))
    modules = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
    own = {module for module in modules if module.startswith("mammo.")}
    reached = own.union(*(imports.find_upstream_modules(module) for module in own))
    return {module.split(".")[1] for module in reached if "." in module}


@pytest.mark.parametrize(("stage", "declares"), [one for one in stages() if "always_changed" not in one[1]])
def test_a_stage_depends_on_the_rooms_that_it_uses(
    stage: str, declares: dict[str, Any], imports: grimp.ImportGraph
) -> None:
    rooms = {dep.split("/")[1] for dep in declares["deps"] if dep.startswith("mammo/")}
    assert rooms_used(stage, imports) - rooms == NOT_IN_ITS_OUTS.get(stage, set())
