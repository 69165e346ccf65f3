"""The file with the number of the process: there while it runs, locked, and gone afterwards."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest

from sipl.cli.pid_file import PidFile
from sipl.errors import FileError

HOLDER = """\
import sys
from sipl.cli.pid_file import PidFile
with PidFile(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_it_has_the_number_and_goes(tmp_path):
    path = tmp_path / "pid"
    path.write_text("an old and longer text")
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_it_goes_with_an_error_too(tmp_path):
    with pytest.raises(KeyError), PidFile(str(tmp_path / "pid")):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_another_process_has_it(tmp_path):
    path = tmp_path / "pid"
    words = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FileError, match="pid: another process has it"), PidFile(str(path)):
            pass
        assert path.read_text() == f"{holder.pid}\n"
        holder.communicate(b"")
    assert not path.exists()


def test_what_lies_there_by_now_stays(tmp_path):
    path = tmp_path / "pid"
    with PidFile(str(path)):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_one_that_is_removed_at_that_moment_is_made_anew(tmp_path, monkeypatch):
    """The other process ends between the opening and the lock: what was opened has no name any more."""
    path = tmp_path / "pid"
    lock = fcntl.lockf
    removed = []

    def late(descriptor, how):
        if not removed:
            removed.append(path.unlink())
        return lock(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    before = len(os.listdir("/proc/self/fd"))
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert removed
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_place_where_it_cannot_be(tmp_path):
    with pytest.raises(FileError, match=r"Is a directory .name a file, in a folder"), PidFile(str(tmp_path)):
        pass
    with pytest.raises(FileError, match=r"^-pidfile: cannot be opened"), PidFile(""):
        pass
    with pytest.raises(FileError, match="cannot be opened"), PidFile(str(tmp_path / "none" / "pid")):
        pass
