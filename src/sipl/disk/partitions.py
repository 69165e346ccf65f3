"""Partition tables, as far as one must know them to stay clear of partitions (docs/formats/seal-room.md).

MBR and GPT. A table that is damaged, or of which two readers could think differently, is refused: what is written
beside partitions must be beside them for everybody.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.block_size import BLOCK_SIZES
from sipl.errors import SealRefused
from sipl.layout.partition_table import (
    GPT_BIOS_BOOT,
    GPT_HEADER_BLOCK,
    GPT_HEADER_CRC_OFFSET,
    GPT_MAGIC,
    GPT_REVISION,
    GPT_UNUSED,
    MBR_ENTRIES,
    MBR_ENTRIES_OFFSET,
    MBR_SIGNATURE,
    MBR_SIGNATURE_OFFSET,
    MBR_STATUSES,
    MBR_TYPE_EMPTY,
    MBR_TYPE_PROTECTIVE,
    GptEntry,
    GptHeader,
    MbrEntry,
)
from sipl.layout.record import size_of, unpack
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from sipl.disk.image import Image

# An array has 128 entries of 128 bytes; tools make some hundred at most, and Linux looks at 256.
MAX_GPT_ARRAY: Final = 1 << 20  # bytes

_REPAIR: Final = "look at it with fdisk -l or gdisk -l, and repair it there"


class TableKind(StrEnum):
    """The two forms of a partition table."""

    MBR = "MBR"
    GPT = "GPT"


class Partition(NamedTuple):
    """A partition, in logical blocks of the disk; an extended one stands for all that are in it."""

    number: int  # origin 1
    first: int
    last: int  # inclusive


class PartitionTable(NamedTuple):
    """What a disk's table says. `end` is the first block behind the table itself: header, array of entries."""

    kind: TableKind
    end: int
    partitions: tuple[Partition, ...]  # at least one, in the order in which they lie


def read_partition_table(image: Image, block_size: int) -> PartitionTable:
    """Read the partition table of a disk.

    Raises:
        SealRefused: no-partition-table, partition-table-invalid, partition-table-hybrid, partitions-overlap,
            bios-boot-area.
        ImageError: the image cannot be read.
        ImageFormatError: the image contradicts its format.
    """
    blocks = image.size // block_size
    if blocks <= GPT_HEADER_BLOCK + 1:
        raise _none(image, "it has no room for one")
    entries = _mbr_entries(image, blocks)
    protective = [entry for _, entry in entries if entry.type == MBR_TYPE_PROTECTIVE]
    has_gpt = image.read(GPT_HEADER_BLOCK * block_size, len(GPT_MAGIC)) == GPT_MAGIC
    _check_mixed(image, block_size, len(entries), len(protective), has_gpt=has_gpt)
    if protective:
        return _read_gpt(image, block_size, blocks)
    return _table(
        image, TableKind.MBR, 1, [Partition(n, e.first, e.first + e.blocks - 1) for n, e in entries], 1, blocks - 1
    )


def _none(image: Image, why: str) -> SealRefused:
    return SealRefused(
        SealReason.NO_PARTITION_TABLE,
        image.path,
        f"the disk has no partition table ({why}), so nothing tells which of its blocks are free",
        "seal a disk that is partitioned, or sign the files in the guest and run zipl --secure 1",
    )


def _invalid(image: Image, why: str) -> SealRefused:
    return SealRefused(
        SealReason.PARTITION_TABLE_INVALID, image.path, f"the partition table is damaged: {why}", _REPAIR
    )


def _mbr_entries(image: Image, blocks: int) -> list[tuple[int, MbrEntry]]:
    """Entries that are not empty, with their numbers."""
    block0 = image.read(0, MBR_SIGNATURE_OFFSET + len(MBR_SIGNATURE))
    if not block0.endswith(MBR_SIGNATURE):
        raise _none(image, "no 55 AA in block 0")
    found = []
    for number in range(MBR_ENTRIES):
        entry = unpack(MbrEntry, block0, MBR_ENTRIES_OFFSET + number * size_of(MbrEntry))
        if entry.status not in MBR_STATUSES:
            raise _none(image, f"entry {number + 1} in block 0 begins with {entry.status:#04x}")
        if entry.type == MBR_TYPE_EMPTY:
            # Tools take it for unused, Linux for a partition: it looks at the size alone.
            if entry.blocks:
                raise _invalid(image, f"partition {number + 1} has {entry.blocks} blocks and no type")
            continue
        # The protective entry says what it can about a disk that is too large for it.
        if entry.type != MBR_TYPE_PROTECTIVE and not (
            0 < entry.first < blocks and 0 < entry.blocks <= blocks - entry.first
        ):
            raise _invalid(
                image,
                f"partition {number + 1} has {entry.blocks} blocks from {entry.first} on, the disk has {blocks}",
            )
        found.append((number + 1, entry))
    if not found:
        raise _none(image, "the table in block 0 is empty")
    return found


def _check_mixed(image: Image, block_size: int, entries: int, protective: int, *, has_gpt: bool) -> None:
    """A disk has an MBR, or a GPT with one entry in the MBR that says so; anything else is read in two ways."""
    if protective and entries > 1:
        raise SealRefused(
            SealReason.PARTITION_TABLE_HYBRID,
            image.path,
            "the disk has a GPT and other partitions in its MBR (hybrid MBR)",
            "make the MBR a protective one, with gdisk",
        )
    if has_gpt and not protective:
        raise SealRefused(
            SealReason.PARTITION_TABLE_HYBRID,
            image.path,
            "the disk has a GPT, but its MBR does not say so",
            "remove the GPT with sgdisk --zap, or make the MBR a protective one, with gdisk",
        )
    if protective and not has_gpt:
        others = (size for size in BLOCK_SIZES if size + len(GPT_MAGIC) <= image.size)
        other = next((size for size in others if image.read(size, len(GPT_MAGIC)) == GPT_MAGIC), None)
        why = "the MBR announces a GPT, and there is none"
        if other is not None:
            why = f"the GPT is one for blocks of {other} bytes, the boot record one for {block_size}"
        raise _invalid(image, why)


def _read_gpt(image: Image, block_size: int, blocks: int) -> PartitionTable:
    header = _gpt_header(image, block_size, GPT_HEADER_BLOCK)
    if header is None:
        raise _invalid(image, "the header of the GPT has a wrong checksum")
    array_size = header.entries * header.entry_size
    array_end = header.entries_block + -(-array_size // block_size)
    if not (
        header.revision == GPT_REVISION
        and header.own_block == GPT_HEADER_BLOCK
        and header.entry_size >= size_of(GptEntry)
        and 0 < array_size <= MAX_GPT_ARRAY
        and GPT_HEADER_BLOCK < header.entries_block < array_end <= blocks
        and header.first_usable <= header.last_usable < blocks
    ):
        raise _invalid(image, "the header of the GPT has impossible values")
    array = image.read(header.entries_block * block_size, array_size)
    if zlib.crc32(array) != header.entries_crc:
        raise _invalid(image, "the entries of the GPT have a wrong checksum")
    _check_backup(image, block_size, blocks, header)
    found = []
    for number in range(header.entries):
        entry = unpack(GptEntry, array, number * header.entry_size)
        if entry.type == GPT_UNUSED:
            continue
        if entry.type == GPT_BIOS_BOOT:
            raise SealRefused(
                SealReason.BIOS_BOOT_AREA,
                image.path,
                f"partition {number + 1} is a BIOS boot area: the disk is one of other machines, too",
                "delete it if nothing boots from it",
            )
        found.append(Partition(number + 1, entry.first, entry.last))
    if not found:
        raise _none(image, "the GPT is empty")
    end = max(GPT_HEADER_BLOCK + 1, array_end)
    return _table(image, TableKind.GPT, end, found, header.first_usable, header.last_usable)


def _gpt_header(image: Image, block_size: int, block: int) -> GptHeader | None:
    """A header whose checksum is right; None where there is none."""
    content = image.read(block * block_size, block_size)
    header = unpack(GptHeader, content)
    if header.magic != GPT_MAGIC or not size_of(GptHeader) <= header.size <= block_size:
        return None
    counted = bytearray(content[: header.size])
    counted[GPT_HEADER_CRC_OFFSET : GPT_HEADER_CRC_OFFSET + 4] = bytes(4)
    return header if zlib.crc32(counted) == header.crc else None


def _check_backup(image: Image, block_size: int, blocks: int, header: GptHeader) -> None:
    """The other copy may be missing, as in an image that was cut or has grown; if it is there, it must say the same."""
    if not GPT_HEADER_BLOCK < header.other_block < blocks:
        return
    other = _gpt_header(image, block_size, header.other_block)
    if other is not None and (other.entries_crc, other.disk) != (header.entries_crc, header.disk):
        raise _invalid(image, "the two copies of the GPT differ")


def _table(
    image: Image, kind: TableKind, end: int, partitions: list[Partition], first_usable: int, last_usable: int
) -> PartitionTable:
    """Check the partitions against the disk and each other."""
    for partition in partitions:
        if not first_usable <= partition.first <= partition.last <= last_usable:
            raise _invalid(
                image,
                f"partition {partition.number} is said to go from block {partition.first} to {partition.last}, "
                f"where {first_usable} to {last_usable} are possible",
            )
    placed = sorted(partitions, key=lambda one: (one.first, one.number))
    for one, other in pairwise(placed):
        if other.first <= one.last:
            raise SealRefused(
                SealReason.PARTITIONS_OVERLAP,
                image.path,
                f"partitions {one.number} and {other.number} overlap at block {other.first}",
                _REPAIR,
            )
    return PartitionTable(kind, end, tuple(placed))
