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


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no space is left; free some and run again"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "its file system is read-only; work in another folder"),
        (errno.EACCES, "access is denied; change its rights, or work in another folder"),
        (errno.EPERM, "access is denied"),
    ],
)
def test_what_the_machine_refuses_is_one_message_with_file_and_remedy(
    code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise OSError(code, os.strerror(code), "reports/table.csv")

    with pytest.raises(SystemExit) as ended:
        guarded(refused)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: reports/table.csv: ")
    assert said in message
    assert message.endswith("finished work is kept\n")
    assert message.count("\n") == 1


def full_database() -> None:
    try:
        raise sqlite3.OperationalError("database or disk is full")
    except sqlite3.OperationalError as error:
        raise RuntimeError("(sqlite3.OperationalError) database or disk is full\n[SQL: …]") from error


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (full_database, "a database cannot be used (database or disk is full); free space"),
        (lambda: bytearray(2**62), "memory is used up (MemoryError); end other programs"),
        (lambda: torch.empty(2**58), "memory is used up ("),
    ],
)
def test_what_libraries_say_of_a_full_disk_or_too_little_memory_is_one_line(
    refused: Callable[[], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        guarded(refused)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {said}")
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
