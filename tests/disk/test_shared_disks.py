"""The reference disks: what lies at the places that an independent dump names."""

from __future__ import annotations

import hashlib
import re

import pytest

from sipl.disk.block_device import BlockDevice
from sipl.disk.block_size import find_block_size
from sipl.disk.open import open_image

DISKS = {"good": 512, "good4k": 4096, "mixed": 512, "ec": 512, "sparse": 512, "unsigned": 512}
# segments (first block, block size, count - 1), then on the next line the digest of what they hold
COMPONENT = re.compile(r"segs \[([^\n\]]*)\](\.\.\.)?\n\s+sha256 ([0-9a-f]{64})")


@pytest.mark.parametrize("name", DISKS)
def test_components_by_their_blocks(shared, name):
    text = (shared / "disks" / f"{name}.layout.txt").read_text()
    checked = 0
    with open_image(shared / "disks" / f"{name}.qcow2") as image:
        assert image.size == 24 << 20
        assert find_block_size(image) == DISKS[name]
        device = BlockDevice(image, DISKS[name])
        for segments, more, digest in COMPONENT.findall(text):
            if more:
                continue  # the dump does not name all of its segments
            content = b""
            for block, size, less_one in re.findall(r"\((\d+), (\d+), (\d+)\)", segments):
                assert int(size) == device.block_size
                buffer = bytearray((int(less_one) + 1) * device.block_size)
                device.read_blocks(int(block), int(less_one) + 1, memoryview(buffer))
                content += buffer
            assert hashlib.sha256(content).hexdigest() == digest
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("name", DISKS)
def test_all_of_a_disk_as_qemu_reads_it(shared, need_tool, tmp_path, name):
    import subprocess

    path = shared / "disks" / f"{name}.qcow2"
    qemu_img = need_tool("qemu-img", "qemu-utils")
    subprocess.run([qemu_img, "convert", "-O", "raw", path, tmp_path / "a.raw"], check=True, timeout=60)
    with open_image(path) as image, open_image(tmp_path / "a.raw") as raw:
        assert image.read(0, image.size) == raw.read(0, raw.size)


def test_a_kernel_costs_few_reads(shared, reads):
    """Some of its 156 clusters are compressed; the others lie in a few pieces."""
    with open_image(shared / "disks" / "good.qcow2") as image:
        image.read(2448 * 512, 19928 * 512)
    assert len(reads) < 60
    assert sum(length for _, length in reads) < 19928 * 512 + (1 << 18)
