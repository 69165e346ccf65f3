"""The boot record of a zipl disk, SCSI scheme (docs/formats/boot-record.md).

Block 0 points to the program table, the program table to component tables, a component table to the segment tables
of its components, a segment table to blocks of data. Everything is big endian; "block" is a logical block of the disk.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

ZIPL_MAGIC: Final = b"zIPL"
BOOT_RECORD_VERSION: Final = 1
# zipl owns the first 0x98 bytes of block 0; what follows (partition table, 55AA) is not its own.
BOOT_RECORD_SIZE: Final = 0x98

POINTER_SIZE: Final = 16
# Block numbers and tables are for blocks of 512 to 4096 bytes.
MAX_BLOCK_SIZE: Final = 4096
MIN_BLOCK_SIZE: Final = 512

PROGRAM_TABLE_HEADER_SIZE: Final = 16
# 16 + 31 * 16 = 512: the most that the smallest block holds, whatever the block size of the disk is.
PROGRAM_TABLE_ENTRIES: Final = 31

COMPONENT_TABLE_HEADER_SIZE: Final = 32
COMPONENT_ENTRY_SIZE: Final = 32
COMPONENT_TABLE_TYPE_IPL: Final = 0
COMPONENT_TABLE_TYPE_DUMP: Final = 1
# Entries that the largest block holds behind its header; the last one can only be the EXEC entry.
MAX_COMPONENT_ENTRIES: Final = (MAX_BLOCK_SIZE - COMPONENT_TABLE_HEADER_SIZE) // COMPONENT_ENTRY_SIZE

COMPONENT_EXECUTE: Final = 1
COMPONENT_LOAD: Final = 2
COMPONENT_SIGNATURE: Final = 3

SIGNATURE_FORMAT_DER: Final = 1

# The firmware fills its buffer with this byte before it reads a segment table, and takes a slot of 16 such bytes
# behind a one-block pointer as the sign that this pointer is the link to the next table.
FILLER: Final = b"\xaa" * POINTER_SIZE
# The slot that is the link by its position alone: the last one of a 4096-byte block.
LAST_SEGMENT_SLOT: Final = MAX_BLOCK_SIZE // POINTER_SIZE - 1


@layout(">QHH4x")
class BlockPointer(NamedTuple):
    """Linear block pointer, 16 bytes; block 0 means "none"."""

    block: int
    size: int  # bytes of one block, equal to the block size of the disk
    count_less_one: int


@layout(">4sI8x16s")
class BootRecord(NamedTuple):
    """Block 0 of the disk, its first 32 bytes."""

    magic: bytes
    version: int
    program_table: bytes  # a BlockPointer


@layout(">4s12x")
class ProgramTableHeader(NamedTuple):
    """Start of the program table; block pointers to component tables follow, entry 0 is the default."""

    magic: bytes


@layout(">4sB27x")
class ComponentTableHeader(NamedTuple):
    """Start of a component table; component entries follow."""

    magic: bytes
    type: int


@layout(">16s7xB8s")
class ComponentEntry(NamedTuple):
    """One entry of a component table. `value` is the load address, the PSW or a `SignatureInfo`, by `type`."""

    segment_table: bytes  # a BlockPointer; only its block number counts
    type: int
    value: bytes


@layout(">B3xI")
class SignatureInfo(NamedTuple):
    """`value` of a signature entry; the signature is for the load entry that follows."""

    format: int
    length: int  # bytes of the signature itself, in the blocks that the entry points to


# Other boot schemes: what stands at the start of which place, to be told from a disk that nobody wrote.
ECKD_LABEL_BLOCK: Final = 2
ECKD_LABELS: Final = {
    "VOL1": bytes.fromhex("e5d6d3f1"),
    "LNX1": bytes.fromhex("d3d5e7f1"),
    "CMS1": bytes.fromhex("c3d4e2f1"),
}
ECKD_IPL1: Final = bytes.fromhex("c9d7d3f1")
ISO_MAGIC_OFFSET: Final = 32769
ISO_MAGIC: Final = b"CD001"
