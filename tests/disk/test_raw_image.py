from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.disk.host_file import HostFile
from sipl.disk.image import fill_with_zeros
from sipl.disk.raw import RawImage
from sipl.errors import ImageError, UsageError


def raw(path, content: bytes) -> RawImage:
    path.write_bytes(content)
    return RawImage(HostFile(path))


@pytest.mark.parametrize("length", [1, 511, 512, 513, 1000])
def test_a_part_of_a_sector_is_filled_up_with_zeros(tmp_path, length):
    content = os.urandom(length)
    with raw(tmp_path / "a", content) as image:
        assert image.size == -(-length // 512) * 512
        assert image.format == "raw"
        assert image.path == str(tmp_path / "a")
        assert image.notes == ()
        assert image.read(0, image.size) == content.ljust(image.size, b"\0")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    content = os.urandom(5000)
    with raw(tmp_path_factory.mktemp("raw") / "a", content) as image:
        yield image, content.ljust(5120, b"\0")


@given(st.data())
@settings(max_examples=100)
def test_every_piece_is_that_of_the_file(odd, data):
    image, content = odd
    start = data.draw(st.integers(0, 5120))
    end = data.draw(st.integers(start, 5120))
    buffer = bytearray(b"\xaa" * (end - start))
    image.read_into(start, memoryview(buffer))
    assert buffer == content[start:end]


@pytest.mark.parametrize(("offset", "length"), [(0, 1025), (1024, 1), (-1, 1), (0, -1), (1 << 70, 1), (1025, 0)])
def test_outside_the_disk(tmp_path, offset, length):
    with raw(tmp_path / "a", bytes(1000)) as image, pytest.raises(UsageError, match="do not lie on the disk"):
        image.read(offset, length)


def test_read_into_checks_the_range_too(tmp_path):
    with raw(tmp_path / "a", bytes(1000)) as image, pytest.raises(UsageError):
        image.read_into(1000, memoryview(bytearray(512)))


def test_reading_goes_straight_into_the_buffer(tmp_path, reads):
    with raw(tmp_path / "a", os.urandom(1 << 20)) as image:
        image.read_into(4096, memoryview(bytearray(1 << 19)))
    assert reads == [(4096, 1 << 19)]


def test_truncated_while_it_is_open(tmp_path):
    with raw(tmp_path / "a", bytes(4096)) as image:
        os.truncate(tmp_path / "a", 1000)
        with pytest.raises(ImageError, match="too early"):
            image.read(512, 1024)


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 200000])
def test_fill_with_zeros(length):
    buffer = bytearray(b"\xff" * (length + 1))
    with memoryview(buffer) as view:
        fill_with_zeros(view[:length])
    assert buffer == bytes(length) + b"\xff"
