"""The checked-in bytes of sipl's own loader: made of the source, in their place, with the attributes they need."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from sipl.author import loader

FOLDER = Path(loader.__file__).parent


def test_bytes_match_the_source(need_tool, tmp_path):
    need_tool("s390x-linux-gnu-as", "binutils-s390x-linux-gnu")
    subprocess.run(["sh", FOLDER / "build", tmp_path], check=True, timeout=60)
    assert (tmp_path / "loader.bin").read_bytes() == (FOLDER / "loader.bin").read_bytes(), f"run {FOLDER / 'build'}"


@pytest.mark.parametrize(("closed", "flags"), [(False, 0xC000), (True, 0xE000)])
def test_component_ends_with_the_global_sclab(closed, flags):
    component = loader.component(closed=closed)
    assert len(component) == 0x4000
    assert component.startswith(loader.code())
    assert struct.unpack(">B1xH4xQQ2xH4s", component[-32:]) == (0, flags, 0x000800008000A000, 0xA000, 32, b"zIPL")


def test_closed_differs_in_one_signed_bit():
    pairs = zip(loader.component(), loader.component(closed=True), strict=True)
    assert [(number, a ^ b) for number, (a, b) in enumerate(pairs) if a != b] == [(0x3FE2, 0x20)]


def test_code_leaves_room_for_what_the_loader_writes():
    """The copy of the parameter block at 0xC000, and the saved PSW at 0xD000."""
    assert len(loader.code()) <= 0x2000
    assert not any(loader.component()[0x2000:0x3FE0])


def test_says_what_it_is():
    assert loader.code()[4:].startswith(b"sipl loader 1\0")


def test_each_end_has_its_psw():
    code = loader.code()
    assert len(set(loader.End)) == 17
    for end in loader.End:
        psw = struct.pack(">QQ", 0x0002000180000000, end)
        assert code.count(psw) == 1, end.name
        assert code.index(psw) % 8 == 0
        assert end % 2 == 0
    assert code.count(struct.pack(">Q", 0x0002000180000000)) == len(loader.End)


def test_each_end_is_documented():
    page = (FOLDER.parents[3] / "docs" / "formats" / "loader.md").read_text("utf-8")
    for end in loader.End:
        assert f"| 0x{end:06X} | `{end.name}` |" in page, end.name
