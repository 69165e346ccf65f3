"""Segment tables: which blocks make up a component (docs/formats/boot-record.md, "Segment tables").

The tables of a component are walked to their end before one data block is read, so that its length, and with it the
memory that it would take, is known first.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.boot_record import FILLER, LAST_SEGMENT_SLOT, POINTER_SIZE, BlockPointer
from sipl.layout.record import unpack
from sipl.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.firmware.blocks import BlockReader


class Segments:
    """The blocks of a component in order, neighbours joined; `length` in bytes, always whole blocks."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        # Block number and count in turn: a table may name a block per 16 bytes, so an entry must stay small.
        self._runs = array("Q")
        self.blocks = 0

    @property
    def length(self) -> int:
        """Bytes of all blocks."""
        return self.blocks * self._block_size

    def append(self, block: int, count: int) -> None:
        """Add blocks behind those that are there."""
        if self._runs and self._runs[-2] + self._runs[-1] == block:
            self._runs[-1] += count
        else:
            self._runs.extend((block, count))
        self.blocks += count

    def runs(self) -> Iterator[tuple[int, int]]:
        """First block and number of blocks of each run."""
        values = iter(self._runs)
        return zip(values, values, strict=True)

    def read(self, reader: BlockReader, address: int) -> None:
        """Read all blocks to an absolute address."""
        for block, count in self.runs():
            reader.data(block, count, address)
            address += count * self._block_size


def walk_segment_tables(reader: BlockReader, table: int, room: int) -> Segments:
    """Follow the chain of segment tables that starts at block `table`.

    `room` is how many bytes can be of use: a chain is given up when it has more tables than a component of that size
    needs, one block per pointer. A chain that names more bytes than that is returned as it is, for the caller to judge.

    Raises:
        DeviceGivenUp: segment-unreadable (a pointer with another block size, a chain that meets itself or does not
            end); block-out-of-range.
    """
    segments = Segments(reader.block_size)
    slots = reader.block_size // POINTER_SIZE
    most_tables = room // ((slots - 1) * reader.block_size) + 2
    seen: set[int] = set()
    link: int | None = table
    while link is not None:
        if link in seen:
            raise DeviceGivenUp(Reason.SEGMENT_UNREADABLE, f"the segment tables form a loop at block {link}")
        if len(seen) == most_tables:
            raise DeviceGivenUp(Reason.SEGMENT_UNREADABLE, f"the segment tables do not end after {most_tables} blocks")
        seen.add(link)
        link = _read_table(reader, link, segments)
    return segments


def _read_table(reader: BlockReader, table: int, segments: Segments) -> int | None:
    """Add what one table names; the result is the block of the next table or None."""
    # The firmware sees filler behind the block, and by it tells a link in the last slot of a block.
    content = reader.metadata(table, "a segment table pointer") + FILLER
    for offset in range(0, len(content), POINTER_SIZE):
        pointer = unpack(BlockPointer, content, offset)
        if not pointer.block:
            return None
        at_last_slot = offset // POINTER_SIZE == LAST_SEGMENT_SLOT
        before_filler = content[offset + POINTER_SIZE : offset + 2 * POINTER_SIZE] == FILLER
        if at_last_slot or (not pointer.count_less_one and before_filler):
            return pointer.block
        if pointer.size != reader.block_size:
            raise DeviceGivenUp(
                Reason.SEGMENT_UNREADABLE,
                f"segment table at block {table}: a pointer says {pointer.size} bytes per block, "
                f"the disk has {reader.block_size}",
            )
        count = pointer.count_less_one + 1
        reader.check(pointer.block, count, f"segment table at block {table}")
        segments.append(pointer.block, count)
    # The filler behind the block reads as a pointer of another block size; the loop never leaves it.
    raise AssertionError("unreachable: filler is never a valid pointer")
