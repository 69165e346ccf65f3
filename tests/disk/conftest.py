"""A writer of qcow2 images that shares nothing with the reader, and a count of what is read."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

import sipl.disk.host_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))


def sector(number: int) -> bytes:
    """512 bytes that occur nowhere else and still compress."""
    return struct.pack(">Q", number * 0x9E3779B97F4A7C15 % (1 << 64)) * 64


def pattern(first: int, count: int) -> bytes:
    return b"".join(sector(first + i) for i in range(count))


class Qcow2Writer:
    """Builds an image; `kinds` has one letter per guest cluster:

    `D` data, `.` unallocated, `Z` zero, `A` zero with a host cluster, `C` compressed;
    a 32-letter string instead describes subclusters with `D`, `.`, `Z`.
    """

    def __init__(self, kinds, *, cluster_bits=9, version=3, extended=False, compression=0, size=None, scatter=False):
        self.kinds = kinds
        self.bits = cluster_bits
        self.cluster = 1 << cluster_bits
        self.version = version
        self.extended = extended
        self.compression = compression
        self.size = size if size is not None else len(kinds) * self.cluster
        self.width = 16 if extended else 8
        self.per_l2 = self.cluster // self.width
        self.l1_entries = max(1, -(-self.size // (self.per_l2 * self.cluster)))
        self.expected = bytearray()
        self.scatter = scatter
        self.extensions = b""
        self._build()

    def _compress(self, data: bytes) -> bytes:
        if self.compression == 0:
            packer = zlib.compressobj(9, zlib.DEFLATED, -12)
            return packer.compress(data) + packer.flush()
        import zstandard

        return zstandard.ZstdCompressor().compress(data)

    def _build(self) -> None:
        clusters = 3 + -(-self.l1_entries * 8 // self.cluster)
        self.refcount_offset = self.cluster
        self.l1_offset = 3 * self.cluster
        self.file = bytearray(clusters * self.cluster)
        tables = max(1, -(-len(self.kinds) // self.per_l2))
        self.l2_offsets = []
        for index in range(tables):
            self.l2_offsets.append(len(self.file))
            self.put64(self.l1_offset + 8 * index, len(self.file) | 1 << 63)
            self.file += bytes(self.cluster)
        for number, kind in enumerate(self.kinds):
            self._cluster(number, kind)
        self.file += bytes(-len(self.file) % self.cluster)
        self.expected = self.expected[: self.size] + bytes(max(0, self.size - len(self.expected)))
        self.put64(self.refcount_offset, 2 * self.cluster)
        self.header()

    def _cluster(self, number: int, kind: str) -> None:
        data = pattern(number * self.cluster // 512, self.cluster // 512)
        where = self.entry_offset(number)
        if len(kind) == 32:
            host = self._append(data)
            self.put64(where, host | 1 << 63)
            bitmap = sum((k == "D") << i | (k == "Z") << (i + 32) for i, k in enumerate(kind))
            self.put64(where + 8, bitmap)
            step = self.cluster // 32
            for i, k in enumerate(kind):
                self.expected += data[i * step : (i + 1) * step] if k == "D" else bytes(step)
            return
        if kind == "D":
            self.put64(where, self._append(data) | 1 << 63)
            if self.extended:
                self.put64(where + 8, 0xFFFF_FFFF)
        elif kind == "Z":
            self.put64(where + (8 if self.extended else 0), 0xFFFF_FFFF << 32 if self.extended else 1)
        elif kind == "A":
            self.put64(where, self._append(b"\xff" * self.cluster) | 1 << 63 | (not self.extended))
            if self.extended:
                self.put64(where + 8, 0xFFFF_FFFF << 32)
        elif kind == "C":
            packed = self._compress(data)
            host = len(self.file)
            self.file += packed
            self.put64(where, 1 << 62 | host | ((host + len(packed) - 1) // 512 - host // 512) << (70 - self.bits))
        self.expected += data if kind in "DC" else bytes(self.cluster)

    def _append(self, data: bytes) -> int:
        self.file += bytes(-len(self.file) % self.cluster)
        if self.scatter:
            self.file += b"\xee" * self.cluster
        self.file += data
        return len(self.file) - len(data)

    def entry_offset(self, number: int) -> int:
        table, index = divmod(number, self.per_l2)
        return self.l2_offsets[table] + index * self.width

    def entry(self, number: int) -> int:
        return struct.unpack_from(">Q", self.file, self.entry_offset(number))[0]

    def put64(self, offset: int, value: int) -> None:
        struct.pack_into(">Q", self.file, offset, value)

    def header(self, **changes) -> None:
        """Write the header with some fields changed; `backing` is the name of a backing file."""
        fields = {
            "magic": b"QFI\xfb", "version": self.version, "backing_offset": 0, "backing_size": 0,
            "cluster_bits": self.bits, "size": self.size, "crypt": 0, "l1_size": self.l1_entries,
            "l1_offset": self.l1_offset, "refcount_offset": self.refcount_offset, "refcount_clusters": 1,
            "snapshots": 0, "snapshots_offset": 0,
        }  # fmt: skip
        later = {
            "incompatible": (bool(self.compression) << 3) | (bool(self.extended) << 4),
            "compatible": 0, "autoclear": 0, "refcount_order": 4, "header_length": 112, "compression": self.compression,
        }  # fmt: skip
        backing = changes.pop("backing", None)
        for name, value in changes.items():
            (fields if name in fields else later)[name] = value
        length = 72 if self.version == 2 else later["header_length"]
        area = self.extensions + bytes(8)
        if backing is not None:
            start = length + len(area)
            fields["backing_offset"], fields["backing_size"] = start, len(backing)
            area += backing
        data = struct.pack(">4sIQIIQIIQQIIQ", *fields.values())
        if self.version != 2:
            data += struct.pack(">QQQIIB7x", *later.values())
        data = data[: 72 if self.version == 2 else max(length, 104)].ljust(min(length, self.cluster), b"\0") + area
        self.file[: self.cluster] = data.ljust(self.cluster, b"\0")[: self.cluster]

    def extension(self, kind: int, data: bytes) -> None:
        self.extensions += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        self.header()

    def write(self, path):
        path.write_bytes(self.file)
        return str(path)


@pytest.fixture(scope="session")
def qcow2():
    return SimpleNamespace(Writer=Qcow2Writer, pattern=pattern, sector=sector)


@pytest.fixture
def reads(monkeypatch):
    """What is read from files from now on: (offset, bytes), one per system call."""
    calls: list[tuple[int, int]] = []
    real = sipl.disk.host_file._read_at

    def counted(fd, buffer, offset):
        got = real(fd, buffer, offset)
        calls.append((offset, got))
        return got

    monkeypatch.setattr(sipl.disk.host_file, "_read_at", counted)
    return calls


@pytest.fixture
def open_files():
    """How many descriptors this process has, as a function."""
    place = Path("/proc/self/fd")
    if not place.is_dir():
        pytest.skip("this host does not list open files in /proc/self/fd")
    return lambda: len(list(place.iterdir()))
