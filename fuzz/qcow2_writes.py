"""Writing to qcow2 images of any content: what is written is there, and the rest of the disk is what it was.

Bytes decide on an image in good order, on changes of its header and tables, and on the writes. The images are made and
checked here, without the package.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections import Counter

from fuzz.choices import Choices
from sipl.disk.open import open_image
from sipl.disk.open_writer import open_writer
from sipl.errors import SiplError

CASE_LENGTH = 128
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = 0x00FF_FFFF_FFFF_FE00
MAX_WRITES = 6


class LostData(AssertionError):
    """A write has changed something else than what it was to change, or not what it was to."""


class Qcow2Disk:
    """An image in good order: clusters of all kinds, the reference counts right. `tables` are where entries lie."""

    def __init__(self, choices):
        self.version = choices.pick((3, 3, 2))
        self.extended = self.version == 3 and choices.chance(64)
        self.bits = 14 if self.extended else choices.pick((9, 9, 9, 10, 12))
        self.order = choices.pick((4, 4, 0, 1, 2, 3, 5, 6)) if self.version == 3 else 4
        self.cluster = 1 << self.bits
        self.width = 16 if self.extended else 8
        self.per_table = self.cluster // self.width
        self.clusters = choices.pick((4, 5, 9, self.per_table + 3 if self.bits == 9 else 6))
        self.size = self.clusters * self.cluster - choices.pick((0, 0, 512 if self.cluster > 512 else 0))
        self.image = bytearray()
        self._build(choices)

    def _take(self, data):
        """Put whole clusters at the end; returns their offset."""
        at = len(self.image)
        self.image += data + bytes(-len(data) % self.cluster)
        return at

    def _build(self, choices):
        self._take(bytes(self.cluster))
        self.counts_table = self._take(bytes(self.cluster))
        per_block = self.cluster * 8 >> self.order
        self.l1_entries = -(-self.clusters // self.per_table)
        blocks = 1 + (self.l1_entries + self.clusters + 8) // per_block
        self.counts = [self._take(bytes(self.cluster)) for _ in range(blocks)]
        self.l1 = self._take(bytes(self.cluster))
        self.l2 = []
        for number in range(self.l1_entries):
            if number and choices.chance(128):
                continue
            table = self._take(bytes(self.cluster))
            self.l2.append(table)
            struct.pack_into(">Q", self.image, self.l1 + 8 * number, table | COPIED)
            for index in range(min(self.per_table, self.clusters - number * self.per_table)):
                self._entry(choices, table + index * self.width, number * self.per_table + index)
        counted = self.references(self.image)
        for cluster, count in enumerate(counted):
            self.set_count(cluster, count)
        fields = (b"QFI\xfb", self.version, 0, 0, self.bits, self.size, 0, self.l1_entries, self.l1)
        struct.pack_into(">4sIQIIQIIQQIIQ", self.image, 0, *fields, self.counts_table, 1, 0, 0)
        if self.version == 3:
            struct.pack_into(">QQQIIQ", self.image, 72, 16 if self.extended else 0, 0, 0, self.order, 112, 0)
        for number, block in enumerate(self.counts):
            struct.pack_into(">Q", self.image, self.counts_table + 8 * number, block)

    def _entry(self, choices, at, number):
        """The L2 entry of a cluster of the disk."""
        kind = choices.pick(("data", "data", "hole", "zero", "zero with a cluster", "compressed"))
        data = random.Random(number).randbytes(self.cluster)
        bitmap = 0
        if kind == "compressed":
            packer = zlib.compressobj(9, zlib.DEFLATED, -12)
            packed = packer.compress(bytes([number % 256, 1]) * (self.cluster // 2)) + packer.flush()
            host = self._take(packed)
            sectors = (host + len(packed) - 1) // 512 - host // 512
            entry = COMPRESSED | sectors << (70 - self.bits) | host
        elif kind == "hole" or (kind != "data" and self.version == 2):
            entry = 0
        else:
            entry = self._take(data) | COPIED if kind != "zero" else 0
            bitmap = 0xFFFF_FFFF if kind == "data" else choices.pick((0xFFFF_FFFF << 32, 0x0000_FFFF, 0xFF00_0000_00FF))
            if kind == "zero":
                bitmap = 0xFFFF_FFFF << 32
            if kind != "data" and not self.extended:
                entry |= 1
        struct.pack_into(">QQ"[: 1 + self.width // 8], self.image, at, *(entry, bitmap)[: self.width // 8])

    def set_count(self, cluster, count):
        per_block = self.cluster * 8 >> self.order
        bits = 1 << self.order
        block, index = divmod(cluster, per_block)
        start = self.counts[block] * 8 + index * bits
        if bits >= 8:
            self.image[start // 8 : (start + bits) // 8] = count.to_bytes(bits // 8, "big")
        else:
            self.image[start // 8] |= count << start % 8

    def references(self, image):
        """How often each cluster of a file is referred to; the tables are those of an image in good order."""
        found = Counter([0, self.counts_table // self.cluster, self.l1 // self.cluster])
        for (block,) in struct.iter_unpack(">Q", image[self.counts_table : self.counts_table + self.cluster]):
            found[block // self.cluster] += bool(block)
        if not any(image[self.counts_table : self.counts_table + self.cluster]):  # not there yet
            found.update(block // self.cluster for block in self.counts)
        for number in range(self.l1_entries):
            table = struct.unpack_from(">Q", image, self.l1 + 8 * number)[0] & OFFSET
            if not table:
                continue
            found[table // self.cluster] += 1
            for index in range(self.per_table):
                (entry,) = struct.unpack_from(">Q", image, table + index * self.width)
                if entry & COMPRESSED:
                    width = 70 - self.bits
                    host, sectors = entry & ((1 << width) - 1), (entry & (COMPRESSED - 1)) >> width
                    last = (host // 512 + sectors) * 512
                    found.update(range(host // self.cluster, last // self.cluster + 1))
                elif entry & OFFSET:
                    found[(entry & OFFSET) // self.cluster] += 1
        return [found[number] for number in range(-(-len(image) // self.cluster))]

    def stated(self, image):
        """What the reference counts say of each cluster of a file."""
        per_block = self.cluster * 8 >> self.order
        bits = 1 << self.order
        found = []
        for cluster in range(-(-len(image) // self.cluster)):
            block, index = divmod(cluster, per_block)
            (at,) = struct.unpack_from(">Q", image, self.counts_table + 8 * block)
            start = at * 8 + index * bits
            width = max(1, bits // 8)
            value = int.from_bytes(image[start // 8 : start // 8 + width], "big") if at else 0
            found.append(value >> start % 8 & ((1 << bits) - 1))
        return found


def change(choices, disk):
    """Change an entry of a table or a field of the header; says whether anything was."""
    image = disk.image
    for number in range(changes := choices.pick((0, 0, 1, 1, 1, 2, 3))):
        kind = choices.below(8)
        near = choices.below(len(image) // disk.cluster + 2) * disk.cluster
        value = choices.pick((near | COPIED, near | COPIED, near, near | COPIED | 1, near | COMPRESSED, near + 512, 0))
        if kind < 4:
            at = choices.pick(disk.l2) + choices.below(min(disk.per_table, disk.clusters)) * disk.width
            if choices.chance(64):
                other = choices.pick(disk.l2) + choices.below(min(disk.per_table, disk.clusters)) * disk.width
                image[at : at + disk.width] = image[other : other + disk.width]
            elif choices.chance(32):
                image[at + choices.below(disk.width)] ^= 1 << choices.below(8)
            else:
                struct.pack_into(">Q", image, at, value)
        elif kind == 4:
            struct.pack_into(">Q", image, disk.l1 + 8 * choices.below(disk.l1_entries + 1), value)
        elif kind == 5:
            struct.pack_into(">Q", image, disk.counts_table + 8 * choices.below(len(disk.counts) + 2), value & ~COPIED)
        elif kind == 6:
            image[choices.pick(disk.counts) + choices.below(min(disk.cluster, 64))] ^= 1 << choices.below(8)
        else:
            image[choices.pick((7, 23, 31, 32 - 2, 39, 47, 46, 55, 54, 59, 63, 79, 95, 99, 103, 104, 113))] ^= (
                1 << choices.below(8)
            )
        del number
    if choices.chance(24):
        del image[choices.below(len(image)) :]
        changes += 1
    return changes > 0


class Qcow2Writes:
    """What all executions have in common: a file, and counts."""

    def __init__(self, path):
        self._path = path
        self.executions = 0
        self.written = 0
        self.refused = Counter()

    def execute(self, data):
        """Run one case.

        Raises:
            LostData: the disk is not what it should be, or the image is not in order any more.
        """
        self.executions += 1
        choices = Choices(data)
        disk = Qcow2Disk(choices)
        changed = change(choices, disk)
        with open(self._path, "wb") as file:
            file.write(disk.image)
        before = self._read(disk.cluster)
        expected = dict(before)
        try:
            with open_writer(self._path) as image:
                for _ in range(1 + choices.below(MAX_WRITES)):
                    self._write(choices, image, disk, expected)
                    self.written += 1
                image.flush()
        except SiplError as error:
            if not str(error).isprintable():
                raise LostData("a message would drive a terminal") from error
            self.refused[getattr(error, "reason", type(error).__name__)] += 1
            if not changed:
                raise LostData(f"an image in good order is refused: {error}") from error
        self._compare(self._read(disk.cluster), expected)
        if not changed:
            with open(self._path, "rb") as file:
                image = file.read()
            if disk.stated(image) != disk.references(image):
                raise LostData("the reference counts were right and are not any more")

    def _read(self, cluster):
        """Each cluster of the disk; those that cannot be read are left out."""
        found = {}
        try:
            with open_image(self._path) as image:
                for number in range(min(-(-image.size // cluster), 200)):
                    start = number * cluster
                    try:
                        found[number] = image.read(start, min(cluster, image.size - start))
                    except SiplError:
                        continue
        except SiplError:
            pass
        return found

    def _write(self, choices, image, disk, expected):
        """Write somewhere, and let `expected` know; a cluster of which nobody knows whether it was written is None."""
        size = min(image.size, 200 * disk.cluster)
        start = choices.below(size)
        length = min(choices.pick((512, 1, 80, disk.cluster, disk.cluster + 1, 3000)), size - start)
        private = choices.chance(64)
        data = random.Random(start).randbytes(length)
        touched = range(start // disk.cluster, (start + length - 1) // disk.cluster + 1)
        wanted = {number: expected.get(number) for number in touched}
        if private:
            image.make_private(start, length)
        for number in () if private else touched:
            expected[number] = None  # until it is done
            old = wanted[number]
            if old is not None:
                at = number * disk.cluster
                first, last = max(start, at), min(start + length, at + len(old))
                wanted[number] = old[: first - at] + data[first - start : last - start] + old[last - at :]
        if not private:
            image.write_from(start, memoryview(data))
            if image.read(start, length) != data:
                raise LostData("what was written is not there")
            expected.update(wanted)

    def _compare(self, now, expected):
        for number, content in expected.items():
            if content is not None and now.get(number) != content:
                raise LostData(f"cluster {number} of the disk is not what it should be")
