"""Writing to a qcow2 image so that power may end at any time (docs/formats/qcow2.md, "Writing").

A cluster is counted and filled before a table refers to it, and a table refers to another cluster before the former
one is given back; a flush stands between each two of these. So whatever part of the writes reached the medium, every
cluster that is referred to is counted and holds its data. What an interruption can leave behind is a cluster that is
counted and not used, which `qemu-img check` calls leaked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.disk.qcow2_owners import check_owners
from sipl.disk.qcow2_refcounts import Refcounts, wrong_counts
from sipl.disk.raw_writer import OrderedImage
from sipl.errors import SealRefused
from sipl.layout.qcow2 import (
    AUTOCLEAR_BITMAPS,
    AUTOCLEAR_KNOWN,
    ENTRY_COPIED,
    ENTRY_OFFSET,
    EXTENDED_ENTRY_SIZE,
    L2_COMPRESSED,
    L2_ZERO,
    SECTOR_SIZE,
    SUBCLUSTERS,
    SUBCLUSTERS_ALLOCATED,
    TABLE_ENTRY_SIZE,
)
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sipl.disk.image import Image
    from sipl.disk.qcow2_header import Qcow2Parameters
    from sipl.disk.writable_file import WritableFile

_CONVERT: Final = "make a new image with qemu-img convert -O qcow2"


def check_writable(path: str, parameters: Qcow2Parameters) -> None:
    """Refuse an image to which one cannot write without knowing more of it.

    Raises:
        SealRefused: qcow2-dirty, qcow2-snapshots, qcow2-bitmaps, qcow2-data-file, qcow2-feature.
    """
    if parameters.dirty:
        raise SealRefused(
            SealReason.QCOW2_DIRTY, path, "the image was not closed cleanly", "repair it with qemu-img check -r leaks"
        )
    if parameters.snapshots:
        raise SealRefused(
            SealReason.QCOW2_SNAPSHOTS,
            path,
            f"the image has {parameters.snapshots} internal snapshots, which would keep the unsealed disk",
            f"delete them with qemu-img snapshot -d, or {_CONVERT}",
        )
    if parameters.bitmaps or parameters.autoclear & AUTOCLEAR_BITMAPS:
        raise SealRefused(
            SealReason.QCOW2_BITMAPS,
            path,
            "the image has persistent bitmaps, which would miss what is written",
            f"remove them with qemu-img bitmap --remove, or {_CONVERT}",
        )
    if parameters.data_file_name is not None:
        raise SealRefused(SealReason.QCOW2_DATA_FILE, path, "the image has its data in another file", _CONVERT)
    unknown = parameters.autoclear & ~AUTOCLEAR_KNOWN
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        raise SealRefused(
            SealReason.QCOW2_FEATURE, path, f"the image has an unknown feature, autoclear bit {bit}", _CONVERT
        )


class _Place:
    """Where the L2 entry of a cluster lies, and what it says; `table` is 0 where there is no L2 table yet."""

    __slots__ = ("bitmap", "entry", "l1_index", "l2_index", "table")

    def __init__(self, table: int, l1_index: int, l2_index: int, entry: int, bitmap: int) -> None:
        self.table = table
        self.l1_index = l1_index
        self.l2_index = l2_index
        self.entry = entry
        self.bitmap = bitmap


class Qcow2Writer(OrderedImage):
    """A qcow2 image that is written to; `reopen` opens a reader of what is in the file now.

    Raises:
        SealRefused: as `check_writable`; qcow2-refcounts.
        ImageError: the file cannot be read.
        ImageFormatError: the image contradicts its format.
    """

    __slots__ = ("_cluster_size", "_counts", "_entry_size", "_file", "_l1_offset", "_reader", "_reopen")

    def __init__(self, file: WritableFile, parameters: Qcow2Parameters, reopen: Callable[[], Image]) -> None:
        check_writable(file.path, parameters)
        super().__init__(file.path, parameters.size, "qcow2")
        self._file = file
        self._reopen = reopen
        self._cluster_size = 1 << parameters.cluster_bits
        self._entry_size = EXTENDED_ENTRY_SIZE if parameters.extended else TABLE_ENTRY_SIZE
        self._l1_offset = parameters.l1_offset
        self._counts = Refcounts(file, parameters)
        check_owners(file, parameters, self._counts.blocks)
        self._reader = reopen()
        self.notes = self._reader.notes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._reader.read_into(offset, buffer)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` at `offset`; see `WritableImage.write_from`."""
        self._check_range(offset, len(buffer))
        for cluster, within, start, length in self._pieces(offset, len(buffer)):
            place = self._find(cluster)
            part = buffer[start : start + length]
            if self._is_private(place, within, length):
                size = self._file.size
                self._file.write((place.entry & ENTRY_OFFSET) + within, part)
                if self._file.size > size:  # the file ended inside this cluster
                    self._reload()
            else:
                self._replace(cluster, place, within, part)

    def flush(self) -> None:
        """See `WritableImage.flush`."""
        self._file.flush()

    def make_private(self, offset: int, length: int) -> None:
        """See `OrderedImage.make_private`: clusters that are not data of their own become so, with what they hold."""
        self._check_range(offset, length)
        for cluster, within, _, size in self._pieces(offset, length):
            place = self._find(cluster)
            if not self._is_private(place, within, size):
                self._replace(cluster, place, 0, memoryview(b""))

    def close(self) -> None:
        """Close the file and its reader."""
        self._reader.close()
        self._file.close()

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Clusters of a range: number, byte within it, byte within the range, bytes."""
        start = 0
        while start < length:
            cluster, within = divmod(offset + start, self._cluster_size)
            step = min(self._cluster_size - within, length - start)
            yield cluster, within, start, step
            start += step

    def _find(self, cluster: int) -> _Place:
        """Look a cluster of the disk up; the reader has checked the tables that lead to it."""
        start = cluster * self._cluster_size
        self._reader.read(start, min(SECTOR_SIZE, self.size - start))
        l1_index, l2_index = divmod(cluster, self._cluster_size // self._entry_size)
        entry = self._entry(self._l1_offset + l1_index * TABLE_ENTRY_SIZE)
        table = entry & ENTRY_OFFSET
        if not table:
            return _Place(0, l1_index, l2_index, 0, 0)
        self._check_own(f"the L2 table at byte {table}", table, entry)
        offset = table + l2_index * self._entry_size
        bitmap = self._entry(offset + TABLE_ENTRY_SIZE) if self._entry_size == EXTENDED_ENTRY_SIZE else 0
        place = _Place(table, l1_index, l2_index, self._entry(offset), bitmap)
        host = place.entry & ENTRY_OFFSET
        if not place.entry & L2_COMPRESSED and host:
            self._check_own(f"cluster {cluster} at byte {host}", host, place.entry)
        return place

    def _check_own(self, what: str, host: int, entry: int) -> None:
        """Without snapshots, everything that has a cluster of the file has it for itself alone."""
        count = self._counts.count(host // self._cluster_size)
        if count != 1 or not entry & ENTRY_COPIED:
            copied = "is" if entry & ENTRY_COPIED else "is not"
            raise wrong_counts(self.path, f"{what} is counted {count} times and {copied} marked as its owner's alone")

    def _entry(self, offset: int) -> int:
        return int.from_bytes(self._file.read(offset, TABLE_ENTRY_SIZE), "big")

    def _is_private(self, place: _Place, within: int, length: int) -> bool:
        """Whether this part of a cluster is data that can be overwritten where it lies."""
        if place.entry & L2_COMPRESSED or not place.entry & ENTRY_OFFSET:
            return False
        if self._entry_size == TABLE_ENTRY_SIZE:
            return not place.entry & L2_ZERO
        size = self._cluster_size // SUBCLUSTERS
        touched = range(within // size, -(-(within + length) // size))
        return all(place.bitmap >> number & 1 for number in touched)

    def _read_old(self, cluster: int) -> bytearray:
        """What a cluster of the disk holds, filled up with zeros behind the end of the disk."""
        start = cluster * self._cluster_size
        content = bytearray(self._cluster_size)
        present = min(self._cluster_size, self.size - start)
        with memoryview(content) as view:
            self._reader.read_into(start, view[:present])
        return content

    def _replace(self, cluster: int, place: _Place, within: int, part: memoryview) -> None:
        """Write a whole cluster to a place that nothing shows yet, then let the L2 entry show it."""
        content = self._read_old(cluster)
        content[within : within + len(part)] = part
        if not place.table:
            place.table = self._add_table(place.l1_index)
        former = place.entry
        # A cluster of its own that reads as zeros is there already, and nobody sees what is in it.
        own = not former & L2_COMPRESSED and bool(former & ENTRY_OFFSET)
        host = former & ENTRY_OFFSET if own else self._counts.take() * self._cluster_size
        self._file.write(host, content)
        self._file.flush()
        entry = (host | ENTRY_COPIED).to_bytes(TABLE_ENTRY_SIZE, "big")
        if self._entry_size == EXTENDED_ENTRY_SIZE:
            entry += SUBCLUSTERS_ALLOCATED.to_bytes(TABLE_ENTRY_SIZE, "big")
        self._file.write(place.table + place.l2_index * self._entry_size, entry)
        self._file.flush()
        if former & L2_COMPRESSED:
            self._give_back(former)
        self._reload()

    def _add_table(self, l1_index: int) -> int:
        cluster = self._counts.take()
        table = cluster * self._cluster_size
        self._file.write(table, bytes(self._cluster_size))
        self._file.flush()
        entry = (table | ENTRY_COPIED).to_bytes(TABLE_ENTRY_SIZE, "big")
        self._file.write(self._l1_offset + l1_index * TABLE_ENTRY_SIZE, entry)
        self._file.flush()
        return table

    def _give_back(self, entry: int) -> None:
        """Count the clusters that held compressed data once less; others may have theirs in them, too."""
        bits = 70 - (self._cluster_size.bit_length() - 1)
        host = entry & ((1 << bits) - 1)
        sectors = ((entry & (L2_COMPRESSED - 1)) >> bits) + 1
        last = (host // SECTOR_SIZE + sectors) * SECTOR_SIZE - 1
        for number in range(host // self._cluster_size, last // self._cluster_size + 1):
            count = self._counts.count(number)
            if not count:
                raise wrong_counts(self.path, f"the compressed data at byte {host} is not counted")
            self._counts.set_count(number, count - 1)

    def _reload(self) -> None:
        """The reader keeps tables and the size of the file; both have changed."""
        fresh = self._reopen()
        self._reader.close()
        self._reader = fresh
