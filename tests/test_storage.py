"""A file is whole or as it was; what cannot be read is refused with what to do."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo.core.errors import DataError
from mammo.core.files import (
    atomic_path,
    read_array,
    read_json,
    read_table,
    sha256_of,
    write_array,
    write_bytes,
    write_json,
    write_table,
)

TABLE = pd.DataFrame({"roi_id": ["a", "b"], "label": [0, 1]})
ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)

Read = Callable[[Path], Any]


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("owner", "method", "write"),
    [
        (Path, "write_bytes", lambda path: write_json(path, {"new": 1})),
        (np, "save", lambda path: write_array(path, ARRAY)),
        (pd.DataFrame, "to_parquet", lambda path: write_table(path, TABLE)),
        (Path, "replace", lambda path: write_bytes(path, b"new")),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(owner, method, disk_full)

    with pytest.raises(DataError, match=r"file: cannot be written \(No space left on device\); free space"):
        write(path)

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_path(tmp_path / "table.csv") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert names_in(tmp_path) == []


def test_the_temporary_file_lies_beside_the_target_and_keeps_its_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "plot.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary.name != "plot.png"
        temporary.write_bytes(b"pixels")

    assert names_in(tmp_path) == ["plot.png"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"x")

    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"x"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"")

    with pytest.raises(DataError, match=r"cannot be written .*choose a writable folder"):
        write_bytes(tmp_path / "models" / "x.json", b"{}")


def test_a_written_file_has_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_json_is_written_with_a_final_newline_and_read_back(tmp_path: Path) -> None:
    value = {"auc": 0.876, "by": ["val_loss", None], "title": "×"}

    write_json(tmp_path / "a.json", value)

    assert json.loads((tmp_path / "a.json").read_text()) == value == read_json(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused_and_write_nothing(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"val_loss": value})

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00"])
def test_broken_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(DataError, match=r"a\.json: is not valid JSON .*dvc repro"):
        read_json(tmp_path / "a.json")


def test_tables_and_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", TABLE)
    write_array(tmp_path / "a.npy", ARRAY)

    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), TABLE, check_dtype=False)
    read = read_array(tmp_path / "a.npy")
    assert read.dtype == np.uint8
    assert np.array_equal(read, ARRAY)


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    write_table(tmp_path / "one.parquet", TABLE)
    write_table(tmp_path / "two.parquet", TABLE.copy())

    assert sha256_of(tmp_path / "one.parquet") == sha256_of(tmp_path / "two.parquet")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_table_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, TABLE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    with pytest.raises(DataError, match=r"t\.parquet: is not a readable parquet table .*dvc repro"):
        read_table(path)


@pytest.mark.parametrize("n_bytes", [0, 3, 7, 40, 128, 130])
def test_a_truncated_array_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "a.npy"
    write_array(path, ARRAY)
    path.write_bytes(path.read_bytes()[:n_bytes])

    with pytest.raises(DataError, match=r"a\.npy: is not a plain \.npy array .*dvc repro"):
        read_array(path)


def test_pickled_arrays_and_archives_are_no_plain_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, images=ARRAY)

    for name in ("pickled.npy", "archive.npy"):
        with pytest.raises(DataError, match=r"is not a plain \.npy array"):
            read_array(tmp_path / name)


@pytest.mark.parametrize("read", [read_json, read_table, read_array])
def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path, read: Read) -> None:
    with pytest.raises(DataError, match=r"gone: does not exist; run `dvc repro` \(after `mammo fetch`\)"):
        read(tmp_path / "gone")


def test_the_hash_is_sha256_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(content)

    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()
