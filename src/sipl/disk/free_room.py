"""Room on a disk that nobody uses: between the partition table and the first partition (docs/formats/seal-room.md).

Room is free only where every byte is zero, or was written there by `sipl seal` and proves it. Whatever else is there
belongs to somebody, known or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.partitions import read_partition_table
from sipl.disk.seal_frames import read_header, sector_digest
from sipl.errors import SealRefused
from sipl.layout.boot_record import BOOT_RECORD_SIZE
from sipl.layout.partition_table import MBR_ENTRIES_OFFSET
from sipl.layout.seal_room import SECTOR
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.disk.image import Image
    from sipl.disk.partitions import PartitionTable
    from sipl.disk.seal_frames import Frame

# The first partition begins at 1 MiB on nearly every disk, and no seal needs as much. Of a larger gap, only the start
# is looked at and used.
MAX_ROOM: Final = 16 << 20
# A table with its array of entries is far smaller than the room behind it, so that all frames lie below this.
_FRAMES_END: Final = 2 * MAX_ROOM

_ZERO_SECTOR: Final = bytes(SECTOR)
_CHUNK: Final = 1 << 20

# What others put in front of partitions, by what it has at the start of a sector.
_AT_START: Final = (
    (SealReason.GAP_HOLDS_LVM, "LVM", b"LABELONE"),
    (SealReason.GAP_HOLDS_LUKS, "LUKS", b"LUKS\xba\xbe"),
    (SealReason.GAP_HOLDS_LUKS, "LUKS", b"SKUL\xba\xbe"),
    (SealReason.GAP_HOLDS_MD, "Linux software RAID (md)", b"\xfc\x4e\x2b\xa9"),
    (SealReason.GAP_HOLDS_MD, "Linux software RAID (md)", b"\xa9\x2b\x4e\xfc"),
)
# The name stands in the first block of GRUB; the start of its core has only what it prints.
_GRUB: Final = (b"GRUB", b"loading\0.\0\r\n\0Geom\0Read\0 Error")


class FreeRoom(NamedTuple):
    """Blocks `first` to `end` - 1 of the disk; `frames` are what `sipl seal` has left there, in order."""

    table: PartitionTable
    first: int
    end: int
    frames: tuple[Frame, ...]

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self.end - self.first


def find_free_room(image: Image, block_size: int) -> FreeRoom:
    """Find the room in front of the first partition and prove that it is free.

    Raises:
        SealRefused: as `read_partition_table`; no-gap, gap-not-empty, gap-holds-grub, gap-holds-lvm, gap-holds-md,
            gap-holds-luks.
        ImageError: the image cannot be read.
        ImageFormatError: the image contradicts its format.
    """
    table = read_partition_table(image, block_size)
    # What zipl leaves of block 0 is where other boot loaders have their first code.
    if any(name in image.read(BOOT_RECORD_SIZE, MBR_ENTRIES_OFFSET - BOOT_RECORD_SIZE) for name in _GRUB):
        raise _taken(image, SealReason.GAP_HOLDS_GRUB, "GRUB", BOOT_RECORD_SIZE)
    end = min(table.partitions[0].first, table.end + MAX_ROOM // block_size)
    if end <= table.end:
        first = table.partitions[0]
        raise SealRefused(
            SealReason.NO_GAP,
            image.path,
            f"partition {first.number} begins at block {first.first}, directly behind the partition table",
            "sign the files in the guest and run zipl --secure 1",
        )
    frames = _look_through(image, block_size, table.end, end)
    return FreeRoom(table, table.end, end, frames)


def find_frames(image: Image, block_size: int) -> tuple[Frame, ...]:
    """Frames of `sipl seal` wherever room can have been, whatever else is there by now.

    Raises:
        ImageError: the image cannot be read.
        ImageFormatError: the image contradicts its format.
    """
    frames = []
    for offset, sector in _sectors(image, block_size, min(image.size // SECTOR * SECTOR, _FRAMES_END)):
        block, within = divmod(offset, block_size)
        frame = None if within else read_header(sector, block, block_size)
        if frame is not None and frame.end * block_size <= image.size:
            frames.append(frame)
    return tuple(frames)


def _look_through(image: Image, block_size: int, first: int, end: int) -> tuple[Frame, ...]:
    """Find the frames, and whatever is neither zero nor in one of them."""
    frames: list[Frame] = []
    others: list[tuple[int, bytes]] = []  # offset and content of sectors that are not zero
    for offset, sector in _sectors(image, first * block_size, end * block_size):
        block, within = divmod(offset, block_size)
        frame = None if within else read_header(sector, block, block_size)
        if frame is not None and frame.end <= end:
            frames.append(frame)
        else:
            others.append((offset, sector))
    known = _known_digests(frames, block_size)
    foreign = [(offset, sector) for offset, sector in others if sector_digest(sector) not in known.get(offset, ())]
    for offset, sector in foreign:
        for reason, name, magic in _AT_START:
            if sector.startswith(magic):
                raise _taken(image, reason, name, offset)
        if any(name in sector for name in _GRUB):
            raise _taken(image, SealReason.GAP_HOLDS_GRUB, "GRUB", offset)
    if foreign:
        raise SealRefused(
            SealReason.GAP_NOT_EMPTY,
            image.path,
            f"in front of the first partition, at byte {foreign[0][0]:#x}, lies something that is not sipl's",
            f"find out what it is; only if nobody needs it, fill blocks {first} to {end - 1} with zeros",
        )
    return tuple(frames)


def _sectors(image: Image, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Sectors that are not all zero."""
    for at in range(start, end, _CHUNK):
        chunk = image.read(at, min(_CHUNK, end - at))
        if chunk.count(0) == len(chunk):
            continue
        for within in range(0, len(chunk), SECTOR):
            sector = chunk[within : within + SECTOR]
            if sector != _ZERO_SECTOR:
                yield at + within, sector


def _known_digests(frames: list[Frame], block_size: int) -> dict[int, set[bytes]]:
    """What the frames say of the sectors of their content, by byte of the disk."""
    known: dict[int, set[bytes]] = {}
    for frame in frames:
        start = (frame.block + 1) * block_size
        for number, digest in enumerate(frame.digests):
            known.setdefault(start + number * SECTOR, set()).add(digest)
    return known


def _taken(image: Image, reason: SealReason, name: str, offset: int) -> SealRefused:
    return SealRefused(
        reason,
        image.path,
        f"{name} lies in front of the first partition, at byte {offset:#x}",
        "sign the files in the guest and run zipl --secure 1",
    )
