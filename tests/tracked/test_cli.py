"""The command line: what it prints, and how it refuses."""

import errno
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mammo import cli
from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.rois import read_rois

Called = tuple[int, str, str]
Mammo = Callable[..., Called]


@pytest.fixture
def mammo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mammo:
    """Call the console script in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str, columns: int = 200) -> Called:
        monkeypatch.setattr(sys, "argv", ["mammo", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return call


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from mammo import cli; "
        "print([m for m in ('torch', 'mlflow', 'pandas', 'great_expectations', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predict_prints_one_object_for_each_file(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, _ = finished
    files = []
    for index, image in enumerate(read_rois(space.rois).images[:2]):
        path = tmp_path / f"roi {index}.png"
        Image.fromarray(image).save(path)
        files.append(str(path))
    code, out, _ = mammo("predict", "--json", "--workspace", str(space.root), *files)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["file"] for row in rows] == files
    assert {tuple(row) for row in rows} == {
        (
            *("file", "label", "vote_share", "votes", "score", "model_name", "model_version"),
            *("probability", "threshold", "prediction_set", "referral"),
        )
    }


def test_predict_shows_a_table_with_the_file_and_what_to_refer(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, _ = finished
    path = tmp_path / "roi.png"
    Image.fromarray(read_rois(space.rois).images[0]).save(path)
    _, lines, _ = mammo("predict", "--json", "--workspace", str(space.root), str(path))
    row = json.loads(lines)
    code, out, _ = mammo("predict", "--workspace", str(space.root), str(path))
    assert code == 0
    title = next(line for line in out.splitlines() if "threshold" in line)
    assert title.split() == [
        row["model_name"],
        f"v{row['model_version']},",
        "threshold",
        f"{row['threshold']:.2f}",
    ]
    (answer,) = [line for line in out.splitlines() if f"{sum(row['votes'])} of {len(row['votes'])}" in line]
    assert row["label"] in answer
    assert f"{row['probability']:.2f}" in answer.split()
    assert ("refer to reader" in out) == row["referral"]
    assert "refer to a reader" in " ".join(out.split())  # the caption


def broken_files(folder: Path) -> dict[str, Path]:
    """One file for each way of being no ROI."""
    good = io.BytesIO()
    Image.fromarray(np.arange(14400, dtype=np.uint32).astype(np.uint8).reshape(120, 120)).save(
        good, format="PNG"
    )
    contents: dict[str, bytes] = {
        "truncated.png": good.getvalue()[:200],
        "text.png": b"this is a text",
        "empty.png": b"",
    }
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "sixteen-bit.png": np.zeros((120, 120), dtype=np.uint16),
        "rgba.png": np.zeros((120, 120, 4), dtype=np.uint8),
        "one-pixel.png": np.zeros((1, 1), dtype=np.uint8),
        "huge.png": np.zeros((8000, 8000), dtype=np.uint8),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / name)
    (folder / "a folder").mkdir()
    names = [*contents, *arrays, "a folder", "missing.png"]
    return {name: folder / name for name in names}


@pytest.mark.parametrize(
    "name",
    [
        "truncated.png",
        "text.png",
        "empty.png",
        "sixteen-bit.png",
        "rgba.png",
        "one-pixel.png",
        "huge.png",
        "a folder",
        "missing.png",
    ],
)
def test_a_bad_picture_is_refused_with_exit_code_2_and_its_name(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path, name: str
) -> None:
    path = broken_files(tmp_path)[name]
    code, out, err = mammo("predict", "--json", "--workspace", str(finished[0].root), str(path))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert name in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("patches", "size_px", 200, "patches.size_px must be between 32"),
        ("patches", "sise_px", 72, "patches.sise_px is not a known key"),
        ("train", "recipe", "papper", "train.recipe must be one of"),
    ],
)
def test_impossible_params_are_refused_before_any_work(
    mammo: Mammo, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    values[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    code, _, err = mammo("phantom", "--workspace", str(tmp_path))
    assert code == 2
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_folder_without_params_says_where_to_run(mammo: Mammo, tmp_path: Path) -> None:
    code, _, err = mammo("runs", "--workspace", str(tmp_path))
    assert code == 2
    assert "run from the project's root" in err


def test_a_locked_database_stops_a_command_with_exit_code_2(
    mammo: Mammo, prepared: tuple[Workspace, Config]
) -> None:
    space, _ = prepared
    holder = sqlite3.connect(space.mlruns / "mlflow.db", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        code, _, err = mammo("runs", "--workspace", str(space.root))
    finally:
        holder.close()
    assert code == 2
    assert "locked" in err


def test_an_empty_store_says_how_to_get_a_champion(
    mammo: Mammo, prepared: tuple[Workspace, Config], tmp_path: Path
) -> None:
    picture = tmp_path / "roi.png"
    Image.fromarray(read_rois(prepared[0].rois).images[0]).save(picture)
    code, _, err = mammo("predict", "--workspace", str(prepared[0].root), str(picture))
    assert code == 2
    assert "dvc repro" in err


def test_a_full_disk_stops_fetch_and_leaves_nothing_half_written(
    mammo: Mammo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = os.environ.get("MAMMO_MIAS_ROIS")
    if archive is None:
        pytest.skip("MAMMO_MIAS_ROIS is not set: no archive to fetch")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    code, _, err = mammo("fetch", "--archive", archive, "--workspace", str(tmp_path))
    assert code == 2
    assert "No space left" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "params.yaml"]


def test_promote_and_rollback_tell_what_they_did(mammo: Mammo, files_only: tuple[Workspace, Config]) -> None:
    from mammo.track import registry
    from mammo.track.record import ensure_run

    space, config = files_only
    for system in config.systems:
        registry.register(space, "mammo-roi", ensure_run(space, config, system), space.bundle(system))
    code, out, _ = mammo("promote", "2", "--workspace", str(space.root))
    assert (code, "champion was version 1" in out) == (0, True)
    code, out, _ = mammo("rollback", "--workspace", str(space.root))
    assert (code, "rolled back from version 2" in out) == (0, True)
    code, _, err = mammo("promote", "nine", "--workspace", str(space.root))
    assert (code, "must be one of" in err) == (2, True)


def test_runs_shows_every_system_with_an_interval(mammo: Mammo, finished: tuple[Workspace, Config]) -> None:
    code, out, _ = mammo("runs", "--workspace", str(finished[0].root))
    assert code == 0
    for system in finished[1].systems:
        line = next(line for line in out.splitlines() if system in line)
        assert re.search(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", line)


def test_doctor_says_what_is_missing_and_how_to_get_it(mammo: Mammo, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    code, out, _ = mammo("doctor", "--workspace", str(tmp_path))
    assert code == 0
    assert "mammo fetch" in out
    assert "torch" in out


def test_doctor_finds_a_folder_that_is_not_there(mammo: Mammo, tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 250) / "nowhere"
    code, out, _ = mammo("doctor", "--workspace", str(folder))
    assert code == 2
    assert "no such folder" in out
    assert "…" not in out, "a path is broken over lines, never cut"


def test_doctor_looks_at_the_store_that_the_environment_names(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished[0].params, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished[0].mlruns / 'mlflow.db'}")
    code, out, _ = mammo("doctor", "--workspace", str(tmp_path))
    assert code == 0
    assert "champion: version 1" in out


def test_a_demo_in_the_project_itself_is_refused_and_its_settings_are_kept(
    mammo: Mammo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(Path(__file__).parents[2] / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    code, _, error = mammo("demo", "--workspace", ".")
    assert code == 2
    assert "is the project itself" in error
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_in_a_terminal_of_eighty_columns_no_name_and_no_number_is_cut(
    mammo: Mammo, finished: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, _ = finished
    picture = tmp_path / f"{'long ' * 20}.png"
    Image.fromarray(read_rois(space.rois).images[0]).save(picture)
    for command in (("predict", str(picture)), ("runs",), ("doctor",)):
        code, out, _ = mammo(*command, "--workspace", str(space.root), columns=80)
        assert code == 0
        assert "…" not in out
        assert max(len(line) for line in out.splitlines()) <= 80
