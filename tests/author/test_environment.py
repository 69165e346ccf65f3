"""Environment blocks and what the loader makes of a command line with them."""

from __future__ import annotations

import pytest

from sipl.author.environment import build_environment, expand, parse_variable, read_environment
from sipl.errors import FileError, UsageError


def test_block_is_what_zipl_writes():
    assert build_environment({}) == b"# zIPL Environment Block\n".ljust(4096, b"\0")
    block = build_environment({"ROOT": "/dev/vda1", "EMPTY": ""}, 100)
    assert block == b"# zIPL Environment Block\nROOT=/dev/vda1\nEMPTY=\n".ljust(100, b"\0")


@pytest.mark.parametrize("name", ["", "a", "1A", "A-B", "A B", "Ä", "A\n"])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="no name"):
        build_environment({name: "x"})


@pytest.mark.parametrize("value", ["a\nb", "\x1b[0m", "ä", "\0"])
def test_values_that_are_not_possible(value):
    with pytest.raises(UsageError, match="printable ASCII"):
        build_environment({"A": value})


def test_limits():
    assert len(build_environment({f"V{n}": "" for n in range(512)})) == 4096
    with pytest.raises(UsageError, match="513 variables"):
        build_environment({f"V{n}": "" for n in range(513)})
    fits = 4096 - 25 - len("A=\n")
    assert build_environment({"A": "x" * fits})[-1:] == b"\n"
    with pytest.raises(UsageError, match="4097 bytes"):
        build_environment({"A": "x" * (fits + 1)})


def test_expand():
    assert expand("a${A}b${NO}c${E} $A ${ ${} ${a}", {"A": "1", "E": ""}) == "a1bc $A ${ ${} ${a}"
    assert expand("${A}", {"A": "${B}", "B": "x"}) == "${B}"


def test_file(tmp_path):
    path = tmp_path / "env"
    path.write_text("# comment\n\nA=1\nB=a=b\nA=2\n")
    assert read_environment(str(path)) == {"A": "2", "B": "a=b"}
    path.write_text("A\n")
    with pytest.raises(UsageError, match="sets nothing"):
        read_environment(str(path))
    path.write_bytes(b"A=\xff\n")
    with pytest.raises(UsageError, match="not ASCII"):
        read_environment(str(path))
    with pytest.raises(FileError):
        read_environment(str(tmp_path / "none"))


def test_variable():
    assert parse_variable("A=b=c") == ("A", "b=c")
    with pytest.raises(UsageError):
        parse_variable("A")
