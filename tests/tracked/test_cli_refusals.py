"""The command line: how it refuses, and what it then leaves behind."""

import shlex
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import yaml
from PIL import Image

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.rois import read_rois
from tests.data.pictures import encoded, noise
from tests.tracked.conftest import Mammo

PROJECT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["truncated.png", "missing.png", "a folder"])
def test_a_bad_picture_is_refused_with_exit_code_2_and_its_name(
    mammo: Mammo, space: Workspace, tmp_path: Path, name: str
) -> None:
    (tmp_path / "truncated.png").write_bytes(encoded(noise(0))[:200])
    (tmp_path / "a folder").mkdir()
    code, out, err = mammo("predict", "--json", "--workspace", str(space.root), str(tmp_path / name))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert name in err
    assert "Traceback" not in err


def test_impossible_params_are_refused_before_any_work(mammo: Mammo, tmp_path: Path) -> None:
    for command in ("phantom", "runs"):
        code, _, err = mammo(command, "--workspace", str(tmp_path))
        assert (code, "run from the project's root" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    values["patches"]["size_px"] = 200
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    code, _, err = mammo("phantom", "--workspace", str(tmp_path))
    assert (code, "patches.size_px: " in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "call", ["predict roi.png --json --csv", "fetch --weights hed --source own"], ids=["predict", "fetch"]
)
def test_two_options_of_which_one_would_not_be_heeded_are_refused(mammo: Mammo, call: str) -> None:
    code, _, err = mammo(*call.split())
    assert (code, "got both; leave one out" in err) == (2, True)


def test_a_file_or_folder_in_the_place_of_the_other_is_refused_with_its_name(
    mammo: Mammo, space: Workspace, tmp_path: Path, picture: Path
) -> None:
    here, params = ("--workspace", str(space.root)), str(space.params)
    for call, words in (
        (("runs", "--workspace", params), f"{params}/params.yaml: a file stands where a folder must be"),
        (("study", str(tmp_path), "--dry-run", *here), f"{tmp_path}: a folder stands where a file must be"),
        (
            ("score", str(picture), "--out", f"{params}/x.parquet", *here),
            "a file stands where a folder must be",
        ),
    ):
        code, _, err = mammo(*call)
        assert (code, words in err) == (2, True), err


def test_the_command_that_a_check_prints_can_be_pasted_where_a_path_has_a_space(
    mammo: Mammo, space: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "my rois"
    folder.mkdir()
    rois, lines = read_rois(space.rois), ["path,label"]
    for number, image in enumerate(rois.images):
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{rois.labels[number]}")
    (folder / "rois.csv").write_text("\n".join(lines))
    code, out, _ = mammo("check", str(folder / "rois.csv"), "--workspace", str(space.root))
    assert code == 0
    words = [
        "fetch",
        "--source",
        "own",
        "--archive",
        str(folder / "rois.csv"),
        "--workspace",
        str(space.root),
    ]
    assert shlex.split(out.partition("next: ")[2]) == ["mammo", *words]


def test_a_store_that_is_locked_or_without_a_champion_is_an_error_with_a_way_out(
    mammo: Mammo, prepared: tuple[Workspace, Config], picture: Path
) -> None:
    root = str(prepared[0].root)
    with closing(sqlite3.connect(prepared[0].mlruns / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        code, _, err = mammo("runs", "--workspace", root)
    assert code == 2
    assert "locked" in err
    code, _, err = mammo("predict", "--workspace", root, str(picture))
    assert code == 2
    assert "dvc repro" in err


@pytest.mark.parametrize("name", ["192.168.1.*", "voting.lan:8000", "https://voting.lan", "*"])
def test_a_name_that_no_request_has_is_refused_before_anything_is_loaded(
    mammo: Mammo, tmp_path: Path, name: str
) -> None:
    code, _, err = mammo("serve", "--port", "0", "--allowed-host", name, "--workspace", str(tmp_path))
    assert (code, f"must be a name such as voting.example or *.example, got '{name}'" in err) == (2, True)


@pytest.mark.parametrize(
    ("command", "server"), [("serve", "voting service"), ("ui", "MLflow UI"), ("tune dashboard", "dashboard")]
)
def test_a_server_refuses_a_port_that_is_taken(mammo: Mammo, space: Workspace, command: str, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = mammo(*command.split(), "--port", port, "--workspace", str(space.root))
    assert code == 2
    assert f"127.0.0.1:{port}: cannot be listened on" in err
    assert server not in err


def test_a_demo_in_the_project_itself_is_refused_and_its_settings_are_kept(
    mammo: Mammo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, error = mammo("demo", "--workspace", ".")
    assert (code, "is the project itself" in error) == (2, True)
    assert (tmp_path / "params.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


def test_what_cannot_be_done_yet_is_told_with_the_command_that_comes_first(
    mammo: Mammo, prepared: tuple[Workspace, Config]
) -> None:
    space, _ = prepared
    here = ("--workspace", str(space.root))
    (space.root / "rois.csv").write_text("path,label\na.png,Tumor\n")
    Image.fromarray(read_rois(space.rois).images[1]).save(space.root / "a.png")
    space.split.unlink()
    for command, words in (
        (("ledger", "--dry-run"), "run `dvc repro split` first"),
        (("rollback",), "no champion to go back to, the history holds none"),
        (("promote", "2"), "has no versions yet; register one with `dvc repro`"),
        (
            ("check", str(space.root / "rois.csv")),
            "Normal has 0 for split.n_folds 5; lower n_folds or add data",
        ),
    ):
        code, _, error = mammo(*command, *here)
        assert (code, words in " ".join(error.split())) == (2, True), error
