"""Disks as the author writes them, read back by a reader that follows the firmware's rules and shares no code."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.author import boot_record
from sipl.author.boot_record import DiskWriter, Execute, Load, Program, write_disk
from sipl.errors import UsageError
from sipl.layout.boot_record import BlockPointer

BLOCK_SIZES = [512, 1024, 2048, 4096]
PSW = 0x000800008000A000


class Reader:
    """Walks a boot record as the firmware does: one block into a 16 KiB buffer of 0xAA for each table."""

    def __init__(self, image, block_size):
        self.image = bytes(image)
        self.bs = block_size
        self.tables = 0

    def block(self, number):
        assert 0 < number * self.bs < len(self.image)
        data = self.image[number * self.bs : (number + 1) * self.bs]
        assert len(data) == self.bs
        return data + b"\xaa" * (16384 - self.bs)

    def programs(self):
        magic, version, zero, block, size, count = struct.unpack_from(">4sI8sQHH", self.image)
        assert (magic, version, zero, size, count) == (b"zIPL", 1, bytes(8), self.bs, 0)
        assert not any(self.image[32:0x98])
        table = self.block(block)
        assert table[:16] == b"zIPL" + bytes(12)
        return [struct.unpack_from(">Q", table, 16 + 16 * i)[0] for i in range(31)]

    def components(self, block):
        """[(type, data or b"", value)] up to the EXEC entry."""
        table = self.block(block)
        assert table[:4] == b"zIPL"
        assert table[4:32] == bytes(28)
        found = []
        for offset in range(32, self.bs, 32):
            first, kind, value = struct.unpack_from(">Q15xB8s", table, offset)
            if kind == 1:
                assert table[offset : offset + 16] == bytes(16)
                return [*found, (1, b"", value)]
            found.append((kind, self.segment(first), value))
        raise AssertionError("no EXEC entry")

    def segment(self, number):
        data = b""
        self.tables = 0
        while True:
            table = self.block(number)
            self.tables += 1
            for slot in range(256):
                block, size, count = struct.unpack_from(">QHH", table, 16 * slot)
                if block == 0:
                    return data
                behind = table[16 * slot + 16 : 16 * slot + 32]
                if slot == 255 or (count == 0 and behind == b"\xaa" * 16):
                    number = block
                    break
                assert size == self.bs
                piece = self.image[block * self.bs : (block + count + 1) * self.bs]
                assert len(piece) == (count + 1) * self.bs
                data += piece


def padded(data, block_size):
    return data + bytes(-len(data) % block_size)


components = st.builds(
    Load,
    st.integers(0, 2**64 - 1),
    st.binary(max_size=20000).filter(any) | st.integers(0, 40000).map(lambda n: b"\xaa" * n),
    st.none() | st.binary(min_size=1, max_size=6000),
    st.integers(0, 255),
    st.none() | st.integers(0, 2**32 - 1),
)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(BLOCK_SIZES), st.booleans())
def test_what_is_written_is_read_back(data, block_size, merged):
    lists = data.draw(st.lists(st.none() | st.lists(components, min_size=1, max_size=6), max_size=3))
    programs = [c and Program([*c, Execute(PSW + i)], merged=merged) for i, c in enumerate(lists)]
    reader = Reader(write_disk(programs, block_size), block_size)
    blocks = reader.programs()
    assert not any(blocks[len(programs) :])
    for program, block in zip(programs, blocks, strict=False):
        if not program:
            assert block == 0
            continue
        expected = []
        for c in program.components[:-1]:
            if c.signature is not None:
                length = len(c.signature) if c.signature_length is None else c.signature_length
                info = struct.pack(">B3xI", c.signature_format, length)
                expected.append((3, padded(c.signature, block_size), info))
            expected.append((2, padded(c.data, block_size), struct.pack(">Q", c.address)))
        expected.append((1, b"", struct.pack(">Q", program.components[-1].psw)))
        assert reader.components(block) == expected


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("tables", [1, 2, 3])
def test_segments_of_several_tables(block_size, extra, tables):
    blocks = tables * (block_size // 16 - 1) + extra
    data = b"".join(struct.pack(">I", n) * (block_size // 4) for n in range(1, blocks + 1))
    writer = DiskWriter(block_size)
    first = writer.append_segment_tables(writer.append(data, merged=False))
    reader = Reader(writer.finish(), block_size)
    assert reader.segment(first.block) == data
    assert reader.tables == tables + (extra > 0)
    # The table that the pointer leads to is the one that was written last, and full if there are more.
    assert first.block == writer.next_block - 1


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_merged_blocks_take_one_pointer(block_size):
    writer = DiskWriter(block_size)
    assert writer.append(bytes(10 * block_size - 1)) == [BlockPointer(1, block_size, 9)]
    assert writer.append(bytes(2 * block_size), merged=False) == [
        BlockPointer(11, block_size, 0),
        BlockPointer(12, block_size, 0),
    ]
    assert writer.append(b"") == []


def test_pointer_counts_end_where_zipl_ends_them(monkeypatch):
    assert boot_record.MAX_MERGED_BLOCKS == 65535
    monkeypatch.setattr(boot_record, "MAX_MERGED_BLOCKS", 3)
    assert [p.count_less_one for p in DiskWriter(512).append(bytes(7 * 512))] == [2, 2, 0]


def test_entry_0_shares_the_table_of_the_default():
    default = Program([Load(0x10000, b"a"), Execute(PSW)])
    other = Program([Load(0x10000, b"b"), Execute(PSW)])
    blocks = Reader(write_disk([default, None, other, default], 512), 512).programs()
    assert blocks[0] == blocks[3] != blocks[2] != 0
    assert blocks[1] == 0


def test_rest_of_block_0_is_left_as_found():
    writer = DiskWriter(512)
    writer.image[:] = b"\x5a" * 512
    writer.write_boot_record(BlockPointer(7, 512, 0), magic=b"zipl", version=2)
    image = writer.finish(1024)
    assert image[:32] == b"zipl" + struct.pack(">I8xQHH4x", 2, 7, 512, 0)
    assert not any(image[32:0x98])
    assert image[0x98:512] == b"\x5a" * (512 - 0x98)
    assert len(image) == 1024


def test_any_field_can_be_overridden():
    writer = DiskWriter(512)
    pointers = [p._replace(size=1024, block=p.block + (1 << 32)) for p in writer.append(b"data")]
    segment = writer.append_segment_tables(pointers)
    entry, *_ = writer.add_component(Load(0x1234, b"x"))
    changed = [entry._replace(type=4), entry._replace(value=b"\xff" * 8)]
    table = writer.append_component_table(changed, table_type=1, magic=b"none")
    program_table = writer.append_program_table([None, table._replace(count_less_one=3)], magic=b"NONE")
    writer.write_boot_record(program_table)
    image = writer.finish()

    def at(block, offset, fmt):
        return struct.unpack_from(fmt, image, block * 512 + offset)

    assert at(segment.block, 0, ">QHH") == ((1 << 32) + 1, 1024, 0)
    assert at(table.block, 0, ">4sB") == (b"none", 1)
    assert at(table.block, 32 + 23, ">BQ") == (4, 0x1234)
    assert at(table.block, 64 + 23, ">B8s") == (2, b"\xff" * 8)
    assert at(program_table.block, 0, ">4s") == (b"NONE",)
    assert at(program_table.block, 16, ">QHH") == (0, 0, 0)
    assert at(program_table.block, 32, ">QHH") == (table.block, 512, 3)


def test_a_table_is_full_at_15_entries_of_512_bytes():
    entries = [Load(0x2000, b"")] * 14
    assert write_disk([Program([*entries, Execute(PSW)])], 512)
    with pytest.raises(UsageError, match="16 entries do not fit"):
        write_disk([Program([*entries, Load(0x2000, b""), Execute(PSW)])], 512)
    assert write_disk([Program([*entries, Load(0x2000, b""), Execute(PSW)])], 1024)


def test_program_table_has_31_entries_whatever_the_block_size():
    program = Program([Execute(PSW)])
    assert all(Reader(write_disk([program] * 31, 4096), 4096).programs())
    with pytest.raises(UsageError, match="32 programs are too many"):
        write_disk([program] * 32, 4096)


@pytest.mark.parametrize("block_size", [0, 256, 513, 8192, -512])
def test_other_block_sizes_are_refused(block_size):
    with pytest.raises(UsageError, match="is not possible"):
        write_disk([], block_size)


@pytest.mark.parametrize("size", [512, 1500, 0])
def test_impossible_disk_sizes_are_refused(size):
    with pytest.raises(UsageError, match=f"{size} is not possible"):
        write_disk([Program([Execute(PSW)])], 512, size)


@pytest.mark.parametrize(
    "component",
    [
        Load(-1, b""),
        Load(1 << 64, b""),
        Execute(1 << 64),
        Load(0, b"", b"s", signature_format=256),
        Load(0, b"", b"s", signature_length=-1),
    ],
)
def test_values_without_a_field_are_refused(component):
    with pytest.raises(UsageError):
        write_disk([Program([component])], 512)


def test_append_block_takes_one_block_only():
    with pytest.raises(UsageError, match="513 bytes do not fit"):
        DiskWriter(512).append_block(bytes(513))
