"""The header of a qcow2 image, read and judged before anything else is (docs/formats/qcow2.md, section "Header")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.image import SECTOR_SIZE
from sipl.errors import ImageFormatError
from sipl.layout.qcow2 import (
    COMPRESSION_TYPE_OFFSET,
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    EXTENDED_ENTRY_SIZE,
    EXTENSION_ALIGNMENT,
    EXTENSION_BACKING_FORMAT,
    EXTENSION_BITMAPS,
    EXTENSION_DATA_FILE,
    EXTENSION_ENCRYPTION,
    EXTENSION_END,
    HEADER_V2_SIZE,
    HEADER_V3_SIZE,
    INCOMPATIBLE_COMPRESSION,
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_EXTENDED_L2,
    INCOMPATIBLE_KNOWN,
    MAX_CLUSTER_BITS,
    MAX_FILE_NAME,
    MAX_REFCOUNT_ORDER,
    MIN_CLUSTER_BITS,
    MIN_EXTENDED_CLUSTER_BITS,
    QCOW2_MAGIC,
    TABLE_ENTRY_SIZE,
    HeaderExtension,
    Qcow2Header,
    Qcow2HeaderV3,
)
from sipl.layout.record import size_of, unpack

if TYPE_CHECKING:
    from sipl.disk.host_file import HostFile

# What the offset field of a table entry can address, and so the most that a disk can have on it.
MAX_VIRTUAL_SIZE: Final = 1 << 56
# What writers stop at; it is also all that the readers of others open.
MAX_L1_SIZE: Final = 32 << 20
MAX_REFCOUNT_TABLE_SIZE: Final = 8 << 20
# Header and extensions take about 400 bytes, while a cluster, which they may fill, can have 2 MiB.
MAX_HEADER_AREA: Final = 64 << 10
MAX_HEADER_EXTENSIONS: Final = 64

_CONVERT: Final = "make a new image with qemu-img convert -O qcow2"
_DAMAGED: Final = "the image is damaged; look at it with qemu-img check, or copy it again"


class Qcow2Parameters(NamedTuple):
    """What a checked header says. Offsets and sizes are in bytes; `areas` are [start, end) of the metadata."""

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    areas: tuple[tuple[str, int, int], ...]
    extended: bool
    compression: int
    backing_name: bytes | None
    backing_format: bytes | None
    data_file_name: bytes | None
    dirty: bool
    # what matters only to who writes
    refcount_order: int
    snapshots: int
    bitmaps: bool
    autoclear: int


def read_header(file: HostFile) -> Qcow2Parameters:
    """Read and check the header of a qcow2 image.

    Raises:
        ImageFormatError: it is damaged, or asks for something that sipl does not read.
        ImageError: the file cannot be read.
    """
    data = bytes(file.read(0, min(file.size, MAX_HEADER_AREA)))
    if len(data) < HEADER_V2_SIZE:
        raise ImageFormatError(file.path, f"the file has {len(data)} bytes, less than a qcow2 header", _DAMAGED)
    header = unpack(Qcow2Header, data)
    if header.magic != QCOW2_MAGIC:
        raise ImageFormatError(file.path, "there is no qcow2 header", "is the format of the image the one stated?")
    later = _read_later_fields(file.path, header.version, data)
    compression = _check_features(file.path, header, later, data)
    _check_size(file.path, header, extended=bool(later.incompatible & INCOMPATIBLE_EXTENDED_L2))
    areas = _check_areas(file, header)
    extensions = _read_extensions(file.path, header, later.header_length, data)
    if header.crypt_method or EXTENSION_ENCRYPTION in extensions:
        raise ImageFormatError(file.path, "the image is encrypted", "decrypt it with qemu-img convert")
    return Qcow2Parameters(
        version=header.version,
        cluster_bits=header.cluster_bits,
        size=header.size // SECTOR_SIZE * SECTOR_SIZE,
        l1_offset=header.l1_offset,
        areas=areas,
        extended=bool(later.incompatible & INCOMPATIBLE_EXTENDED_L2),
        compression=compression,
        backing_name=_read_backing_name(file, header, later.header_length),
        backing_format=extensions.get(EXTENSION_BACKING_FORMAT),
        data_file_name=_data_file_name(file.path, later, extensions),
        dirty=bool(later.incompatible & INCOMPATIBLE_DIRTY),
        refcount_order=later.refcount_order,
        snapshots=header.snapshots,
        bitmaps=EXTENSION_BITMAPS in extensions,
        autoclear=later.autoclear,
    )


def _read_later_fields(path: str, version: int, data: bytes) -> Qcow2HeaderV3:
    if version == 2:
        return Qcow2HeaderV3(0, 0, 0, refcount_order=4, header_length=HEADER_V2_SIZE)
    if version != 3:
        raise ImageFormatError(path, f"this is qcow version {version}; versions 2 and 3 are read", _CONVERT)
    if len(data) < HEADER_V3_SIZE:
        raise ImageFormatError(path, f"the file has {len(data)} bytes, less than a qcow2 header", _DAMAGED)
    later = unpack(Qcow2HeaderV3, data, HEADER_V2_SIZE)
    if later.header_length < HEADER_V3_SIZE or later.header_length % 8 or later.header_length > len(data):
        raise ImageFormatError(path, f"the header has an impossible length of {later.header_length} bytes", _DAMAGED)
    if later.refcount_order > MAX_REFCOUNT_ORDER:
        raise ImageFormatError(
            path, f"the refcount order {later.refcount_order} is over {MAX_REFCOUNT_ORDER}", _DAMAGED
        )
    return later


def _check_features(path: str, header: Qcow2Header, later: Qcow2HeaderV3, data: bytes) -> int:
    """Refuse what cannot be read; return the compression type."""
    unknown = later.incompatible & ~INCOMPATIBLE_KNOWN
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        raise ImageFormatError(path, f"the image needs the unknown qcow2 feature, incompatible bit {bit}", _CONVERT)
    if later.incompatible & INCOMPATIBLE_CORRUPT:
        raise ImageFormatError(path, "the image is marked as corrupt (bit 1)", "repair it with qemu-img check -r all")
    if not MIN_CLUSTER_BITS <= header.cluster_bits <= MAX_CLUSTER_BITS:
        raise ImageFormatError(
            path, f"clusters of 2^{header.cluster_bits} bytes; 512 bytes to 2 MiB are read", _DAMAGED
        )
    if later.incompatible & INCOMPATIBLE_EXTENDED_L2 and header.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
        raise ImageFormatError(path, "the clusters are too small for subclusters", _DAMAGED)
    if later.header_length > 1 << header.cluster_bits:
        raise ImageFormatError(path, "the header is longer than a cluster", _DAMAGED)
    compression = data[COMPRESSION_TYPE_OFFSET] if later.header_length > COMPRESSION_TYPE_OFFSET else COMPRESSION_ZLIB
    if compression not in (COMPRESSION_ZLIB, COMPRESSION_ZSTD):
        raise ImageFormatError(path, f"compression type {compression} is unknown", _CONVERT)
    if bool(later.incompatible & INCOMPATIBLE_COMPRESSION) != (compression != COMPRESSION_ZLIB):
        raise ImageFormatError(path, f"compression type {compression} contradicts incompatible bit 3", _DAMAGED)
    return compression


def _check_size(path: str, header: Qcow2Header, *, extended: bool) -> None:
    if header.size < SECTOR_SIZE:
        raise ImageFormatError(path, f"the virtual disk has {header.size} bytes, less than one sector")
    if header.size > MAX_VIRTUAL_SIZE:
        raise ImageFormatError(path, f"the virtual disk has {header.size} bytes, more than 64 PiB", _DAMAGED)
    cluster_size = 1 << header.cluster_bits
    covered_by_l2 = cluster_size // (EXTENDED_ENTRY_SIZE if extended else TABLE_ENTRY_SIZE) * cluster_size
    needed = -(-header.size // covered_by_l2)
    if header.l1_entries < needed:
        raise ImageFormatError(
            path, f"the L1 table has {header.l1_entries} entries, the virtual disk needs {needed}", _DAMAGED
        )
    if header.l1_entries * TABLE_ENTRY_SIZE > MAX_L1_SIZE:
        raise ImageFormatError(path, f"the L1 table has {header.l1_entries} entries, over 32 MiB", _DAMAGED)


def _check_areas(file: HostFile, header: Qcow2Header) -> tuple[tuple[str, int, int], ...]:
    """Return where the metadata lies that has one place in the file, checked to lie apart and inside the file."""
    cluster_size = 1 << header.cluster_bits
    refcount_table_size = header.refcount_table_clusters * cluster_size
    if not 0 < refcount_table_size <= max(MAX_REFCOUNT_TABLE_SIZE, cluster_size):
        raise ImageFormatError(
            file.path, f"a refcount table of {header.refcount_table_clusters} clusters is not possible", _DAMAGED
        )
    areas = (
        ("header", 0, cluster_size),
        ("L1 table", header.l1_offset, header.l1_offset + header.l1_entries * TABLE_ENTRY_SIZE),
        ("refcount table", header.refcount_table_offset, header.refcount_table_offset + refcount_table_size),
    )
    for number, (name, start, end) in enumerate(areas[1:], 1):
        if start % cluster_size:
            raise ImageFormatError(file.path, f"the {name} at byte {start} does not begin with a cluster", _DAMAGED)
        # Nothing of the refcount table is read, and a file may end inside the cluster that is its last.
        if (end if name == "L1 table" else start + 1) > file.size:
            raise ImageFormatError(
                file.path, f"the {name} at byte {start} lies outside the file", "the image is truncated; copy it again"
            )
        for other, other_start, other_end in areas[:number]:
            if start < other_end and other_start < end:
                raise ImageFormatError(file.path, f"the {name} at byte {start} overlaps the {other}", _DAMAGED)
    return areas


def _read_extensions(path: str, header: Qcow2Header, header_length: int, data: bytes) -> dict[int, bytes]:
    """Return the data of the header extensions that matter here, by type."""
    end = header.backing_offset or 1 << header.cluster_bits
    known = (EXTENSION_BACKING_FORMAT, EXTENSION_ENCRYPTION, EXTENSION_DATA_FILE, EXTENSION_BITMAPS)
    found: dict[int, bytes] = {}
    offset = header_length
    for _ in range(MAX_HEADER_EXTENSIONS):
        if offset + size_of(HeaderExtension) > end:
            return found
        extension = unpack(HeaderExtension, data, offset) if offset + 8 <= len(data) else None
        if extension is None:
            break
        if extension.type == EXTENSION_END:
            return found
        offset += size_of(HeaderExtension)
        if extension.length > min(end, len(data)) - offset:
            raise ImageFormatError(
                path, f"the header extension {extension.type:#010x} of {extension.length} bytes does not fit", _DAMAGED
            )
        if extension.type in known:
            if extension.type in found:
                raise ImageFormatError(path, f"the header extension {extension.type:#010x} appears twice", _DAMAGED)
            found[extension.type] = data[offset : offset + extension.length]
        offset += -(-extension.length // EXTENSION_ALIGNMENT) * EXTENSION_ALIGNMENT
    raise ImageFormatError(path, "the header extensions do not end", _DAMAGED)


def _read_backing_name(file: HostFile, header: Qcow2Header, header_length: int) -> bytes | None:
    if header.backing_offset == 0:
        return None
    end = header.backing_offset + header.backing_size
    if (
        header.backing_offset < header_length
        or not 0 < header.backing_size <= MAX_FILE_NAME
        or end > min(1 << header.cluster_bits, file.size)
    ):
        raise ImageFormatError(
            file.path,
            f"{header.backing_size} bytes at byte {header.backing_offset} cannot be the name of a backing file",
            _DAMAGED,
        )
    return bytes(file.read(header.backing_offset, header.backing_size))


def _data_file_name(path: str, later: Qcow2HeaderV3, extensions: dict[int, bytes]) -> bytes | None:
    if not later.incompatible & INCOMPATIBLE_DATA_FILE:
        return None
    name = extensions.get(EXTENSION_DATA_FILE)
    if name is None:
        raise ImageFormatError(path, "the image has its data in another file, and does not say in which", _CONVERT)
    if len(name) > MAX_FILE_NAME:
        raise ImageFormatError(path, f"the name of the data file has {len(name)} bytes", _DAMAGED)
    return name
