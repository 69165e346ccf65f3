"""Splitting a command line into options and values."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.qemu_command import words
from sipl.qemu_command.words import MAX_WORD_LENGTH, MAX_WORDS, Word, known_options, split, takes_value


def test_options_with_one_dash_or_two():
    line = split(["-S", "--nodefaults", "-m", "1G", "--name", "x", "disk.img", "-M", "s390-ccw-virtio", "-h"])
    assert line.words == (
        Word("S"),
        Word("nodefaults"),
        Word("m", "1G"),
        Word("name", "x"),
        Word("", "disk.img"),
        Word("machine", "s390-ccw-virtio"),
        Word("help"),
    )
    assert line.fault is None
    assert line.rest == ("-S", "--nodefaults", "-m", "1G", "--name", "x", "disk.img", "-M", "s390-ccw-virtio", "-h")


def test_a_value_is_the_next_word_whatever_it_looks_like():
    line = split(["-name", "--native", "-append", "-S"])
    assert line.words == (Word("name", "--native"), Word("append", "-S"))
    assert not line.own.native


def test_own_options_are_taken_out():
    line = split(["--native", "-S", "--at", "@5", "--allow-unpack", "x.img", "--allow-backing", "--no-has-secure"])
    assert line.rest == ("-S", "x.img")
    assert line.own == words.OwnOptions(native=True, allow_unpack=True, allow_backing=True, has_secure=False, at="@5")
    assert split([]).own == words.OwnOptions()


def test_own_options_have_two_dashes():
    line = split(["-native"])
    assert line.fault is not None
    assert not line.own.native


@pytest.mark.parametrize("text", ["-nonsense", "---S", "-", "--", "-m=1G", "-smp=2", "-Machine"])
def test_what_is_not_known_ends_the_words(text):
    line = split(["-S", text, "-m", "1G"])
    assert line.words == (Word("S"),)
    assert line.rest == ("-S", text, "-m", "1G")
    assert str(line.fault).startswith(f"{text}: there is no such option")


def test_equals_sign_is_explained():
    assert "word of its own" in str(split(["-m=1G"]).fault)


def test_value_is_missing():
    line = split(["-S", "-m"])
    assert str(line.fault) == "-m: the value is missing (write it as the next word)"
    assert line.rest == ("-S", "-m")
    with pytest.raises(UsageError, match="--at: the value is missing"):
        split(["--at"])


def test_limits():
    assert split(["-name", "x" * MAX_WORD_LENGTH]).fault is None
    for argv in (["-S"] * (MAX_WORDS + 1), ["-name", "x" * (MAX_WORD_LENGTH + 1)]):
        with pytest.raises(UsageError, match="command line"):
            split(argv)


@given(
    st.lists(
        st.sampled_from(["-S", "--m", "-m", "-x", "--native", "--at", "1G", "-", "", "disk", "--help"]), max_size=8
    )
)
def test_no_word_is_lost(argv):
    try:
        line = split(argv)
    except UsageError:
        assert argv[-1] == "--at"
        return
    spent = sum(1 + takes_value(word.option) for word in line.words)
    assert spent <= len(line.rest)
    assert spent == len(line.rest) or line.fault is not None
    own = line.own.native + 2 * bool(line.own.at)
    assert len(line.rest) + own <= len(argv)


def test_the_table_is_that_of_the_installed_qemu(need_tool):
    """Every option that its help shows is known, and takes a value or does not as shown there."""
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
    text = subprocess.run([qemu, "-help"], capture_output=True, text=True, check=True).stdout
    shown = {}
    for line in text.splitlines():
        found = re.match(r"--?([A-Za-z][A-Za-z0-9_-]*)(?: ([^ ]\S*))?", line)
        if found:
            shown.setdefault(found[1], bool(found[2]))
    assert len(shown) > 90
    # Those that the help shows otherwise: with a text behind one blank, or two in a line.
    for name in ("h", "async-teardown", "dtb", "fda", "hda", "hdc"):
        shown.pop(name, None)
    assert {name for name in shown if name not in known_options()} == set()
    wrong = {name for name, value in shown.items() if takes_value(name) != value}
    assert wrong == set()
