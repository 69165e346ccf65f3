"""A real firmware's image: what is read of it, how it is placed, and what is refused."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import elf_lab
from elf_lab import CODE, DATA, DYNAMIC, END, LOAD, RELA, RELA_ENTRY, RELA_SIZE, RELOCATIONS, firmware, segment

from sipl.errors import ImageError, ImageFormatError, RefusedToStart
from sipl.layout.iplb import IplbFlags
from sipl.machine.firmware_image import (
    MAX_DYNAMIC_ENTRIES,
    MAX_FILE_SIZE,
    MAX_IMAGE_SIZE,
    MAX_SEGMENTS,
    check_trust,
    parse_firmware,
    read_firmware,
)
from sipl.machine.memory import GuestMemory
from sipl.reasons import Level, Reason

BASE = 0x700000
DEBIAN = Path("/usr/share/qemu/s390-ccw.img")
GOOD = firmware(b"\x07\x07\x07\xfe")


@pytest.fixture
def memory():
    memory = GuestMemory(16 << 20)
    memory.view[:] = b"\xff" * memory.size
    yield memory
    memory.close()


class TestPlace:
    def test_segments_lie_at_their_addresses_and_what_is_not_in_the_file_is_zero(self, memory):
        parse_firmware(GOOD, "fw").place(memory, BASE)
        assert memory.read(BASE + CODE, 4) == bytes.fromhex("070707fe")
        assert memory.read(BASE + DATA + 16, 16) == b"\x5a" * 16
        assert memory.read(BASE + 0x2000, 0x1000) == bytes(0x1000)
        assert memory.read(BASE + END, 8) == b"\xff" * 8
        assert memory.read(BASE - 8, 8) == b"\xff" * 8

    def test_relocations_are_the_base_and_the_addend(self, memory):
        parse_firmware(GOOD, "fw").place(memory, BASE)
        assert struct.unpack(">QQ", memory.read(BASE + DATA, 16)) == (BASE + 0x1008, BASE - 16)

    def test_the_psw_is_the_entry_in_64_bit_mode(self, memory):
        assert parse_firmware(GOOD, "fw").place(memory, BASE) == 0x0008000180000000 | BASE + CODE

    def test_it_can_be_placed_again(self, memory):
        image = parse_firmware(GOOD, "fw")
        image.place(memory, BASE)
        before = memory.read(BASE, END)
        memory.write(BASE + DATA, b"\x11" * 0x2000)
        image.place(memory, BASE)
        assert memory.read(BASE, END) == before

    def test_without_relocations(self, memory):
        for data in (firmware(targets=()), firmware(dynamic=[]), firmware(kind=0)):
            parse_firmware(data, "fw").place(memory, BASE)
            assert memory.read(BASE + DATA, 16) == bytes(16)

    def test_the_order_of_segments_does_not_matter(self, memory):
        parts = [segment(LOAD, DATA, DATA, 0x240, 0x2000), segment(LOAD, 0, 0, DATA)]
        parts.append(segment(DYNAMIC, elf_lab.DYNAMIC_AT, elf_lab.DYNAMIC_AT, 0x40))
        parse_firmware(firmware(segments=parts), "fw").place(memory, BASE)
        assert memory.read(BASE + DATA, 8) == (BASE + 0x1008).to_bytes(8, "big")


MANY = [(0x6FFFFFFF - n, 0) for n in range(MAX_DYNAMIC_ENTRIES)]
REFUSED = {
    "no ELF": (b"MZ" + GOOD[2:], "no ELF file"),
    "empty": (b"", "no ELF file"),
    "32 bits": (firmware(size=1), "64-bit"),
    "little endian": (firmware(order=1), "big-endian"),
    "x86-64": (firmware(machine=62), "ELF machine 62"),
    "fixed address": (firmware(type=2), "not position independent"),
    "header cut off": (GOOD[:40], "cut off"),
    "program headers cut off": (GOOD[:100], "cut off"),
    "program headers elsewhere": (firmware(at=1 << 60), "cut off"),
    "program headers of another size": (firmware(header_size=55), "55 bytes"),
    "no segment": (firmware(count=0), "0 segments"),
    "too many segments": (firmware(count=MAX_SEGMENTS + 1), f"{MAX_SEGMENTS + 1} segments"),
    "entry before code": (firmware(entry=END - 2), "lies in none"),
    "entry at the end": (firmware(entry=1 << 63), "lies in none"),
    "odd entry": (firmware(entry=CODE + 1), "odd"),
    "segment cut off": (GOOD[: DATA + 16], "not all there"),
    "segment outside of the file": (firmware(segments=[segment(LOAD, 1 << 62, 0, 16)]), "not all there"),
    "overlap": (firmware(segments=[segment(LOAD, 0, 0, 512), segment(LOAD, 0, 511, 16)]), "overlap at 0x1ff"),
    "too large": (firmware(segments=[segment(LOAD, 0, 0, 512, MAX_IMAGE_SIZE + 1)]), "there is room"),
    "wraps around": (firmware(segments=[segment(LOAD, 0, (1 << 64) - 8, 16)]), "there is room"),
    "longer in the file": (firmware(segments=[segment(LOAD, 0, 0, 512, 511)]), "longer in the file"),
    "relocation with symbol": (firmware(kind=22), "type 22"),
    "relocation outside": (firmware(targets=[(END - 7, 0)]), f"{END - 7:#x} lies outside"),
    "relocation far outside": (firmware(targets=[((1 << 64) - 8, 0)]), "lies outside"),
    "relocations outside": (firmware(dynamic=[(RELA, END), (RELA_SIZE, 24)]), "lie outside"),
    "relocations of another size": (firmware(dynamic=[(RELA, RELOCATIONS), (RELA_SIZE, 25)]), "another size"),
    "entries of another size": (
        firmware(dynamic=[(RELA, RELOCATIONS), (RELA_SIZE, 48), (RELA_ENTRY, 16)]),
        "another size",
    ),
    "REL": (firmware(dynamic=[(17, RELOCATIONS)]), "does not know"),
    "RELR": (firmware(dynamic=[(36, RELOCATIONS)]), "does not know"),
    "procedure linkage table": (firmware(dynamic=[(2, 24), (23, RELOCATIONS)]), "does not know"),
    "two tables": (firmware(dynamic=[(RELA, RELOCATIONS), (RELA, RELOCATIONS)]), "two dynamic entries"),
    "dynamic section without an end": (
        firmware(segments=[segment(LOAD, 0, 0, DATA), segment(DYNAMIC, RELOCATIONS, RELOCATIONS, 16)]),
        "cut off",
    ),
    "endless dynamic section": (
        firmware(dynamic=MANY),
        f"more than {MAX_DYNAMIC_ENTRIES}",
    ),
}


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_by_its_content(self, name):
        data, why = REFUSED[name]
        with pytest.raises(ImageFormatError, match=re.escape(why)) as refused:
            parse_firmware(data, "some.img")
        assert str(refused.value).startswith("some.img: ")
        assert refused.value.reason is Reason.IMAGE_INVALID

    def test_by_its_size(self, tmp_path):
        path = tmp_path / "large.img"
        path.write_bytes(GOOD)
        with path.open("r+b") as file:
            file.truncate(MAX_FILE_SIZE + 1)
        with pytest.raises(ImageFormatError, match="not more than 16 MiB"):
            read_firmware(str(path))

    def test_that_is_not_there(self, tmp_path):
        with pytest.raises(ImageError, match="cannot be opened"):
            read_firmware(str(tmp_path / "none.img"))

    def test_largest_that_fits(self):
        data = firmware(segments=[segment(LOAD, 0, 0, DATA, MAX_IMAGE_SIZE)])
        assert len(parse_firmware(data, "fw").content) == MAX_IMAGE_SIZE

    @settings(max_examples=300, deadline=2000)
    @given(
        places=st.lists(
            st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
            | st.tuples(st.integers(0, 232), st.just(255)),
            max_size=12,
        ),
        end=st.integers(0, len(GOOD)) | st.just(len(GOOD)),
    )
    def test_whatever_it_holds(self, places, end):
        data = bytearray(GOOD)
        for at, byte in places:
            data[at] = byte
        try:
            image = parse_firmware(bytes(data[:end]), "fw")
        except ImageFormatError:
            return
        assert 0 <= image.entry < len(image.content) <= MAX_IMAGE_SIZE
        assert all(0 <= address <= len(image.content) - 8 for address, _ in image.relocations)


class TestTrust:
    @pytest.mark.parametrize("flags", [IplbFlags.IPLIR, IplbFlags.SIPL | IplbFlags.IPLIR])
    def test_refused_where_something_is_to_be_verified(self, flags):
        said = []
        with pytest.raises(RefusedToStart) as refused:
            check_trust("fw", flags, lambda *words: said.append(words), trusted=False)
        assert (refused.value.reason, said) == (Reason.FIRMWARE_NOT_TRUSTED, [])

    @pytest.mark.parametrize(
        ("flags", "trusted", "level"),
        [(0, False, Level.INFO), (0, True, Level.INFO), (IplbFlags.IPLIR, True, Level.WARNING)],
    )
    def test_who_decides_is_said(self, flags, trusted, level):
        said = []
        check_trust("fw", IplbFlags(flags), lambda *words: said.append(words), trusted=trusted)
        (words,) = said
        assert words[:3] == (Reason.FIRMWARE_DECIDES, level, "fw")
        assert "vouches for nothing" in words[3]


class TestDebian:
    @pytest.fixture
    def image(self):
        if not DEBIAN.is_file():
            pytest.skip(f"{DEBIAN} is missing (apt-get install qemu-system-data)")
        return read_firmware(str(DEBIAN))

    def test_as_readelf_sees_it(self, image, need_tool):
        words = [need_tool("readelf", "binutils"), "--wide", "--file-header", "--relocs", str(DEBIAN)]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        rows = re.findall(r"^([0-9a-f]{16}) +[0-9a-f]+ R_390_RELATIVE +([0-9a-f]+)$", text, re.MULTILINE)
        assert len(rows) > 3
        assert image.relocations == tuple((int(address, 16), int(addend, 16)) for address, addend in rows)
        assert image.entry == int(re.search(r"Entry point address: +(0x[0-9a-f]+)", text)[1], 16)
