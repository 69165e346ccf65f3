"""A qcow2 image, versions 2 and 3: header, header extensions and table entries (docs/formats/qcow2.md).

Everything is big endian. "Guest" offsets count bytes of the virtual disk, "host" offsets count bytes of the image file.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

QCOW2_MAGIC: Final = b"QFI\xfb"
HEADER_V2_SIZE: Final = 72
HEADER_V3_SIZE: Final = 104
COMPRESSION_TYPE_OFFSET: Final = 104  # one byte, present if the header is longer than this

MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21  # the format names no end; writers stop here
MIN_EXTENDED_CLUSTER_BITS: Final = 14
MAX_REFCOUNT_ORDER: Final = 6

INCOMPATIBLE_DIRTY: Final = 1 << 0
INCOMPATIBLE_CORRUPT: Final = 1 << 1
INCOMPATIBLE_DATA_FILE: Final = 1 << 2
INCOMPATIBLE_COMPRESSION: Final = 1 << 3
INCOMPATIBLE_EXTENDED_L2: Final = 1 << 4
INCOMPATIBLE_KNOWN: Final = (1 << 5) - 1

AUTOCLEAR_BITMAPS: Final = 1 << 0
AUTOCLEAR_RAW_DATA_FILE: Final = 1 << 1
AUTOCLEAR_KNOWN: Final = AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA_FILE

COMPRESSION_ZLIB: Final = 0  # raw deflate, without header and checksum
COMPRESSION_ZSTD: Final = 1

EXTENSION_END: Final = 0
EXTENSION_BACKING_FORMAT: Final = 0xE2792ACA
EXTENSION_ENCRYPTION: Final = 0x0537BE77
EXTENSION_DATA_FILE: Final = 0x44415441
EXTENSION_BITMAPS: Final = 0x23852875
EXTENSION_ALIGNMENT: Final = 8

MAX_FILE_NAME: Final = 1023  # bytes of a backing file's name

TABLE_ENTRY_SIZE: Final = 8
EXTENDED_ENTRY_SIZE: Final = 16
SECTOR_SIZE: Final = 512  # compressed data is counted in these

REFCOUNT_RESERVED: Final = 0x1FF  # in an entry of the refcount table

# Entries of the L1 and L2 table; bit 63 ("copied") matters only to who writes.
ENTRY_COPIED: Final = 1 << 63
ENTRY_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED: Final = 0x7F00_0000_0000_01FF

L2_COMPRESSED: Final = 1 << 62
L2_ZERO: Final = 1 << 0  # version 3 without extended entries; otherwise reserved
L2_RESERVED: Final = 0x3F00_0000_0000_01FE

SUBCLUSTERS: Final = 32
SUBCLUSTERS_ALLOCATED: Final = 0x0000_0000_FFFF_FFFF
SUBCLUSTERS_ZERO_SHIFT: Final = 32


@layout(">4sIQIIQIIQQIIQ")
class Qcow2Header(NamedTuple):
    """Byte 0 of the file, 72 bytes: all of the header in version 2."""

    magic: bytes
    version: int
    backing_offset: int  # host offset of the backing file's name, 0 = no backing file
    backing_size: int  # bytes of that name
    cluster_bits: int
    size: int  # bytes of the virtual disk
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int
    snapshots_offset: int


@layout(">QQQII")
class Qcow2HeaderV3(NamedTuple):
    """Bytes 72 to 103, in version 3."""

    incompatible: int
    compatible: int
    autoclear: int
    refcount_order: int
    header_length: int


@layout(">II")
class HeaderExtension(NamedTuple):
    """Start of a header extension; `length` bytes of data follow, filled up to a multiple of 8."""

    type: int
    length: int
