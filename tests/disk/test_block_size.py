from __future__ import annotations

import struct

import pytest

from sipl.disk.block_size import find_block_size
from sipl.disk.open import open_image

SIZES = (512, 1024, 2048, 4096)


def record(block: int, size: int) -> bytes:
    return struct.pack(">4sI8xQHH4x", b"zIPL", 1, block, size, 0)


@pytest.fixture
def found(tmp_path):
    def find(*pieces, length=64 << 10):
        content = bytearray(length)
        for offset, data in pieces:
            content[offset : offset + len(data)] = data
        (tmp_path / "a").write_bytes(content)
        with open_image(tmp_path / "a") as image:
            return find_block_size(image)

    return find


@pytest.mark.parametrize("size", SIZES)
def test_from_the_boot_record(found, size):
    assert found((0, record(1, size))) == size
    assert found((0, record((64 << 10) // size - 1, size))) == size


@pytest.mark.parametrize("size", SIZES)
def test_a_block_that_is_not_on_the_disk_says_nothing(found, size):
    gpt = (1024, b"EFI PART")
    for block in ((64 << 10) // size, 0, (1 << 64) - 1):
        assert found((0, record(block, size)), gpt) == 1024


@pytest.mark.parametrize("size", [0, 1, 256, 513, 768, 8192, 32768, 65535])
def test_a_size_that_is_none_says_nothing(found, size):
    assert found((0, record(1, size)), (2048, b"EFI PART")) == 2048


def test_without_the_magic_the_pointer_says_nothing(found):
    assert found((0, b"ZIPL" + record(1, 4096)[4:])) == 512


@pytest.mark.parametrize("size", SIZES)
def test_from_the_partition_table(found, size):
    assert found((size, b"EFI PART")) == size


def test_the_boot_record_counts_more_than_the_partition_table(found):
    assert found((0, record(5, 4096)), (512, b"EFI PART")) == 4096


def test_from_an_iso_file_system(found):
    assert found((32769, b"CD001")) == 2048
    assert found((32769, b"CD001"), (512, b"EFI PART")) == 512


def test_nothing_says_512(found):
    assert found() == 512


@pytest.mark.parametrize("length", [1, 31, 32, 512, 520, 4096, 4100, 32770, 32773])
def test_small_disks(found, length):
    assert found(length=length) == 512
