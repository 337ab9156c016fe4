"""`mammo score`: a row for every input, the same whatever was killed on the way."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mammo.core.config import Config
from mammo.core.errors import DataError, MammoError
from mammo.core.files import Workspace
from mammo.data.decode import read_roi
from mammo.models.bundle import load_bundle
from mammo.serve import score as score_module
from mammo.serve.children import Worker
from mammo.serve.predict import inputs_of, predict_files
from mammo.serve.score import Scored, score
from mammo.serve.worker import Header
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer
from mammo.track.record import ensure_run, fill_store
from mammo.track.registry import register
from tests.disc_rois import disc_rois
from tests.tracked.conftest import Mammo

SMALL_CHUNK: Final = 32
RUN: Final = (
    "import sys; from pathlib import Path; from mammo.core.files import Workspace; from mammo.serve import score; "
    f"score.CHUNK = {SMALL_CHUNK}; "
    "score.score(Workspace(Path(sys.argv[1])), [Path(sys.argv[2])], Path(sys.argv[3]))"
)


def write_pictures(folder: Path, n: int, seed: int = 0) -> list[Path]:
    """ROIs as PNG, half of them with a disc."""
    images = disc_rois(n // 2, n - n // 2, seed=seed).images
    folder.mkdir(parents=True)
    paths = [folder / f"{number:04d}.png" for number in range(n)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends within a time."""
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False


def rows_of(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return rows


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_gives_the_table_of_one_that_is_not(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    pictures = write_pictures(tmp_path / "rois", 192)
    pictures[100].write_bytes(b"no picture")
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    command = [sys.executable, "-c", RUN, str(space.root), str(tmp_path / "rois"), str(killed)]
    parts, n_kills = tmp_path / "killed.parquet.parts", 0
    while n_kills < 2:
        before = len(list(parts.glob("0*.parquet")))
        process = subprocess.Popen(command)
        while not ended(process, 0.02) and len(list(parts.glob("0*.parquet"))) == before:
            pass
        if ended(process, rng.uniform(0, 0.2)):
            break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        n_kills += 1
    assert n_kills == 2
    subprocess.run(command, check=True)

    monkeypatch.setattr(score_module, "CHUNK", SMALL_CHUNK)
    found = score(space, [tmp_path / "rois"], whole)

    assert found == Scored(192, 1, "1")
    assert pq.read_table(killed).equals(pq.read_table(whole))
    assert [row["input"] for row in rows_of(killed)] == [str(path) for path in pictures]
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


def test_a_row_is_that_of_predict_with_the_patch_scores_and_the_hash_of_the_file(
    space: Workspace, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "rois", 5)

    score(space, pictures, tmp_path / "out.parquet")

    rows = rows_of(tmp_path / "out.parquet")
    for path, row, predicted in zip(pictures, rows, predict_files(space, pictures), strict=True):
        del predicted["file"]
        assert {name: row[name] for name in predicted} == predicted
        assert np.mean(row["patch_scores"]) == pytest.approx(row["score"])
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row["input"], row["error"]) == (str(path), None)


def test_a_version_that_is_named_votes_in_the_champion_s_place(
    files_only: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, config = files_only
    champion = fill_store(space, config)
    (other,) = set(config.systems) - {champion.system}
    number = register(space, config.register_.model_name, ensure_run(space, config, other), space.bundle(other)).number
    pictures = write_pictures(tmp_path / "rois", 3)

    assert score(space, pictures, tmp_path / "out.parquet", number=number).model_version == number == "2"

    scorer = RoiScorer.on(load_bundle(space.bundle(other)), choose_device("auto"))
    expected = scorer.votes(np.stack([read_roi(path) for path in pictures]))
    rows = rows_of(tmp_path / "out.parquet")
    assert [row["model_version"] for row in rows] == 3 * ["2"]
    np.testing.assert_allclose([row["score"] for row in rows], [vote.score for vote in expected], rtol=1e-5)


def test_what_is_no_roi_gets_a_row_with_the_reason_and_the_command_ends_with_2(
    mammo: Mammo, space: Workspace, tmp_path: Path
) -> None:
    good, torn, small = write_pictures(tmp_path / "rois", 3)
    torn.write_bytes(good.read_bytes()[:200])
    Image.new("L", (64, 64)).save(small)
    (tmp_path / "rois" / "empty.png").touch()
    (tmp_path / "rois" / "long.png").write_bytes(bytes(2**19 + 1))
    (tmp_path / "rois" / "gone.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out.parquet"
    code, said, _ = mammo("score", str(tmp_path / "rois"), "--out", str(out), "-w", str(space.root))
    assert code == 2
    assert f"{out}: 6 rows by version 1, 5 of them with an error" in said
    errors = {Path(row["input"]).name: row["error"] for row in rows_of(out)}
    assert errors.pop(good.name) is None
    reasons = {
        torn.name: "is not a whole PNG file",
        small.name: "must be 120 x 120 pixels, got 64 x 64",
        "empty.png": "must not be empty",
        "long.png": "at most 524288 bytes",
        "gone.png": "must be a regular file",
    }
    assert [name for name, reason in reasons.items() if reason not in errors[name]] == []
    assert {row["label"] for row in rows_of(out) if row["error"]} == {None}


def pack_zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))


def pack_tar(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "")


def list_csv(folder: Path, table: Path) -> None:
    paths = [path.relative_to(table.parent) for path in sorted(folder.rglob("*.png"))]
    pd.DataFrame({"Path": paths, "label": "Normal"}).to_csv(table, index=False)


def test_an_archive_or_a_csv_holds_the_same_rois_as_its_folder(space: Workspace, tmp_path: Path) -> None:
    write_pictures(tmp_path / "rois", 3)
    write_pictures(tmp_path / "rois" / "below" / "further", 3, seed=1)
    places = [tmp_path / name for name in ("rois", "rois.csv", "rois.zip", "rois.tar.gz")]
    list_csv(places[0], places[1])
    list_csv(places[0], places[0] / "rois.csv")
    (places[0] / ".hidden").mkdir()
    for hidden in (".hidden.png", ".hidden/0003.png"):
        (places[0] / hidden).touch()
    pack_zip(places[0], places[2])
    pack_tar(places[0], places[3])

    score(space, places, tmp_path / "out.parquet")

    rows = rows_of(tmp_path / "out.parquet")
    of_folder, *of_packed = [sorted(row["prediction_id"] for row in rows[at : at + 6]) for at in (0, 6, 12, 18)]
    assert len(set(of_folder)) == 6
    assert of_packed == 3 * [of_folder]
    assert len(rows) == 24
    assert {Path(row["input"]).name for row in rows} == {"0000.png", "0001.png", "0002.png"}


def test_a_command_waits_for_its_votes_however_long_they_take(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ask, limits = write_pictures(tmp_path / "rois", 1)[0], Worker.ask, list[float | None]()

    async def noted(
        self: Worker, header: Header, body: bytes = b"", seconds: float | None = 60
    ) -> tuple[Header, bytes]:
        if header["do"] == "vote":
            limits.append(seconds)
        return await ask(self, header, body, seconds)

    monkeypatch.setattr(Worker, "ask", noted)
    predict_files(space, [path])
    score(space, [path], tmp_path / "out.parquet")
    assert limits == 3 * [None]  # the table's columns are asked for too


class StoppedError(Exception):
    """As if the process ended."""


def stop_after_the_first_part(done: int, total: int) -> None:
    if done:
        raise StoppedError


@pytest.fixture
def begun(space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ROIs, half of which wait in `out.parquet.parts`."""
    write_pictures(tmp_path / "rois", 2 * SMALL_CHUNK)
    monkeypatch.setattr(score_module, "CHUNK", SMALL_CHUNK)
    with pytest.raises(StoppedError):
        score(space, [tmp_path / "rois"], tmp_path / "out.parquet", progress=stop_after_the_first_part)
    assert not (tmp_path / "out.parquet").exists()
    return tmp_path / "rois"


def test_other_inputs_or_another_version_do_not_go_on_with_a_table_that_was_begun(
    space: Workspace, begun: Path
) -> None:
    out, manifest = begun.with_name("out.parquet"), begun.with_name("out.parquet.parts") / "manifest.json"
    (more := begun / "0000a.png").write_bytes((begun / "0000.png").read_bytes())
    with pytest.raises(DataError, match=r"beginning of another table \(n_inputs was 64.*or delete the folder"):
        score(space, [begun], out)

    more.unlink()
    first = begun / "0000.png"
    content, times = first.read_bytes(), (first.stat().st_atime_ns, first.stat().st_mtime_ns)
    first.write_bytes(content[::-1])  # as large as before
    with pytest.raises(DataError, match=r"beginning of another table \(inputs_sha256 was"):
        score(space, [begun], out)

    first.write_bytes(content)
    os.utime(first, ns=times)
    by_first = manifest.read_text()
    manifest.write_text(by_first.replace('"model_version": "1"', '"model_version": "2"'))
    with pytest.raises(DataError, match=r"model_version was 2.*finish that one, .*--version 2"):
        score(space, [begun], out)

    manifest.write_text(by_first)
    assert score(space, [begun], out, number="1") == Scored(64, 0, "1")
    assert not manifest.parent.exists()


def test_parts_without_their_manifest_are_not_taken_for_finished_ones(space: Workspace, begun: Path) -> None:
    out, parts = begun.with_name("out.parquet"), begun.with_name("out.parquet.parts")
    manifest = json.loads((parts / "manifest.json").read_text())
    assert (manifest["model_version"], manifest["n_inputs"]) == ("1", 64)
    shutil.copy(parts / "00000000.parquet", parts / "00000007.parquet")
    (parts / "manifest.json").unlink()

    assert score(space, [begun], out).n_rows == len(rows_of(out)) == 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("torn.zip", b"PK\3\4 torn", "cannot be read"),
        ("torn.tar.gz", b"\x1f\x8b torn", "cannot be read"),
        ("list.csv", b"file,label\na.png,Normal\n", "must have the column path, got file, label"),
    ],
)
def test_a_place_that_cannot_be_read_is_refused_before_anything_is_voted_on(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(MammoError, match=message):
        list(inputs_of([tmp_path / name]))


def test_a_version_that_is_not_there_is_refused_and_leaves_no_folder(space: Workspace, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "rois", 2)

    for number in ("99", "champion"):
        with pytest.raises(MammoError, match=rf"mammo-roi: version must be one of \[1\], got '{number}'"):
            score(space, pictures, tmp_path / "out.parquet", number=number)
    assert [path.name for path in tmp_path.iterdir()] == ["rois"]


def test_a_table_among_its_own_inputs_is_refused(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must lie outside of the inputs"):
        score(space, [tmp_path], tmp_path / "below" / "out.parquet")
