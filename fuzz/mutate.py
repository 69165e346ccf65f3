"""Changes of what lies on a disk, most of them in the terms of the boot record, some of single bytes."""

from __future__ import annotations

import struct

from fuzz.disk_reader import LOAD, SIGNATURE, DiskReader
from fuzz.disks import interesting_address

MAX_IMAGE = 4 << 20


class Mutant:
    def __init__(self, choices, image, block_size):
        self.choices = choices
        self.image = bytearray(image)
        self.block_size = block_size

    def reader(self):
        return DiskReader(self.image, self.block_size)

    def table(self):
        """Block of one of the component tables, 0 if there is none."""
        tables = [table for table in self.reader().component_tables() if table]
        return self.choices.pick(tables) if tables else 0

    def entries(self, kind=None):
        reader = self.reader()
        table = self.table()
        return [entry for entry in (reader.entries(table) if table else []) if kind in (None, entry.type)]

    def entry(self, kind=None):
        entries = self.entries(kind)
        return self.choices.pick(entries) if entries else None

    def put(self, offset, fmt, *values):
        if offset >= 0 and offset + struct.calcsize(fmt) <= len(self.image):
            struct.pack_into(fmt, self.image, offset, *values)

    def move(self, source, target, length):
        data = self.image[source : source + length]
        if len(data) == length and target + length <= len(self.image):
            self.image[target : target + length] = data

    def append(self, data):
        """Put blocks behind the disk; returns the number of the first."""
        block = len(self.image) // self.block_size
        if len(self.image) < MAX_IMAGE:
            self.image += data + bytes(-len(data) % self.block_size)
        return block

    def ranges(self, reader, entries):
        return [
            (entry.number, entry.number + len(reader.content(entry.segment_table)))
            for entry in entries
            if entry.type == LOAD
        ]

    def signed_block(self):
        """A block of a component, and where it lies in the image."""
        entry = self.entry(LOAD)
        if entry is None:
            return 0
        slots = [slot for slot in self.reader().slots(entry.segment_table) if not slot.link]
        return self.choices.pick(slots).block * self.block_size if slots else 0


def _address(mutant):
    entries = mutant.entries()
    loads = [entry for entry in entries if entry.type == LOAD]
    if loads:
        address = interesting_address(mutant.choices, mutant.ranges(mutant.reader(), loads))
        mutant.put(mutant.choices.pick(loads).offset + 24, ">Q", address)


def _swap_entries(mutant):
    entries = mutant.entries()
    if len(entries) > 1:
        a, b = mutant.choices.pick(entries).offset, mutant.choices.pick(entries).offset
        first, second = bytes(mutant.image[a : a + 32]), bytes(mutant.image[b : b + 32])
        mutant.image[a : a + 32], mutant.image[b : b + 32] = second, first


def _repeat_entry(mutant):
    """Insert a copy of an entry, or of a signature and its component, before another."""
    entries = mutant.entries()
    if not entries:
        return
    first = mutant.choices.below(len(entries))
    count = 2 if entries[first].type == SIGNATURE and mutant.choices.chance(192) else 1
    source = entries[first].offset
    copied = bytes(mutant.image[source : source + 32 * count])
    target = mutant.choices.pick(entries).offset
    end = (target // mutant.block_size + 1) * mutant.block_size
    behind = bytes(mutant.image[target : end - len(copied)])
    mutant.image[target:end] = (copied + behind)[: end - target]
    if mutant.choices.chance(160):
        at = target + 32 * (count - 1)
        ranges = mutant.ranges(mutant.reader(), entries)
        mutant.put(at + 24, ">Q", interesting_address(mutant.choices, ranges))


def _remove_entry(mutant):
    entry = mutant.entry()
    if entry is not None:
        end = (entry.offset // mutant.block_size + 1) * mutant.block_size
        mutant.image[entry.offset : end] = mutant.image[entry.offset + 32 : end] + bytes(32)


def _insert_evil(mutant):
    """Insert an unsigned component with bytes of its own, aimed at what is there."""
    choices = mutant.choices
    entries = mutant.entries()
    if not entries:
        return
    blocks = choices.pick((1, 2, 8, 32))
    data = mutant.append(b"\xe7" * blocks * mutant.block_size)
    table = mutant.append(struct.pack(">QHH4x", data, mutant.block_size, blocks - 1))
    address = interesting_address(choices, mutant.ranges(mutant.reader(), entries))
    target = choices.pick(entries).offset
    end = (target // mutant.block_size + 1) * mutant.block_size
    entry = struct.pack(">QHH11xBQ", table, mutant.block_size, 0, LOAD, address)
    mutant.image[target:end] = (entry + bytes(mutant.image[target:end]))[: end - target]


def _alias(mutant):
    """Let an entry use the segment table of another, of the same or of another type."""
    entries = mutant.entries()
    if entries:
        a, b = mutant.choices.pick(entries), mutant.choices.pick(entries)
        mutant.put(a.offset, ">Q", b.segment_table)


def _swap_signatures(mutant):
    signatures = mutant.entries(SIGNATURE)
    if len(signatures) > 1:
        a, b = mutant.choices.pick(signatures), mutant.choices.pick(signatures)
        mutant.put(a.offset, ">Q", b.segment_table)
        mutant.put(b.offset, ">Q", a.segment_table)
        if mutant.choices.chance(192):
            mutant.put(a.offset + 24, ">8s", b.value)
            mutant.put(b.offset + 24, ">8s", a.value)


def _signature_info(mutant):
    entry = mutant.entry(SIGNATURE)
    if entry is None:
        return
    if mutant.choices.chance(64):
        mutant.put(entry.offset + 24, ">B", mutant.choices.pick((1, 0, 2, 255)))
    else:
        near = entry.signature_length + mutant.choices.below(9) - 4
        length = mutant.choices.pick((near, 0, 1, 4096, 4097, 0xFFFF_FFFF, 512))
        mutant.put(entry.offset + 28, ">I", length & 0xFFFF_FFFF)


def _type(mutant):
    entry = mutant.entry()
    if entry is not None:
        mutant.put(entry.offset + 23, ">B", mutant.choices.pick((2, 3, 1, 0, 4, 255)))


def _psw(mutant):
    entry = mutant.entry(1)
    if entry is not None:
        ranges = mutant.ranges(mutant.reader(), mutant.entries())
        address = interesting_address(mutant.choices, ranges) & 0x7FFF_FFFF
        mutant.put(entry.offset + 24, ">Q", entry.number & ~0x7FFF_FFFF | address)


def _segment(mutant):
    """Change one pointer of a segment table, or the chain."""
    choices = mutant.choices
    entry = mutant.entry()
    slots = mutant.reader().slots(entry.segment_table) if entry is not None else []
    if not slots:
        return
    slot = choices.pick(slots)
    kind = choices.below(8)
    if kind == 0:
        mutant.put(slot.offset, ">Q", choices.below(max(1, len(mutant.image) // mutant.block_size)))
    elif kind == 1:
        mutant.put(slot.offset + 10, ">H", choices.pick((0, 1, slot.count & 0xFFFF, 7, 300, 0xFFFF)))
    elif kind == 2:
        mutant.put(slot.offset + 8, ">H", choices.pick((512, 0, 4096, 511)))
    elif kind == 3:
        other = choices.pick(slots)
        first, second = bytes(mutant.image[slot.offset :][:16]), bytes(mutant.image[other.offset :][:16])
        mutant.put(slot.offset, ">16s", second)
        mutant.put(other.offset, ">16s", first)
    elif kind == 4:
        mutant.put(slot.offset, ">16s", choices.pick((bytes(16), b"\xaa" * 16)))
    elif kind == 5:
        last = (slot.offset // mutant.block_size + 1) * mutant.block_size - 16
        mutant.put(last, ">QHH4x", entry.segment_table, mutant.block_size, 0)
    elif kind == 6:
        further = choices.pick((1 << 32, 1, (1 << 64) - slot.block - 1, 1 << 31))
        mutant.put(slot.offset, ">Q", (slot.block + further) % (1 << 64))
    else:
        mutant.move(slot.offset, slot.offset + 16, 16)


def _split(mutant):
    """Write a segment with a pointer for each block, which changes nothing."""
    entry = mutant.entry(LOAD)
    if entry is None:
        return
    reader = mutant.reader()
    slots = [slot for slot in reader.slots(entry.segment_table) if not slot.link]
    blocks = [(slot.block + i) % (1 << 64) for slot in slots for i in range(min(slot.count, 400))]
    room = mutant.block_size // 16 - 1
    if not blocks or len(reader.segment_tables(entry.segment_table)) != 1 or len(blocks) > 2 * room:
        return
    link = 0
    for start in reversed(range(0, len(blocks), room)):
        part = b"".join(struct.pack(">QHH4x", block, mutant.block_size, 0) for block in blocks[start : start + room])
        link = mutant.append(
            part.ljust(room * 16, b"\0") + struct.pack(">QHH4x", link, mutant.block_size if link else 0, 0)
        )
    mutant.put(entry.offset, ">Q", link)


def _blocks(mutant):
    """Copy one block over another."""
    count = len(mutant.image) // mutant.block_size
    source, target = mutant.choices.below(count), mutant.choices.below(count)
    mutant.move(source * mutant.block_size, target * mutant.block_size, mutant.block_size)


def _flip_anywhere(mutant):
    for _ in range(1 + mutant.choices.below(4)):
        at = mutant.choices.below(len(mutant.image))
        mutant.image[at] ^= 1 << mutant.choices.below(8)


def _flip_table(mutant):
    table = mutant.table()
    if table and (table + 1) * mutant.block_size <= len(mutant.image):
        at = table * mutant.block_size + mutant.choices.below(min(512, mutant.block_size))
        mutant.image[at] ^= 1 << mutant.choices.below(8)


def _flip_data(mutant):
    at = mutant.signed_block()
    if 0 < at <= len(mutant.image) - mutant.block_size:
        mutant.image[at + mutant.choices.below(mutant.block_size)] ^= 1 << mutant.choices.below(8)


def _flip_signature(mutant):
    entry = mutant.entry(SIGNATURE)
    slots = mutant.reader().slots(entry.segment_table) if entry is not None else []
    if slots:
        at = slots[0].block * mutant.block_size + mutant.choices.below(mutant.block_size)
        if at < len(mutant.image):
            mutant.image[at] ^= 1 << mutant.choices.below(8)


def _programs(mutant):
    """Change the boot record or the program table."""
    choices = mutant.choices
    table = mutant.reader().program_table() * mutant.block_size
    kind = choices.below(4)
    if kind == 0:
        mutant.put(table + 16 * (1 + choices.below(4)), ">Q", choices.below(len(mutant.image) // mutant.block_size))
    elif kind == 1:
        mutant.move(table + 16, table + 16 * (1 + choices.below(31)), 16)
    elif kind == 2:
        mutant.put(choices.below(32), ">B", choices.below(256))
    else:
        mutant.put(4, ">I", choices.below(3))


def _cut(mutant):
    blocks = len(mutant.image) // mutant.block_size
    lost = mutant.choices.below(blocks) if mutant.choices.chance(64) else mutant.choices.below(9)
    del mutant.image[max(1, blocks - lost) * mutant.block_size :]


MUTATIONS = (
    _address,
    _address,
    _swap_entries,
    _repeat_entry,
    _insert_evil,
    _insert_evil,
    _alias,
    _swap_signatures,
    _segment,
    _split,
    _flip_anywhere,
    _flip_data,
    _remove_entry,
    _signature_info,
    _type,
    _psw,
    _blocks,
    _flip_table,
    _flip_signature,
    _programs,
    _cut,
)


def mutate(choices, image, block_size):
    """Change a disk in none to four ways."""
    mutant = Mutant(choices, image, block_size)
    for _ in range(choices.pick((0, 1, 1, 1, 1, 2, 2, 4))):
        if len(mutant.image) >= block_size:
            choices.pick(MUTATIONS)(mutant)
    return bytes(mutant.image)
