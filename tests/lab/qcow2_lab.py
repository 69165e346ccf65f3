"""A small qcow2 image of which each part can be wrong."""

from __future__ import annotations

import struct

CLUSTER = 65536
COPIED = 1 << 63
PIECES = 16  # clusters of the qcow2 images below: 1 MiB, where the demo disk has its boot map


def qcow2(
    content: bytes, *, version=2, l1_offset=CLUSTER, l2=None, encryption=0, backing=b"", size=PIECES * CLUSTER
) -> bytes:
    """A qcow2 image: header, L1 table, L2 table, refcount table and block, data; each part can be wrong."""
    data_start = 5
    backing_offset = 104 if backing else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        backing_offset,
        len(backing),
        16,
        size,
        encryption,
        1,
        l1_offset,
        3 * CLUSTER,
        1,
        0,
        0,
    )
    # The header extension that states the format of the backing file, and the end of the extensions.
    states_format = struct.pack(">II8sII", 0xE2792ACA, 3, b"raw", 0, 0) if backing else b""
    head = ((header + states_format).ljust(104, b"\0") + backing).ljust(CLUSTER, b"\0")
    l1 = struct.pack(">Q", 2 * CLUSTER | COPIED).ljust(CLUSTER, b"\0")
    entries = [(data_start + n) * CLUSTER | COPIED for n in range(PIECES)] if l2 is None else l2
    tables = struct.pack(f">{len(entries)}Q", *entries).ljust(CLUSTER, b"\0")
    refcount_table = struct.pack(">Q", 4 * CLUSTER).ljust(CLUSTER, b"\0")
    refcounts = struct.pack(">21H", *[1] * 21).ljust(CLUSTER, b"\0")
    return head + l1 + tables + refcount_table + refcounts + content[: PIECES * CLUSTER]
