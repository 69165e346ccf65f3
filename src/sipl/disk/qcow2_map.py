"""Where the bytes of the virtual disk lie: L1 and L2 tables of a qcow2 image (docs/formats/qcow2.md, section "Tables").

Two levels and no more, so nothing here can loop; every offset is checked before it is used.
"""

from __future__ import annotations

import sys
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.cache import BoundedCache
from sipl.errors import ImageFormatError
from sipl.layout.qcow2 import (
    ENTRY_COPIED,
    ENTRY_OFFSET,
    EXTENDED_ENTRY_SIZE,
    L1_RESERVED,
    L2_COMPRESSED,
    L2_RESERVED,
    L2_ZERO,
    SECTOR_SIZE,
    SUBCLUSTERS,
    SUBCLUSTERS_ALLOCATED,
    SUBCLUSTERS_ZERO_SHIFT,
    TABLE_ENTRY_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.disk.host_file import HostFile
    from sipl.disk.qcow2_header import Qcow2Parameters

# Tables are read and kept in pages: an L2 table has up to 2 MiB, an L1 table 32 MiB, and a boot needs little of either.
PAGE_SIZE: Final = 64 << 10
# A page covers 512 MiB of the disk at the usual cluster size; a boot map goes to and fro between a few places.
PAGE_CACHE_SIZE: Final = 1 << 20

_DAMAGED: Final = "the image is damaged; look at it with qemu-img check, or copy it again"


class Kind(IntEnum):
    """What becomes of an extent of the virtual disk."""

    HOLE = 0  # the backing file's bytes, without one zeros
    ZERO = 1
    DATA = 2
    COMPRESSED = 3


class Extent(NamedTuple):
    """`length` bytes of the virtual disk.

    `host` is the host offset of their first byte in DATA, and that of the compressed data in COMPRESSED, where
    `host_length` is the length of that data.
    """

    kind: Kind
    length: int
    host: int = 0
    host_length: int = 0


class Qcow2Map:
    """The tables of an open image; `data_size` is the size in bytes of the file that holds the data.

    `same_place`: data has the same offset in its file as on the virtual disk, as it must in an external data file.
    """

    __slots__ = (
        "_cluster_bits",
        "_cluster_size",
        "_data_size",
        "_file",
        "_l2_entries",
        "_page_size",
        "_pages",
        "_parameters",
        "_same_place",
    )

    def __init__(self, file: HostFile, parameters: Qcow2Parameters, data_size: int, *, same_place: bool) -> None:
        self._file = file
        self._parameters = parameters
        self._data_size = data_size
        self._same_place = same_place
        self._cluster_bits = parameters.cluster_bits
        self._cluster_size = 1 << parameters.cluster_bits
        self._l2_entries = self._cluster_size // (EXTENDED_ENTRY_SIZE if parameters.extended else TABLE_ENTRY_SIZE)
        self._page_size = min(self._cluster_size, PAGE_SIZE)
        self._pages: BoundedCache[array[int]] = BoundedCache(PAGE_CACHE_SIZE)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield the extents of `length` bytes of the virtual disk from byte `offset` on, without a gap.

        Raises:
            ImageFormatError: a table entry is impossible.
            ImageError: the tables cannot be read.
        """
        end = offset + length
        while offset < end:
            extent = self._extent(offset, end - offset)
            yield extent
            offset += extent.length

    def _extent(self, offset: int, limit: int) -> Extent:
        """Return what begins at `offset`: as much of one kind as one page tells, at most `limit` bytes."""
        cluster = offset >> self._cluster_bits
        l1_index, l2_index = divmod(cluster, self._l2_entries)
        table = self._l2_table(l1_index)
        if table == 0:
            covered = (l1_index + 1) * self._l2_entries << self._cluster_bits
            return Extent(Kind.HOLE, min(limit, covered - offset))
        width = 2 if self._parameters.extended else 1
        place, index = divmod(l2_index * width * TABLE_ENTRY_SIZE, self._page_size)
        page = self._page(table + place * self._page_size, self._page_size)
        index //= TABLE_ENTRY_SIZE
        entry = page[index]
        within = offset & (self._cluster_size - 1)
        if entry & L2_COMPRESSED:
            if width == 2 and page[index + 1]:
                raise self._impossible("L2", cluster, entry, "a compressed cluster has no subclusters")
            return self._compressed(cluster, entry, table, min(limit, self._cluster_size - within))
        host = self._check_standard(cluster, entry)
        if width == 2:
            extent = self._subclusters(cluster, entry, page[index + 1], within, limit)
        else:
            extent = self._clusters(page, index, within, limit)
        if extent.kind is Kind.DATA:
            self._check_data(cluster, entry, host, within + extent.length, table)
        return extent

    def _l2_table(self, l1_index: int) -> int:
        """Return the host offset of an L2 table, 0 = there is none."""
        place, index = divmod(l1_index * TABLE_ENTRY_SIZE, PAGE_SIZE)
        _, start, end = self._parameters.areas[1]
        start += place * PAGE_SIZE
        entry = self._page(start, min(PAGE_SIZE, end - start))[index // TABLE_ENTRY_SIZE]
        table = entry & ENTRY_OFFSET
        if entry & L1_RESERVED:
            raise self._impossible("L1", l1_index, entry, "reserved bits are set")
        if table == 0:
            return 0
        if table & (self._cluster_size - 1):
            raise self._impossible("L1", l1_index, entry, "the L2 table does not begin with a cluster")
        if table + self._cluster_size > self._file.size:
            raise self._impossible("L1", l1_index, entry, "the L2 table lies outside the file")
        self._check_apart("L1", l1_index, entry, table, table + self._cluster_size)
        return table

    def _page(self, offset: int, length: int) -> array[int]:
        page = self._pages.get((offset, length))
        if page is None:
            page = array("Q", self._file.read(offset, length))
            if sys.byteorder == "little":
                page.byteswap()
            self._pages.put((offset, length), page, length)
        return page

    def _check_standard(self, cluster: int, entry: int) -> int:
        """Return the host offset that an entry of the standard form has, 0 = none."""
        zero_allowed = self._parameters.version > 2 and not self._parameters.extended
        if entry & (L2_RESERVED if zero_allowed else L2_RESERVED | L2_ZERO):
            raise self._impossible("L2", cluster, entry, "reserved bits are set")
        host = entry & ENTRY_OFFSET
        if host & (self._cluster_size - 1):
            raise self._impossible("L2", cluster, entry, "the data does not begin with a cluster")
        return host

    def _allocated(self, entry: int) -> bool:
        # In an external data file, byte 0 is data like all others; "copied" is what tells it from a hole.
        return bool(entry & ENTRY_OFFSET) or (self._same_place and bool(entry & ENTRY_COPIED))

    def _clusters(self, page: array[int], index: int, within: int, limit: int) -> Extent:
        """Return the clusters from `index` on that go on as the first one begins."""
        entry = page[index]
        step = 0
        if entry & L2_ZERO:
            kind = Kind.ZERO
        elif self._allocated(entry):
            kind, step = Kind.DATA, self._cluster_size
        else:
            kind = Kind.HOLE
        length, following = self._cluster_size - within, entry + step
        while length < limit and (index := index + 1) < len(page) and page[index] == following:
            length += self._cluster_size
            following += step
        return Extent(kind, min(limit, length), (entry & ENTRY_OFFSET) + within if kind is Kind.DATA else 0)

    def _subclusters(self, cluster: int, entry: int, bitmap: int, within: int, limit: int) -> Extent:
        """Return the subclusters of one cluster from byte `within` on that are of one kind."""
        allocated, zero = bitmap & SUBCLUSTERS_ALLOCATED, bitmap >> SUBCLUSTERS_ZERO_SHIFT
        if allocated & zero:
            raise self._impossible("L2", cluster, entry, f"subclusters {bitmap:#018x} are data and zero at once")
        if allocated and not self._allocated(entry):
            raise self._impossible("L2", cluster, entry, "subclusters are allocated, but the cluster is not")
        size = self._cluster_size // SUBCLUSTERS
        number = within // size

        def kind_of(number: int) -> Kind:
            if allocated >> number & 1:
                return Kind.DATA
            return Kind.ZERO if zero >> number & 1 else Kind.HOLE

        kind = kind_of(number)
        length = size - within % size
        while length < limit and (number := number + 1) < SUBCLUSTERS and kind_of(number) is kind:
            length += size
        return Extent(kind, min(limit, length), (entry & ENTRY_OFFSET) + within if kind is Kind.DATA else 0)

    def _check_data(self, cluster: int, entry: int, host: int, length: int, table: int) -> None:
        """Check the data of the clusters from `cluster` on, `length` bytes at `host`."""
        # The last cluster of a file need not be complete, the rest of it reads as zeros; but it must begin.
        if host + ((length - 1) & -self._cluster_size) >= self._data_size:
            raise self._impossible("L2", cluster, entry, "the data lies outside the file")
        if self._same_place:
            if host != cluster << self._cluster_bits:
                raise self._impossible("L2", cluster, entry, "the data file has its data at another place")
            return
        end = host + ((length + self._cluster_size - 1) & -self._cluster_size)
        self._check_apart("L2", cluster, entry, host, end)
        self._check_apart_from_table(cluster, entry, host, end, table)

    def _compressed(self, cluster: int, entry: int, table: int, length: int) -> Extent:
        if self._same_place:
            raise self._impossible("L2", cluster, entry, "a data file has no compressed clusters")
        if entry & ENTRY_COPIED:
            raise self._impossible("L2", cluster, entry, "reserved bits are set")
        # The offset takes what the count leaves over: the larger a cluster, the more bits has the count of sectors.
        bits = 70 - self._cluster_bits
        host = entry & ((1 << bits) - 1)
        sectors = ((entry & (L2_COMPRESSED - 1)) >> bits) + 1
        end = min((host // SECTOR_SIZE + sectors) * SECTOR_SIZE, self._data_size)
        if host >= self._data_size:
            raise self._impossible("L2", cluster, entry, "the compressed data lies outside the file")
        self._check_apart("L2", cluster, entry, host, end)
        self._check_apart_from_table(cluster, entry, host, end, table)
        return Extent(Kind.COMPRESSED, length, host, end - host)

    def _check_apart(self, table: str, index: int, entry: int, start: int, end: int) -> None:
        for name, area_start, area_end in self._parameters.areas:
            if start < area_end and area_start < end:
                raise self._impossible(table, index, entry, f"it points into the {name}")

    def _check_apart_from_table(self, cluster: int, entry: int, start: int, end: int, table: int) -> None:
        if start < table + self._cluster_size and table < end:
            raise self._impossible("L2", cluster, entry, "it points into its own L2 table")

    def _impossible(self, table: str, index: int, entry: int, why: str) -> ImageFormatError:
        what = "L2 table" if table == "L1" else "cluster"
        return ImageFormatError(self._file.path, f"{table} entry {entry:#018x} of {what} {index}: {why}", _DAMAGED)
