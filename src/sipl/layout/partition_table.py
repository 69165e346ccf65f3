"""Partition tables: MBR in block 0, GPT from block 1 on (docs/formats/seal-room.md, "Partition tables").

The one part of a zipl disk that is little endian. Blocks are logical blocks of the disk.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

MBR_ENTRIES_OFFSET: Final = 446
MBR_ENTRIES: Final = 4
MBR_SIGNATURE_OFFSET: Final = 510
MBR_SIGNATURE: Final = b"\x55\xaa"
# The only two values that the first byte of an entry has; others tell that this is no partition table.
MBR_STATUSES: Final = frozenset({0x00, 0x80})
MBR_TYPE_EMPTY: Final = 0x00
MBR_TYPE_PROTECTIVE: Final = 0xEE

GPT_MAGIC: Final = b"EFI PART"
GPT_HEADER_BLOCK: Final = 1
GPT_HEADER_CRC_OFFSET: Final = 16
GPT_REVISION: Final = 0x00010000
GPT_UNUSED: Final = bytes(16)
# 21686148-6449-6E6F-744E-656564454649, as it lies on disk.
GPT_BIOS_BOOT: Final = b"Hah!IdontNeedEFI"


@layout("<B3xB3xII")
class MbrEntry(NamedTuple):
    """One of the four entries of an MBR; the addresses in cylinders and heads are not looked at."""

    status: int
    type: int
    first: int  # block
    blocks: int


@layout("<8sIII4xQQQQ16sQIII")
class GptHeader(NamedTuple):
    """Header of a GPT, 92 bytes of one block."""

    magic: bytes
    revision: int
    size: int  # bytes that the CRC counts
    crc: int  # CRC-32 of the header with this field zero
    own_block: int
    other_block: int  # of the other copy
    first_usable: int
    last_usable: int
    disk: bytes
    entries_block: int
    entries: int
    entry_size: int
    entries_crc: int  # CRC-32 of the entry array


@layout("<16s16sQQ")
class GptEntry(NamedTuple):
    """Start of an entry; attributes and name follow."""

    type: bytes
    identifier: bytes
    first: int  # block
    last: int  # block, inclusive
