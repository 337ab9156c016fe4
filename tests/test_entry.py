"""How programs end when the machine refuses something."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from mammo.core.errors import guarded


def full_database() -> None:
    try:
        raise sqlite3.OperationalError("database or disk is full")
    except sqlite3.OperationalError as error:
        raise RuntimeError("(sqlite3.OperationalError) database or disk is full\n[SQL: …]") from error


def refusing(code: int) -> Callable[[], None]:
    def refused() -> None:
        raise OSError(code, os.strerror(code), "reports/table.csv")

    return refused


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (refusing(errno.ENOSPC), "reports/table.csv: no space is left; free some and run again"),
        (refusing(errno.EDQUOT), "reports/table.csv: the quota is used up"),
        (
            refusing(errno.EROFS),
            "reports/table.csv: cannot be written, for its file system is read-only; work in",
        ),
        (
            refusing(errno.EACCES),
            "reports/table.csv: access is denied; change its rights, or work in another folder",
        ),
        (
            refusing(errno.ENOTDIR),
            "reports/table.csv: a file stands where a folder must be; correct the path",
        ),
        (refusing(errno.EISDIR), "reports/table.csv: a folder stands where a file must be; correct the path"),
        (refusing(errno.ENAMETOOLONG), "reports/table.csv: the name is too long; correct the path"),
        (full_database, "a database cannot be used (database or disk is full); free space"),
        (lambda: bytearray(2**62), "memory is used up (MemoryError); end other programs"),
        (lambda: torch.empty(2**58), "memory is used up ("),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_what_to_do(
    refused: Callable[[], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        guarded(refused)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {said}")
    assert message.endswith("finished work is kept\n")
    assert message.count("\n") == 1


def test_what_the_output_s_encoding_lacks_is_replaced() -> None:
    program = "from mammo.core.errors import guarded; guarded(lambda: print('0.60–0.81'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"0.60?0.81\n"


def test_other_faults_of_the_machine_stay_what_they_are() -> None:
    def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "disk")

    with pytest.raises(OSError, match="disk"):
        guarded(broken)
