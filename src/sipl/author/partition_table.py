"""Writing a partition table of the old kind, an MBR, into block 0 (docs/making-disks.md, "The image")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.layout.partition_table import MBR_ENTRIES_OFFSET, MBR_SIGNATURE, MBR_SIGNATURE_OFFSET, MbrEntry
from sipl.layout.record import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTITION_TYPE_LINUX: Final = 0x83
PARTITION_TYPE_NO_FILE_SYSTEM: Final = 0xDA
MAX_MBR_BLOCKS: Final = 0xFFFFFFFF
# An address in cylinders and heads that says: it is too far away for one.
_CHS_UNUSED: Final = b"\xfe\xff\xff"


class Partition(NamedTuple):
    """A primary partition, in blocks of the disk."""

    type: int
    first: int
    blocks: int


def write_partition_table(image: bytearray, partitions: Sequence[Partition]) -> None:
    """Write the table of one to four partitions into the first 512 bytes of `image`."""
    for number, partition in enumerate(partitions):
        entry = bytearray(pack(MbrEntry(0, partition.type, partition.first, min(partition.blocks, MAX_MBR_BLOCKS))))
        entry[1:4] = entry[5:8] = _CHS_UNUSED
        start = MBR_ENTRIES_OFFSET + number * len(entry)
        image[start : start + len(entry)] = entry
    image[MBR_SIGNATURE_OFFSET : MBR_SIGNATURE_OFFSET + len(MBR_SIGNATURE)] = MBR_SIGNATURE
