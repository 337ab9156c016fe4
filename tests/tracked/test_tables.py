"""Tables and lines of commands that look back, as people see them."""

import json
import shutil
from pathlib import Path

import pytest

from mammo.core.config import Config
from mammo.core.files import Workspace
from tests.disc_rois import disc_rois
from tests.tracked.conftest import Mammo
from tests.tracked.registered import NAME
from tests.tracked.test_drift import serve


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("trace 1", "16 train, 8 val"),
        ("shadow", "no answer has a challenger's beside it"),
        ("drift", "fewer than 50 different ROIs were served"),
    ],
)
def test_a_command_that_looks_back_shows_what_it_found(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path, words: str, fact: str
) -> None:
    space = Workspace(tmp_path / "space")
    shutil.copytree(finished[0].root, space.root, ignore=shutil.ignore_patterns("predictions"))
    serve(space, disc_rois(1, 1).images)
    code, out, _ = mammo(*words.split(), "--workspace", str(space.root))
    assert code == 0
    assert fact in " ".join(out.split())


def test_an_explanation_in_json_is_the_answer_with_its_picture(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    call = ("explain", "disc-000", "--json", "--out", str(tmp_path), "--workspace", str(finished[0].root))
    code, out, _ = mammo(*call)
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["roi"], row["truth"], row["model_name"]) == (0, "disc-000", "Normal", NAME)
    assert Path(row["picture"]).read_bytes().startswith(b"\x89PNG")
    assert len(row["votes"]) == 9
