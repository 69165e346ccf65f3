"""Partition tables: what is read, and what is refused by name."""

from __future__ import annotations

import struct
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import seal_lab
from seal_lab import BIOS_BOOT, LINUX_FILESYSTEM, write_gpt

from sipl.author.partition_table import Partition, write_partition_table
from sipl.disk.image import Image
from sipl.disk.partitions import TableKind, read_partition_table
from sipl.errors import SealRefused
from sipl.reasons import SealReason

BLOCKS = 4096


class Memory(Image):
    def __init__(self, content: bytes) -> None:
        super().__init__("memory", len(content), "raw")
        self.content = content

    def read_into(self, offset, buffer):
        self._check_range(offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def close(self):
        pass


def mbr(*partitions, block_size=512, blocks=BLOCKS) -> bytearray:
    image = bytearray(blocks * block_size)
    write_partition_table(image, [Partition(*one) for one in partitions])
    return image


def gpt(*partitions, block_size=512, blocks=BLOCKS, **fields) -> bytearray:
    image = bytearray(blocks * block_size)
    write_gpt(image, block_size, partitions or [(LINUX_FILESYSTEM, 2048, 4000)], **fields)
    return image


def read(image, block_size=512):
    return read_partition_table(Memory(bytes(image)), block_size)


def refused(image, block_size=512):
    with pytest.raises(SealRefused) as caught:
        read(image, block_size)
    return caught.value.reason


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
class TestReading:
    def test_mbr(self, block_size):
        table = read(mbr((0x83, 3000, 100), (0x82, 2048, 100), block_size=block_size), block_size)
        assert (table.kind, table.end) == (TableKind.MBR, 1)
        assert table.partitions == ((2, 2048, 2147), (1, 3000, 3099))

    def test_gpt(self, block_size):
        image = gpt((LINUX_FILESYSTEM, 3000, 3100), (LINUX_FILESYSTEM, 2048, 2999), block_size=block_size)
        table = read(image, block_size)
        assert (table.kind, table.end) == (TableKind.GPT, 2 + 128 * 128 // block_size)
        assert table.partitions == ((2, 2048, 2999), (1, 3000, 3100))


def test_an_extended_partition_stands_for_all_in_it():
    assert read(mbr((0x83, 3000, 100), (0x05, 2048, 500))).partitions[0] == (2, 2048, 2547)


def test_a_larger_array_ends_later():
    image = bytearray(BLOCKS * 512)
    write_gpt(image, 512, [(LINUX_FILESYSTEM, 2048, 3900)], array_entries=256, stride=256)
    assert read(image).end == 2 + 128


def test_an_array_at_another_place():
    image = gpt(at=100)
    image[100 * 512 : 132 * 512] = image[2 * 512 : 34 * 512]
    image[2 * 512 : 34 * 512] = bytes(32 * 512)
    assert read(image).end == 132


def test_an_image_that_has_grown_or_was_cut():
    grown = gpt() + bytes(1000 * 512)
    assert read(grown).partitions == ((1, 2048, 4000),)
    image = gpt((LINUX_FILESYSTEM, 2048, 3000), last=4000, blocks=BLOCKS)
    assert read(image[: 4032 * 512]).partitions == ((1, 2048, 3000),)


def test_a_broken_backup_does_no_harm():
    image = gpt()
    image[-512:-400] = b"x" * 112
    assert read(image).end == 34


class TestRefusals:
    @pytest.mark.parametrize(
        "image",
        [
            bytearray(BLOCKS * 512),
            bytearray(512),
            bytearray(1024),
            mbr(),
            gpt((bytes(16), 0, 0)),
        ],
        ids=["nothing", "one block", "two blocks", "empty MBR", "empty GPT"],
    )
    def test_none(self, image):
        assert refused(image) is SealReason.NO_PARTITION_TABLE

    def test_a_boot_sector_of_another_kind(self):
        image = mbr((0x83, 2048, 10))
        image[446] = 0x41
        assert refused(image) is SealReason.NO_PARTITION_TABLE

    @pytest.mark.parametrize("entry", [(0, 10), (2048, 0), (BLOCKS, 1), (BLOCKS - 1, 2), (2048, 0xFFFFFFFF)])
    def test_mbr_bounds(self, entry):
        assert refused(mbr((0x83, *entry))) is SealReason.PARTITION_TABLE_INVALID

    def test_an_entry_without_type_that_has_blocks(self):
        """Linux makes a partition of it."""
        assert refused(mbr((0x83, 2048, 10), (0, 1, 100))) is SealReason.PARTITION_TABLE_INVALID
        assert len(read(mbr((0x83, 2048, 10), (0, 1, 0))).partitions) == 1

    @pytest.mark.parametrize("entry", [(33, 40), (4000, 3999), (4000, 4090), (4000, 1 << 63), (1 << 63, 1 << 63)])
    def test_gpt_bounds(self, entry):
        assert refused(gpt((LINUX_FILESYSTEM, *entry))) is SealReason.PARTITION_TABLE_INVALID

    @pytest.mark.parametrize(
        "fields",
        [
            {"crc": 1}, {"entries_crc": 1}, {"own": 2}, {"revision": 0x20000}, {"size": 91}, {"size": 513}, {"at": 1},
            {"at": 0}, {"at": 1 << 60}, {"entries": 0}, {"entries": 0xFFFFFFFF}, {"entry_size": 16},
            {"entry_size": 0xFFFFFFFF}, {"last": 1 << 40}, {"first": 5000},
        ],
    )  # fmt: skip
    def test_gpt_header(self, fields):
        assert refused(gpt(**fields)) is SealReason.PARTITION_TABLE_INVALID

    def test_two_copies_that_differ(self):
        image, other = gpt(), gpt((LINUX_FILESYSTEM, 1000, 4000))
        image[-33 * 512 :] = other[-33 * 512 :]
        assert refused(image) is SealReason.PARTITION_TABLE_INVALID

    def test_gpt_announced_and_not_there(self):
        image = gpt()
        image[512:520] = bytes(8)
        assert refused(image) is SealReason.PARTITION_TABLE_INVALID

    def test_gpt_of_another_block_size(self):
        image = gpt((LINUX_FILESYSTEM, 100, 200), block_size=4096, blocks=1024)
        with pytest.raises(SealRefused, match="4096") as caught:
            read(image, 512)
        assert caught.value.reason is SealReason.PARTITION_TABLE_INVALID

    def test_hybrid(self):
        image = gpt()
        struct.pack_into("<B3xB3xII", image, 462, 0, 0x83, 2048, 100)
        assert refused(image) is SealReason.PARTITION_TABLE_HYBRID

    def test_gpt_that_nobody_announces(self):
        image = gpt()
        write_partition_table(image, [Partition(0x83, 2048, 100)])
        assert refused(image) is SealReason.PARTITION_TABLE_HYBRID

    @pytest.mark.parametrize("make", [mbr, gpt])
    @pytest.mark.parametrize("second", [(2100, 2300), (2048, 2048), (2199, 3000), (2050, 2060)])
    def test_overlap(self, make, second):
        first, last = second
        if make is mbr:
            image = mbr((0x83, 2048, 152), (0x83, first, last - first + 1))
        else:
            image = gpt((LINUX_FILESYSTEM, 2048, 2199), (LINUX_FILESYSTEM, first, last))
        assert refused(image) is SealReason.PARTITIONS_OVERLAP

    def test_bios_boot_area(self):
        image = gpt((LINUX_FILESYSTEM, 3000, 4000), (BIOS_BOOT, 2048, 2100))
        assert refused(image) is SealReason.BIOS_BOOT_AREA


HEADERS = [bytes(mbr((0x83, 64, 30), blocks=128)), bytes(gpt((LINUX_FILESYSTEM, 64, 70), blocks=128))]


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from(HEADERS),
    changes=st.lists(st.tuples(st.integers(0, 2048), st.binary(min_size=1, max_size=8)), max_size=4),
    fix=st.booleans(),
)
def test_any_bytes(base, changes, fix):
    """A table, or a refusal; and a table has room for what it says."""
    image = bytearray(base)
    for offset, data in changes:
        image[offset : offset + len(data)] = data
    if fix:
        import zlib

        image[528:532] = bytes(4)
        struct.pack_into("<I", image, 528, zlib.crc32(image[512 : 512 + 92]))
    try:
        table = read(bytes(image[:65536]))
    except SealRefused:
        return
    assert table.partitions
    ends = [(p.first, p.last) for p in table.partitions]
    assert ends == sorted(ends)
    assert all(0 < first <= last < 128 for first, last in ends)
    assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert 1 <= table.end <= 128


def test_tables_that_tools_make(need_tool, tmp_path):
    """sfdisk's own MBR and GPT."""
    tool = need_tool("sfdisk", "fdisk")
    import subprocess

    for label, kind in (("dos", TableKind.MBR), ("gpt", TableKind.GPT)):
        path = tmp_path / label
        path.write_bytes(bytes(8 << 20))
        script = f"label: {label}\nstart=2048, size=4096\nstart=8192, size=2048\n"
        subprocess.run([tool, "-q", path], input=script, text=True, check=True, capture_output=True)
        table = read(path.read_bytes())
        assert table.kind is kind
        assert [(p.first, p.last) for p in table.partitions] == [(2048, 6143), (8192, 10239)]


def test_tables_of_real_disks(shared):
    from sipl.disk.open import open_image

    for name, size in (("good", 512), ("good4k", 4096), ("unsigned", 512)):
        with open_image(str(shared / "disks" / f"{name}.qcow2")) as image:
            table = read_partition_table(image, size)
        assert table.kind is TableKind.MBR
        assert table.partitions[0].first == (1 << 20) // size


def test_the_laboratory_s_disks():
    for table in ("mbr", "gpt"):
        found = read(seal_lab.disk(table=table))
        assert found.partitions[0].first == seal_lab.FIRST
