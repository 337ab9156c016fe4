"""A pipeline that has run, a project with its results in git, and a reader of its documents, each made once."""

import pytest

from mammo.core.files import Workspace
from tests.pipeline.clones import Reader, clone_of, give_pictures, make_origin, must
from tests.pipeline.workspaces import make_workspace, run


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after one `dvc repro`, of which DVC warned nobody."""
    space = make_workspace(tmp_path_factory.mktemp("pipeline") / "space")
    done = run(space, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stdout + done.stderr
    return space


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with its results in git and in a DVC remote."""
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="session")
def reader(origin: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A colleague who has pulled the results, with pictures of her own."""
    folder = tmp_path_factory.mktemp("reader")
    clone = clone_of(origin, folder / "clone")
    must(clone, "dvc", "pull", "dvc.yaml")
    give_pictures(clone)
    must(clone, "mammo", "predict", "roi.png")  # the first one registers what was pulled
    return Reader(clone, folder)
