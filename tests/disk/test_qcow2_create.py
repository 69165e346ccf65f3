"""New qcow2 images: qemu-img finds them in order, and what is read back is what was written."""

from __future__ import annotations

import io
import json
import mmap
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.disk.open import open_image
from sipl.disk.qcow2_create import CLUSTER, _refcount_sizes, write_qcow2

MIB = 1 << 20


def made(content: bytes, size: int) -> bytes:
    file = io.BytesIO()
    write_qcow2(file, content, size)
    return file.getvalue()


def pattern(size: int) -> bytes:
    return bytes(range(1, 252)) * (size // 251 + 1)


def far_apart() -> mmap.mmap:
    """A disk with something at both ends, in different L2 tables; the zeros between them take no memory."""
    content = mmap.mmap(-1, 513 * MIB)
    content[:3] = b"one"
    content[-3:] = b"two"
    return content


CONTENTS = {
    "nothing": (b"", 1 * MIB),
    "one byte": (b"x", 512),
    "no whole cluster": (pattern(200_000)[:200_000], 200_192),
    "holes": (bytes(CLUSTER) + b"a" * CLUSTER + bytes(3 * CLUSTER) + b"b", 64 * MIB),
    "large": (b"a", 1 << 42),
    "larger than one cluster of table": (b"a", 5 << 40),
}


@pytest.mark.parametrize(("content", "size"), CONTENTS.values(), ids=CONTENTS)
def test_qemu_img_finds_it_in_order(content, size, need_tool, tmp_path):
    tool = need_tool("qemu-img", "qemu-utils")
    path = tmp_path / "disk.qcow2"
    path.write_bytes(made(content, size))
    done = subprocess.run([tool, "check", path], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "No errors were found on the image."), done
    info = json.loads(subprocess.run([tool, "info", "--output=json", path], capture_output=True, check=True).stdout)
    assert info["virtual-size"] == size
    assert info["format-specific"]["data"]["compat"] == "1.1"


@pytest.mark.parametrize("name", ["one byte", "no whole cluster", "holes", "large"])
def test_is_read_back(name, tmp_path):
    content, size = CONTENTS[name]
    path = tmp_path / "disk.qcow2"
    path.write_bytes(made(content, size))
    with open_image(str(path)) as image:
        assert (image.format, image.size, image.notes) == ("qcow2", size, ())
        length = min(size, len(content) + MIB)
        assert image.read(0, length) == content.ljust(length, b"\0")


def test_two_l2_tables(tmp_path, need_tool):
    path = tmp_path / "disk.qcow2"
    with far_apart() as content:
        path.write_bytes(made(content, len(content)))
        assert path.stat().st_size == 8 * CLUSTER
        with open_image(str(path)) as image:
            assert image.read(0, MIB) == content[:MIB]
            assert image.read(512 * MIB, MIB) == content[512 * MIB :]
    tool = need_tool("qemu-img", "qemu-utils")
    subprocess.run([tool, "check", path], capture_output=True, timeout=60, check=True)


def test_zeros_take_no_room():
    assert len(made(bytes(64 * MIB), 64 * MIB)) == 4 * CLUSTER
    assert len(made(bytes(MIB) + b"x", 64 * MIB)) == 6 * CLUSTER


@given(st.one_of(st.integers(1, 200_000), st.integers(1, 1 << 34)))
def test_refcounts_are_enough_and_not_too_many(others):
    """A refcount block counts 32768 clusters, a cluster of their table leads to 8192 blocks."""
    blocks, table = _refcount_sizes(others)
    assert (blocks - 1) * 32768 < others + blocks + table <= blocks * 32768
    assert (table - 1) * 8192 < blocks <= table * 8192


@given(st.lists(st.tuples(st.integers(0, 20 * CLUSTER - 1), st.binary(min_size=1, max_size=64)), max_size=6))
@settings(max_examples=60)
def test_any_content(writes):
    content = bytearray(20 * CLUSTER)
    for offset, data in writes:
        content[offset : offset + len(data)] = data
    content = content[: 20 * CLUSTER]
    image = made(bytes(content), 32 * CLUSTER)
    entries = [int.from_bytes(image[4 * CLUSTER + 8 * n :][:8], "big") & 0x00FFFFFFFFFFFE00 for n in range(20)]
    for number, place in enumerate(entries):
        wanted = bytes(content[number * CLUSTER : (number + 1) * CLUSTER])
        assert (image[place : place + CLUSTER] if place else bytes(CLUSTER)) == wanted
