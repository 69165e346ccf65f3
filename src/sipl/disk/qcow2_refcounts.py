"""Reference counts of a qcow2 image: which clusters of the file are in use (docs/formats/qcow2.md, "Writing")."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final

from sipl.errors import SealRefused
from sipl.layout.qcow2 import REFCOUNT_RESERVED, TABLE_ENTRY_SIZE
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from sipl.disk.qcow2_header import Qcow2Parameters
    from sipl.disk.writable_file import WritableFile

# Clusters behind the end of the file are free, in an image of any sense; a few may be counted that were never written.
_MOST_SKIPPED: Final = 1 << 16


class Refcounts:
    """The counts of an image that is written to. New clusters are taken at the end of the file only.

    Raises:
        SealRefused: qcow2-refcounts; the refcount table is damaged.
        ImageError: it cannot be read.
    """

    def __init__(self, file: WritableFile, parameters: Qcow2Parameters) -> None:
        self._file = file
        self._bits = 1 << parameters.refcount_order
        self._cluster_size = 1 << parameters.cluster_bits
        self._per_block = self._cluster_size * 8 // self._bits
        _, self._table_offset, end = parameters.areas[2]
        self._blocks = array("Q", file.read(self._table_offset, end - self._table_offset))
        if sys.byteorder == "little":
            self._blocks.byteswap()
        for number, entry in enumerate(self._blocks):
            if entry & REFCOUNT_RESERVED or entry % self._cluster_size or entry >= file.size:
                raise wrong_counts(file.path, f"entry {number} of the refcount table is {entry:#018x}")

    @property
    def blocks(self) -> list[int]:
        """Clusters of the file that hold counts."""
        return [entry // self._cluster_size for entry in self._blocks if entry]

    def count(self, cluster: int) -> int:
        """How often a cluster of the file is in use."""
        block, index = divmod(cluster, self._per_block)
        if block >= len(self._blocks) or not self._blocks[block]:
            return 0
        offset, shift, mask = self._place(index)
        width = max(1, self._bits // 8)
        return int.from_bytes(self._file.read(self._blocks[block] + offset, width), "big") >> shift & mask

    def set_count(self, cluster: int, value: int) -> None:
        """Write the count of a cluster that has one."""
        block, index = divmod(cluster, self._per_block)
        offset, shift, mask = self._place(index)
        width = max(1, self._bits // 8)
        place = self._blocks[block] + offset
        others = int.from_bytes(self._file.read(place, width), "big") & ~(mask << shift)
        self._file.write(place, (others | value << shift).to_bytes(width, "big"))

    def take(self) -> int:
        """Count a free cluster as used once, and return its number; nothing refers to it yet.

        Raises:
            SealRefused: qcow2-refcounts; the refcount table has no entry for it.
            ImageError: the host cannot keep it.
        """
        cluster = self._behind_the_file()
        block = cluster // self._per_block
        if block >= len(self._blocks):
            raise SealRefused(
                SealReason.QCOW2_REFCOUNTS,
                self._file.path,
                "the refcount table is full, so the image cannot grow",
                "make a new image with qemu-img convert -O qcow2",
            )
        if not self._blocks[block]:
            self._add_block(block, cluster)
            cluster = self._behind_the_file()
        self.set_count(cluster, 1)
        # The next one is looked for behind this one, also before anything is written there.
        self._file.size = max(self._file.size, (cluster + 1) * self._cluster_size)
        return cluster

    def _behind_the_file(self) -> int:
        first = -(-self._file.size // self._cluster_size)
        for cluster in range(first, first + _MOST_SKIPPED):
            if not self.count(cluster):
                return cluster
        raise wrong_counts(self._file.path, f"{_MOST_SKIPPED} clusters behind the end of the file are counted as used")

    def _add_block(self, number: int, cluster: int) -> None:
        """Make `cluster` a block of counts, which counts itself; only then let the table point to it."""
        content = bytearray(self._cluster_size)
        offset, shift, _ = self._place(cluster % self._per_block)
        width = max(1, self._bits // 8)
        content[offset : offset + width] = (1 << shift).to_bytes(width, "big")
        place = cluster * self._cluster_size
        self._file.write(place, content)
        self._file.flush()
        self._file.write(self._table_offset + number * TABLE_ENTRY_SIZE, place.to_bytes(TABLE_ENTRY_SIZE, "big"))
        self._file.flush()
        self._blocks[number] = place

    def _place(self, index: int) -> tuple[int, int, int]:
        """Byte of a block in which a count begins, by how many bits it is shifted in there, and its mask."""
        mask = (1 << self._bits) - 1
        if self._bits >= 8:
            return index * self._bits // 8, 0, mask
        per_byte = 8 // self._bits
        return index // per_byte, index % per_byte * self._bits, mask


def wrong_counts(path: str, why: str) -> SealRefused:
    """An image whose reference counts contradict its tables; whoever writes to it could overwrite what is in use."""
    return SealRefused(
        SealReason.QCOW2_REFCOUNTS, path, f"reference counts and tables do not agree: {why}", "see qemu-img check"
    )
