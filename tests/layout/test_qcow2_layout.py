from __future__ import annotations

import sipl.layout.qcow2 as on_disk
from sipl.layout.record import pack, size_of, unpack


def test_sizes():
    assert size_of(on_disk.Qcow2Header) == on_disk.HEADER_V2_SIZE == 72
    assert size_of(on_disk.Qcow2Header) + size_of(on_disk.Qcow2HeaderV3) == on_disk.HEADER_V3_SIZE == 104
    assert size_of(on_disk.HeaderExtension) == 8


def test_a_header_of_qemu_img(data):
    content = (data / "disk" / "zstd.qcow2").read_bytes()
    header = unpack(on_disk.Qcow2Header, content)
    assert (header.magic, header.version, header.cluster_bits, header.size) == (b"QFI\xfb", 3, 10, 24 << 10)
    assert header.l1_entries == 1
    assert header.backing_offset == header.crypt_method == header.snapshots == 0
    later = unpack(on_disk.Qcow2HeaderV3, content, on_disk.HEADER_V2_SIZE)
    assert later.incompatible == on_disk.INCOMPATIBLE_COMPRESSION
    assert (later.refcount_order, later.header_length) == (4, 112)
    assert content[on_disk.COMPRESSION_TYPE_OFFSET] == on_disk.COMPRESSION_ZSTD
    assert pack(header) + pack(later) == content[:104]


def test_masks_share_no_bit():
    parts = (on_disk.ENTRY_COPIED, on_disk.L2_COMPRESSED, on_disk.L2_RESERVED, on_disk.ENTRY_OFFSET, on_disk.L2_ZERO)
    assert sum(parts) == (1 << 64) - 1
    assert on_disk.ENTRY_COPIED + on_disk.L1_RESERVED + on_disk.ENTRY_OFFSET == (1 << 64) - 1
