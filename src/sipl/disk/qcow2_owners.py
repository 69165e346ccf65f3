"""Who owns each cluster of a qcow2 image that is to be written to (docs/formats/qcow2.md, "Writing").

A reader can live with two entries that show one cluster. Who writes to one of them changes the other, so all tables are
looked through once, and it is made sure that every cluster in use lies in the file and has one owner.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final

from sipl.disk.qcow2_refcounts import wrong_counts
from sipl.errors import SealRefused
from sipl.layout.qcow2 import (
    ENTRY_OFFSET,
    EXTENDED_ENTRY_SIZE,
    L2_COMPRESSED,
    SECTOR_SIZE,
    TABLE_ENTRY_SIZE,
)
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.disk.qcow2_header import Qcow2Parameters
    from sipl.disk.writable_file import WritableFile

# One byte each is kept: as many as a file of 16 TiB has at the usual size of a cluster.
MAX_CLUSTERS: Final = 1 << 28
# A disk of 4 TiB at the usual size of a cluster; looking through them takes some ten seconds.
MAX_TABLES: Final = 512 << 20  # bytes

_ONE: Final = 1
_COMPRESSED: Final = 2  # compressed data of several clusters of the disk may lie in one of the file


def check_owners(file: WritableFile, parameters: Qcow2Parameters, count_blocks: Iterable[int]) -> None:
    """Look through all tables of an image; `count_blocks` are the clusters of the file that hold counts.

    Raises:
        SealRefused: qcow2-refcounts; a cluster has two owners or lies outside the file, or there are too many to look
            through.
        ImageError: the file cannot be read.
    """
    _Owners(file, parameters).check(count_blocks)


class _Owners:
    def __init__(self, file: WritableFile, parameters: Qcow2Parameters) -> None:
        self._file = file
        self._parameters = parameters
        self._cluster_size = 1 << parameters.cluster_bits
        clusters = -(-file.size // self._cluster_size)
        if clusters > MAX_CLUSTERS:
            raise self._too_large(f"{clusters} clusters")
        self._owner = bytearray(clusters)

    def check(self, count_blocks: Iterable[int]) -> None:
        for name, start, end in self._parameters.areas:
            for cluster in range(start // self._cluster_size, -(-end // self._cluster_size)):
                self._own(cluster, f"the {name}")
        for cluster in count_blocks:
            self._own(cluster, "a block of reference counts")
        _, start, end = self._parameters.areas[1]
        tables = [offset for entry in _entries(self._file.read(start, end - start)) if (offset := entry & ENTRY_OFFSET)]
        if len(tables) * self._cluster_size > MAX_TABLES:
            raise self._too_large(f"{len(tables)} L2 tables")
        for table in tables:
            self._own(table // self._cluster_size, "an L2 table")
        step = EXTENDED_ENTRY_SIZE // TABLE_ENTRY_SIZE if self._parameters.extended else 1
        for table in tables:
            content = self._file.read(table, self._cluster_size)
            if content.count(0) < len(content):
                self._look_through(_entries(content)[::step])

    def _look_through(self, entries: array[int]) -> None:
        """Find the clusters that an L2 table shows; this is called for every entry of the image, and so kept short."""
        owner, bits, owners = self._owner, self._parameters.cluster_bits, len(self._owner)
        for entry in entries:
            if entry & L2_COMPRESSED:
                self._own_compressed(entry)
            elif entry & ENTRY_OFFSET:
                cluster = (entry & ENTRY_OFFSET) >> bits
                if cluster >= owners or owner[cluster]:
                    self._own(cluster, "data")
                owner[cluster] = _ONE

    def _own_compressed(self, entry: int) -> None:
        bits = 70 - self._parameters.cluster_bits
        host = entry & ((1 << bits) - 1)
        end = (host // SECTOR_SIZE + ((entry & (L2_COMPRESSED - 1)) >> bits) + 1) * SECTOR_SIZE
        for cluster in range(host // self._cluster_size, -(-end // self._cluster_size)):
            if cluster >= len(self._owner) or self._owner[cluster] != _COMPRESSED:
                self._own(cluster, "compressed data")
                self._owner[cluster] = _COMPRESSED

    def _own(self, cluster: int, what: str) -> None:
        """Mark a cluster of the file as in use by one owner."""
        if cluster >= len(self._owner):
            raise wrong_counts(self._file.path, f"{what} lies outside the file, in cluster {cluster}")
        if self._owner[cluster]:
            raise wrong_counts(self._file.path, f"cluster {cluster} of the file, {what}, serves something else, too")
        self._owner[cluster] = _ONE

    def _too_large(self, what: str) -> SealRefused:
        return SealRefused(
            SealReason.QCOW2_REFCOUNTS,
            self._file.path,
            f"the image has {what}, too many to see whether each cluster has one owner",
            "make a raw image, or one with larger clusters, with qemu-img convert",
        )


def _entries(data: bytes) -> array[int]:
    entries = array("Q", data)
    if sys.byteorder == "little":
        entries.byteswap()
    return entries
