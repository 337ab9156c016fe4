"""A file is whole or as it was; what cannot be read is refused with what to do."""

import errno
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo.core.errors import DataError
from mammo.core.files import (
    atomic_folder,
    atomic_path,
    read_array,
    read_json,
    read_table,
    sha256_of,
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
            assert (temporary.parent, temporary.suffix) == (tmp_path, ".csv")
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path, is_complete: bool) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "old").touch()

    with suppress(KeyboardInterrupt), atomic_folder(folder) as fresh:
        (fresh / "new").touch()
        if not is_complete:
            raise KeyboardInterrupt

    assert names_in(folder) == ["new" if is_complete else "old"]
    assert names_in(tmp_path) == ["docs"]


def test_missing_folders_are_made_and_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"x")

    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"x"
    with pytest.raises(DataError, match=r"cannot be written .*choose a writable folder"):
        write_bytes(tmp_path / "a" / "b" / "c.bin" / "x.json", b"{}")


def test_a_written_file_has_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_is_written_is_read_back_as_it_was(tmp_path: Path) -> None:
    value = {"auc": 0.876, "by": ["val_loss", None], "title": "×"}
    write_json(tmp_path / "a.json", value)
    write_table(tmp_path / "t.parquet", TABLE)
    write_table(tmp_path / "again.parquet", TABLE.copy())
    np.save(tmp_path / "a.npy", ARRAY)

    assert json.loads((tmp_path / "a.json").read_text()) == value == read_json(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), TABLE, check_dtype=False)
    assert sha256_of(tmp_path / "t.parquet") == sha256_of(tmp_path / "again.parquet")
    read = read_array(tmp_path / "a.npy")
    assert read.dtype == np.uint8
    assert np.array_equal(read, ARRAY)


def test_numbers_that_json_has_not_are_refused_and_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"val_loss": float("nan")})

    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "write", "read", "kind"),
    [
        ("a.json", lambda path: write_json(path, {"a": [1, 2, 3]}), read_json, "valid JSON"),
        ("t.parquet", lambda path: write_table(path, TABLE), read_table, "a readable parquet table"),
        ("a.npy", lambda path: np.save(path, ARRAY), read_array, r"a plain \.npy array"),
    ],
)
def test_what_is_cut_off_or_missing_is_refused_with_what_to_do(
    tmp_path: Path, name: str, write: Callable[[Path], None], read: Read, kind: str
) -> None:
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    for broken in (*(content[: int(kept * len(content))] for kept in (0, 0.1, 0.9)), b"\xff\xfe\x00"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=rf"{name}: is not {kind} .*dvc repro"):
            read(path)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}: does not exist; run `dvc repro` \(after `mammo fetch`\)"):
        read(path)


def test_pickled_arrays_and_archives_are_no_plain_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, images=ARRAY)

    for name in ("pickled.npy", "archive.npy"):
        with pytest.raises(DataError, match=r"is not a plain \.npy array"):
            read_array(tmp_path / name)
