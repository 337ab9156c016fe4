"""How programs end when the machine refuses something."""

import errno
import os

import pytest

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


def test_other_faults_of_the_machine_stay_what_they_are() -> None:
    def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "disk")

    with pytest.raises(OSError, match="disk"):
        guarded(broken)
