"""A reader of boot records for the checker and the mutator, which shares nothing with the boot side.

It follows docs/formats/boot-record.md and finds as much as there is: what is not there is left out, nothing raises.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"zIPL"
FILLER = b"\xaa" * 16
MAX_TABLES = 4096
PROGRAMS = 31
EXECUTE, LOAD, SIGNATURE = 1, 2, 3


class Entry(NamedTuple):
    """A component entry; `offset` is where it lies in the image."""

    offset: int
    segment_table: int
    type: int
    value: bytes

    @property
    def number(self):
        """Load address or PSW."""
        return int.from_bytes(self.value, "big")

    @property
    def signature_length(self):
        return int.from_bytes(self.value[4:], "big")


class Slot(NamedTuple):
    """A pointer in a segment table; `offset` is where it lies in the image."""

    offset: int
    block: int
    size: int
    count: int
    link: bool


class DiskReader:
    def __init__(self, image, block_size):
        self.image = image
        self.block_size = block_size
        self.blocks = len(image) // block_size

    def block(self, number):
        if not 0 <= number < self.blocks:
            return b""
        return bytes(self.image[number * self.block_size : (number + 1) * self.block_size])

    def program_table(self):
        """Block of the program table, 0 if there is none."""
        start = self.block(0)
        return struct.unpack_from(">Q", start, 16)[0] if start.startswith(MAGIC) else 0

    def component_tables(self):
        """Blocks of the component tables by number of the program; 0 for an empty entry."""
        table = self.block(self.program_table())
        return [struct.unpack_from(">Q", table, 16 + 16 * i)[0] for i in range(PROGRAMS)] if table else []

    def entries(self, table):
        """The entries of a component table, up to EXEC or the end of the block."""
        content = self.block(table)
        found = []
        for at in range(32, len(content) - 31, 32):
            first, kind, value = struct.unpack_from(">Q15xB8s", content, at)
            found.append(Entry(table * self.block_size + at, first, kind, value))
            if kind == EXECUTE:
                break
        return found

    def slots(self, table):
        """The pointers of one segment table, up to the end of the segment."""
        content = self.block(table)
        found = []
        for i in range(len(content) // 16):
            block, size, last = struct.unpack_from(">QHH", content, 16 * i)
            if not block:
                break
            behind = content[16 * i + 16 : 16 * i + 32] or FILLER
            link = i == 255 or (last == 0 and behind == FILLER)
            found.append(Slot(table * self.block_size + 16 * i, block, size, last + 1, link))
            if link:
                break
        return found

    def segment_tables(self, table):
        """Blocks of a chain of segment tables."""
        chain = []
        while table not in chain and 0 <= table < self.blocks and len(chain) < MAX_TABLES:
            chain.append(table)
            slots = self.slots(table)
            if not slots or not slots[-1].link:
                break
            table = slots[-1].block
        return chain

    def content(self, table):
        """All bytes of a component or a signature."""
        bs = self.block_size
        slots = (slot for one in self.segment_tables(table) for slot in self.slots(one) if not slot.link)
        return b"".join(bytes(self.image[slot.block * bs : (slot.block + slot.count) * bs]) for slot in slots)
