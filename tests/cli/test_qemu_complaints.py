"""QEMU's standard error: whole lines, and one sentence for what comes a million times."""

from __future__ import annotations

import io

import pytest

from sipl.cli.qemu_complaints import QemuComplaints

WARNING = b"qemu-system-s390x: -mon chardev=sipl-qmp,mode=control: warning: '-mon' is deprecated\n"
NO_HOLE = b"qemu-system-s390x: ram_block_discard_range: Failed to fallocate sipl-ram:%x +1000 (-1)\n"


@pytest.fixture
def told():
    return io.StringIO()


@pytest.fixture
def complaints(told):
    return QemuComplaints(told)


def test_lines_are_whole(complaints, told):
    complaints.take(b"one\ntw")
    assert told.getvalue() == "one\n"
    complaints.take(b"o\n\xff")
    assert told.getvalue() == "one\ntwo\n"
    complaints.finish()
    complaints.finish()
    assert told.getvalue() == "one\ntwo\n\\xff\n"


def test_a_line_without_end_is_told_in_parts(complaints, told):
    for _ in range(3):
        complaints.take(b"x" * 40_000)
    assert told.getvalue() == "x" * 80_000


def test_of_what_sipl_has_added_nobody_is_warned(complaints, told):
    others = WARNING.replace(b"sipl-qmp", b"mine")
    complaints.take(b"one\n" + WARNING + others)
    complaints.take(b"-mon chardev=sipl-qmp: Failed\n")
    assert told.getvalue() == f"one\n{others.decode()}-mon chardev=sipl-qmp: Failed\n"


@pytest.mark.parametrize("name", [b"range", b"shared_range"])
def test_pages_that_are_not_given_back(complaints, told, capsys, name):
    line = NO_HOLE.replace(b"range", name)  # as 7.2 and 11.1 call it
    flood = b"before\n" + b"".join(line % page for page in range(1000)) + b"behind\n"
    for at in range(0, len(flood), 1000):
        complaints.take(flood[at : at + 1000])
    assert told.getvalue() == "before\nbehind\n"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a balloon" in said
