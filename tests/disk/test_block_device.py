from __future__ import annotations

import os

import pytest

from sipl.disk.block_device import BlockDevice, BlockOutOfRange
from sipl.disk.open import open_image
from sipl.errors import SiplError, UndecidedError, UsageError
from sipl.reasons import Reason


@pytest.fixture
def image(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(10 * 1024 + 700))
    with open_image(tmp_path / "a") as opened:
        yield opened


@pytest.mark.parametrize(("size", "blocks"), [(512, 22), (1024, 11), (2048, 5), (4096, 2)])
def test_blocks_by_number(image, size, blocks):
    device = BlockDevice(image, size)
    assert (device.blocks, device.block_size) == (blocks, size)
    content = image.read(0, image.size)
    for block in range(blocks):
        buffer = bytearray(size)
        device.read_blocks(block, 1, memoryview(buffer))
        assert buffer == content[block * size : (block + 1) * size]
    buffer = bytearray(blocks * size)
    device.read_blocks(0, blocks, memoryview(buffer))
    assert buffer == content[: blocks * size]
    device.read_blocks(blocks, 0, memoryview(b""))


@pytest.mark.parametrize(
    ("block", "count"), [(22, 1), (21, 2), (0, 23), (1 << 32, 1), ((1 << 64) - 1, 1), (-1, 1), (0, -1)]
)
def test_beyond_the_disk_is_the_guest_s_fault(image, block, count):
    device = BlockDevice(image, 512)
    buffer = bytearray(b"\xaa" * 512 * max(0, count))
    with pytest.raises(BlockOutOfRange, match="the disk has 22") as caught:
        device.read_blocks(block, count, memoryview(buffer))
    assert set(buffer) <= {0xAA}
    assert isinstance(caught.value, SiplError)
    assert not isinstance(caught.value, UndecidedError)
    assert caught.value.reason is Reason.BLOCK_OUT_OF_RANGE
    assert (caught.value.block, caught.value.count, caught.value.blocks) == (block, count, 22)


def test_a_number_is_not_cut_to_32_bits(image):
    with pytest.raises(BlockOutOfRange):
        BlockDevice(image, 512).read_blocks(1 << 32 | 1, 1, memoryview(bytearray(512)))


@pytest.mark.parametrize("size", [0, 1, 256, 511, 513, 768, 3072, 8192, -512])
def test_other_block_sizes(image, size):
    with pytest.raises(UsageError, match="choose one of 512, 1024, 2048, 4096"):
        BlockDevice(image, size)


def test_a_buffer_of_another_length(image):
    with pytest.raises(UsageError, match="511 bytes cannot take 1 blocks of 512"):
        BlockDevice(image, 512).read_blocks(0, 1, memoryview(bytearray(511)))
