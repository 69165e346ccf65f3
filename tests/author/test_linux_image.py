"""What is taken for a kernel, and what it says about itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from linux_lab import VERSION, tiny_linux

from sipl.author.linux_image import read_linux_image
from sipl.errors import UsageError


def test_version_and_room():
    image = read_linux_image(tiny_linux(), "k")
    assert image.version == VERSION.decode()
    assert image.command_line_size == 256
    assert read_linux_image(tiny_linux(command_line_size=0), "k").command_line_size == 896


def test_version_that_is_nowhere():
    kernel = bytearray(tiny_linux())
    kernel[0x10428:0x10430] = b"\xff" * 8
    assert read_linux_image(bytes(kernel), "k").version == ""
    kernel[0x10428:0x10430] = (0x8000).to_bytes(8, "big")
    kernel[0x8000:0x8004] = b"a\x1b\xffb"
    assert read_linux_image(bytes(kernel), "k").version.startswith("a\\x1b\ufffdb")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "S390EP is not where"),
        (b"\x7fELF" + bytes(0x20000), "ELF"),
        (b"\x1f\x8b" + bytes(0x20000), "gzip"),
        (tiny_linux(magic=b"S390EX"), "S390EP is not where"),
        (tiny_linux()[:0x10400], "ends too early"),
        (tiny_linux(command_line_size=0x13000 - 0x10480 + 1), "behind its end"),
    ],
    ids=["empty", "elf", "gzip", "magic", "cut", "area"],
)
def test_what_is_none(data, why):
    with pytest.raises(UsageError, match=f"^vmlinuz: .*{why}"):
        read_linux_image(data, "vmlinuz")


@given(st.binary(min_size=56, max_size=56), st.integers(0x10480, 0x13000))
@settings(max_examples=100)
def test_any_area(area, size):
    kernel = bytearray(tiny_linux())
    kernel[0x10400:0x10438] = area
    try:
        image = read_linux_image(bytes(kernel[:size]), "k")
    except UsageError:
        return
    assert 0x10480 + image.command_line_size <= size
    assert len(image.version) <= 4 * 512
    assert image.version.isprintable()
