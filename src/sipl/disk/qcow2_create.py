"""Writing a new qcow2 image, version 3 (docs/formats/qcow2.md): clusters of 64 KiB, no backing file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sipl.layout.qcow2 import (
    ENTRY_COPIED,
    EXTENSION_END,
    HEADER_V3_SIZE,
    QCOW2_MAGIC,
    TABLE_ENTRY_SIZE,
    HeaderExtension,
    Qcow2Header,
    Qcow2HeaderV3,
)
from sipl.layout.record import pack

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from sipl.layout.record import Buffer

CLUSTER_BITS: Final = 16  # what other writers use, too
CLUSTER: Final = 1 << CLUSTER_BITS
_VERSION: Final = 3
_REFCOUNT_ORDER: Final = 4  # 16 bits each
_REFCOUNTS_PER_BLOCK: Final = CLUSTER // 2
_ENTRIES_PER_TABLE: Final = CLUSTER // TABLE_ENTRY_SIZE
_HEADER_CLUSTERS: Final = 1


def write_qcow2(file: BinaryIO, content: Buffer, size: int) -> None:
    """Write an image of a virtual disk of `size` bytes that begins with `content`; the rest of it is zero.

    Clusters of zeros take no room. `size` is at least the length of `content`.
    """
    with memoryview(content) as view:
        used = [number for number in range(_divided_up(len(view), CLUSTER)) if not _is_zero(view, number)]
        l1_entries = _divided_up(size, CLUSTER * _ENTRIES_PER_TABLE)
        l1_clusters = _divided_up(l1_entries, _ENTRIES_PER_TABLE)
        tables = sorted({number // _ENTRIES_PER_TABLE for number in used})
        blocks, table_clusters = _refcount_sizes(_HEADER_CLUSTERS + l1_clusters + len(tables) + len(used))
        table_at = _HEADER_CLUSTERS
        blocks_at = table_at + table_clusters
        l1_at = blocks_at + blocks
        l2_at = l1_at + l1_clusters
        data_at = l2_at + len(tables)
        end = data_at + len(used)

        header = Qcow2Header(
            magic=QCOW2_MAGIC,
            version=_VERSION,
            backing_offset=0,
            backing_size=0,
            cluster_bits=CLUSTER_BITS,
            size=size,
            crypt_method=0,
            l1_entries=l1_entries,
            l1_offset=l1_at * CLUSTER,
            refcount_table_offset=table_at * CLUSTER,
            refcount_table_clusters=table_clusters,
            snapshots=0,
            snapshots_offset=0,
        )
        more = Qcow2HeaderV3(0, 0, 0, _REFCOUNT_ORDER, HEADER_V3_SIZE)
        file.write(_cluster(pack(header) + pack(more) + pack(HeaderExtension(EXTENSION_END, 0))))
        file.write(_table(((blocks_at + number) * CLUSTER for number in range(blocks)), table_clusters))
        counts = struct.pack(">H", 1) * end
        file.write(counts.ljust(blocks * CLUSTER, b"\0"))
        places = {number: (l2_at + position) * CLUSTER | ENTRY_COPIED for position, number in enumerate(tables)}
        file.write(_table((places.get(number, 0) for number in range(l1_entries)), l1_clusters))
        data = {number: (data_at + position) * CLUSTER | ENTRY_COPIED for position, number in enumerate(used)}
        for table in tables:
            first = table * _ENTRIES_PER_TABLE
            file.write(_table((data.get(number, 0) for number in range(first, first + _ENTRIES_PER_TABLE)), 1))
        file.writelines(_cluster(view[number * CLUSTER : (number + 1) * CLUSTER]) for number in used)


def _refcount_sizes(others: int) -> tuple[int, int]:
    """Clusters of refcount blocks and of their table, for `others` clusters and for themselves."""
    blocks = table = 0
    while True:
        needed = _divided_up(others + blocks + table, _REFCOUNTS_PER_BLOCK)
        needed_table = _divided_up(needed, _ENTRIES_PER_TABLE)
        if (needed, needed_table) == (blocks, table):
            return blocks, table
        blocks, table = needed, needed_table


def _table(entries: Iterable[int], clusters: int) -> bytes:
    packed = b"".join(entry.to_bytes(TABLE_ENTRY_SIZE, "big") for entry in entries)
    return packed.ljust(clusters * CLUSTER, b"\0")


def _cluster(data: Buffer) -> bytes:
    return bytes(data).ljust(CLUSTER, b"\0")


def _is_zero(view: memoryview, number: int) -> bool:
    return not any(bytes(view[number * CLUSTER : (number + 1) * CLUSTER]).strip(b"\0"))


def _divided_up(value: int, by: int) -> int:
    return -(-value // by)
