"""The room in front of the first partition: free where it is zero or provably ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from seal_lab import LINUX_FILESYSTEM, write_gpt

from sipl.author.partition_table import Partition, write_partition_table
from sipl.disk.free_room import MAX_ROOM, find_frames, find_free_room
from sipl.disk.open import open_image
from sipl.disk.seal_frames import make_header, most_blocks, read_header
from sipl.errors import SealRefused
from sipl.reasons import SealReason

FIRST = 256


@pytest.fixture
def room(tmp_path):
    """Makes a disk, lets it be changed, and looks for room."""
    path = tmp_path / "disk.raw"

    def find(change=lambda image: None, block_size=512, first=FIRST, table="mbr", blocks=1024):
        image = bytearray(blocks * block_size)
        if table == "mbr":
            write_partition_table(image, [Partition(0x83, first, blocks - first)])
        else:
            write_gpt(image, block_size, [(LINUX_FILESYSTEM, first, blocks - 100)])
        change(image)
        path.write_bytes(image)
        with open_image(path) as opened:
            return find_free_room(opened, block_size)

    return find


def reason(find, *arguments, **how):
    with pytest.raises(SealRefused) as caught:
        find(*arguments, **how)
    return caught.value.reason


def put(offset, data):
    def change(image):
        image[offset : offset + len(data)] = data

    return change


@pytest.mark.parametrize(
    ("table", "block_size", "first"), [("mbr", 512, 1), ("mbr", 4096, 1), ("gpt", 512, 34), ("gpt", 4096, 6)]
)
def test_room(room, table, block_size, first):
    found = room(table=table, block_size=block_size)
    assert (found.first, found.end, found.blocks, found.frames) == (first, FIRST, FIRST - first, ())


def test_only_the_start_of_a_large_gap(tmp_path):
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        block0 = bytearray(512)
        write_partition_table(block0, [Partition(0x83, 1 << 20, 100)])
        file.write(block0)
        file.truncate((1 << 30) // 2 + (1 << 20))
    with open_image(path) as image:
        assert find_free_room(image, 512).blocks == MAX_ROOM // 512


def test_no_room(room):
    assert reason(room, first=1) is SealReason.NO_GAP
    assert reason(room, table="gpt", first=34) is SealReason.NO_GAP


@pytest.mark.parametrize(
    ("offset", "data", "expected"),
    [
        (512, b"\x01", SealReason.GAP_NOT_EMPTY),
        (FIRST * 512 - 1, b"\x01", SealReason.GAP_NOT_EMPTY),
        (512, b"LABELONE" + bytes(16) + b"LVM2 001", SealReason.GAP_HOLDS_LVM),
        (1024, b"LUKS\xba\xbe\x00\x02", SealReason.GAP_HOLDS_LUKS),
        (0x8000, b"SKUL\xba\xbe", SealReason.GAP_HOLDS_LUKS),
        (4096, b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00", SealReason.GAP_HOLDS_MD),
        (4096, b"\xa9\x2b\x4e\xfc", SealReason.GAP_HOLDS_MD),
        (512 + 300, b"GRUB \0", SealReason.GAP_HOLDS_GRUB),
        (512 + 200, b"loading\0.\0\r\n\0Geom\0Read\0 Error\0", SealReason.GAP_HOLDS_GRUB),
        (0x180, b"GRUB \0Geom\0Hard Disk\0Read\0 Error\r\n\0", SealReason.GAP_HOLDS_GRUB),
    ],
)
def test_what_others_have_there(room, offset, data, expected):
    assert reason(room, put(offset, data)) is expected


def test_a_name_beats_a_byte_in_front_of_it(room):
    def change(image):
        image[512] = 1
        image[4096:4100] = b"\xfc\x4e\x2b\xa9"

    assert reason(room, change) is SealReason.GAP_HOLDS_MD


def test_what_lies_behind_the_gap_does_not_matter(room):
    assert room(put(FIRST * 512, b"LUKS\xba\xbe")).frames == ()


class TestFrames:
    @staticmethod
    def frame(block, block_size, blocks, generation=1, change=None):
        content = bytearray(os.urandom(blocks * block_size))
        header = make_header(block, block_size, content, generation)
        if change is not None:
            header, content = change(header, content)

        def write(image):
            start = block * block_size
            image[start : start + 512] = header
            image[start + block_size : start + block_size + len(content)] = content

        return write

    @pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
    def test_ours(self, room, block_size):
        most = most_blocks(block_size)
        (found,) = room(self.frame(10, block_size, most, 77), block_size=block_size).frames
        assert (found.block, found.blocks, found.generation, found.end) == (10, most, 77, 11 + most)
        (found,) = room(self.frame(FIRST - 2, block_size, 1), block_size=block_size).frames
        assert found.end == FIRST

    def test_zeros_in_place_of_content(self, room):
        """A frame that was begun, or is being cleared."""
        assert room(self.frame(10, 512, 3, change=lambda h, c: (h, c[:512] + bytes(512) + c[1024:]))).frames
        assert room(self.frame(10, 512, 3, change=lambda h, c: (h, bytes(len(c))))).frames

    @pytest.mark.parametrize(
        "change",
        [
            lambda h, c: (h, bytes([c[0] ^ 1]) + c[1:]),
            lambda h, c: (h, c[512:1024] + c[:512]),
            lambda h, c: (h[:24] + b"\0\0\0\x01" + h[28:], c),
            lambda h, c: (h[:100] + bytes([h[100] ^ 1]) + h[101:], c),
            lambda h, c: (bytes(512), c),
            lambda h, c: (make_header(11, 512, c, 1), c),
            lambda h, c: (make_header(10, 1024, bytes(c), 1), c),
            lambda h, c: (h, c + b"\x01"),
        ],
        ids=["byte", "order", "length", "digest", "no header", "place", "block size", "behind"],
    )
    def test_not_ours(self, room, change):
        assert reason(room, self.frame(10, 512, 2, change=change)) is SealReason.GAP_NOT_EMPTY

    def test_a_frame_that_reaches_into_the_partition(self, room):
        assert reason(room, self.frame(FIRST - 1, 512, 1)) is SealReason.GAP_NOT_EMPTY

    def test_frames_are_found_without_a_partition_table(self, tmp_path):
        image = bytearray(512 * 100)
        self.frame(10, 512, 3)(image)
        path = tmp_path / "disk"
        path.write_bytes(image)
        with open_image(path) as opened:
            assert [frame.block for frame in find_frames(opened, 512)] == [10]

    def test_a_header_has_no_other_reading(self):
        header = make_header(5, 512, bytes(1024), 1)
        assert read_header(header, 5, 512) is not None
        assert read_header(header, 5, 4096) is None
        for at in range(512):
            changed = bytearray(header)
            changed[at] ^= 0x80
            assert read_header(changed, 5, 512) is None
