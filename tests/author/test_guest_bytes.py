"""The checked-in bytes of the demo guest: made of the source, small, and with the SCLABs that they need."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from sipl.author import guest

FOLDER = Path(guest.__file__).parent


def test_bytes_match_the_source(need_tool, tmp_path):
    need_tool("s390x-linux-gnu-as", "binutils-s390x-linux-gnu")
    subprocess.run(["sh", FOLDER / "build", tmp_path], check=True, timeout=60)
    for name in ("loader.bin", "kernel.bin"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), f"run {FOLDER / 'build'}"


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_components_end_with_their_sclab(block_size):
    loader = guest.loader_component(block_size)
    kernel = guest.kernel_component(block_size)
    assert len(loader) % block_size == len(kernel) % block_size == 0
    assert loader.startswith(guest.loader())
    assert kernel.startswith(guest.kernel())
    assert struct.unpack(">B1xH4xQQ2xH4s", loader[-32:]) == (0, 0xC000, 0x000800008000A000, 0xA000, 32, b"zIPL")
    assert kernel[-32:] == bytes(26) + b"\x00\x20zIPL"


@pytest.mark.parametrize("block_size", [512, 4096])
def test_components_are_small_and_apart(block_size):
    assert len(guest.kernel_component(block_size)) <= 4096
    # What zipl's own loader has is 0x4000 bytes: ours must not be taken for it.
    assert len(guest.loader_component(block_size)) <= 4096


def test_each_end_has_its_psw():
    code = {"loader": guest.loader(), "kernel": guest.kernel()}
    assert len(set(guest.End)) == 8
    for end in guest.End:
        psw = struct.pack(">QQ", 0x0002000180000000, end)
        where = "loader" if end in range(0xBAD001, 0xBAD010) else "kernel"
        assert code[where].count(psw) == 1, end.name
        assert code[where].index(psw) % 8 == 0


def test_table_turns_texts_into_ebcdic():
    table = guest.kernel().partition(b"0123456789ABCDEF")[2][:96]
    assert len(set(table)) == 96
    for character in map(chr, range(0x20, 0x7F)):
        if character not in "[]^|!":  # code page 037, which Python has, differs from 1047 in these
            assert table[ord(character) - 0x20] == character.encode("cp037")[0], character
