"""A guest's driver of virtio-ccw devices, which goes the whole way: subchannel, revision, features, rings, DIAGNOSE."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from sipl.disk.image import Image
from sipl.disk.overlay import WritableImage
from sipl.errors import ImageError
from sipl.machine.css.interruptions import IoInterruptions
from sipl.machine.css.subsystem import ChannelSubsystem
from sipl.machine.memory import GuestMemory
from sipl.machine.virtio.ccw import VirtioCcw, notify

MEMORY = 4 << 20
ORB_FORMAT_1 = 0x0080
CCW_AT, DATA_AT = 0x1000, 0x1100
INDICATORS, CONFIG_INDICATORS, SUMMARY, BITS = 0x1800, 0x1808, 0x1810, 0x1820
RINGS, RING_SIZE = 0x10000, 0x10000  # one after the other
BUFFERS = 0x100000
ADAPTER_BIT = 13
ALL = 0xFF000000


class MemoryImage(WritableImage):
    """A disk in a bytearray; `fails` makes the host break."""

    def __init__(self, content: bytes):
        super().__init__("memory", len(content), "raw")
        self.content = bytearray(content)
        self.fails = False
        self.flushed = 0

    def _check(self, offset, length):
        self._check_range(offset, length)
        if self.fails:
            raise ImageError("memory", "broken")

    def read_into(self, offset, buffer):
        self._check(offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def write_from(self, offset, buffer):
        self._check(offset, len(buffer))
        self.content[offset : offset + len(buffer)] = buffer

    def flush(self):
        self._check(0, 0)
        self.flushed += 1

    def close(self):
        pass


class ReadOnlyImage(Image):
    def __init__(self, content: bytes):
        super().__init__("memory", len(content), "raw")
        self.content = content

    def read_into(self, offset, buffer):
        self._check_range(offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def close(self):
        pass


class Ring:
    """The driver's side of a split ring."""

    def __init__(self, memory, base, size, order):
        self.memory, self.base, self.size, self.order = memory, base, size, order
        self.descriptors = base
        self.available = base + 16 * size
        self.used = -(-(self.available + 6 + 2 * size) // 4096) * 4096
        self.free = 0
        self.index = 0
        self.seen = 0

    def descriptor(self, number, address, length, flags=0, following=0, table=None):
        at = (self.descriptors if table is None else table) + 16 * number
        self.memory.write(at, struct.pack(self.order + "QIHH", address, length, flags, following))

    def offer(self, head):
        self.memory.write(self.available + 4 + 2 * (self.index % self.size), struct.pack(self.order + "H", head))
        self.index = (self.index + 1) & 0xFFFF
        self.publish(self.index)

    def publish(self, index):
        self.memory.write(self.available + 2, struct.pack(self.order + "H", index))

    def chain(self, buffers, indirect=None):
        """Offer a chain of (address, length, write); returns its head."""
        needed = len(buffers) if indirect is None else 1
        head = self.free if self.free + needed <= self.size else 0
        for number, (address, length, write) in enumerate(buffers):
            last = number == len(buffers) - 1
            flags = (2 if write else 0) | (0 if last else 1)
            if indirect is None:
                self.descriptor(head + number, address, length, flags, head + number + 1)
            else:
                self.descriptor(number, address, length, flags, number + 1, table=indirect)
        if indirect is not None:
            self.descriptor(head, indirect, 16 * len(buffers), 4)
        self.free = head + needed
        self.offer(head)
        return head

    @property
    def used_index(self):
        return struct.unpack(self.order + "H", self.memory.read(self.used + 2, 2))[0]

    def collect(self):
        """The (head, bytes written) that the device gave back since the last time."""
        result = []
        while self.seen != self.used_index:
            at = self.used + 4 + 8 * (self.seen % self.size)
            result.append(struct.unpack(self.order + "II", self.memory.read(at, 8)))
            self.seen = (self.seen + 1) & 0xFFFF
        return result


class Driver:
    """`revision` None never asks for one, as drivers from before virtio 1 do."""

    def __init__(self, device, revision=2, *, adapter=False, size=None):
        self.memory = GuestMemory(MEMORY)
        self.interruptions = IoInterruptions()
        self.stored = []
        self.css = ChannelSubsystem(self.memory, self.interruptions, lambda at, n: self.stored.append((at, n)))
        self.ccw_device = VirtioCcw(device)
        self.subchannel = self.css.attach(self.ccw_device, 0x0042)
        self.sid = self.subchannel.subsystem_id
        self.revision, self.adapter, self.size = revision, adapter, size
        self.modern = bool(revision)
        self.order = "<" if self.modern else ">"
        self.rings = []
        self.buffer = BUFFERS

    def enable(self):
        schib = bytearray(self.css.stsch(self.sid)[1])
        schib[4:6] = (0x0081 | 3 << 11).to_bytes(2, "big")
        schib[27] |= 1
        assert self.css.msch(self.sid, bytes(schib)) == 0

    def disable(self):
        schib = bytearray(self.css.stsch(self.sid)[1])
        schib[5] &= 0x7F
        assert self.css.msch(self.sid, bytes(schib)) == 0

    def run(self, command, data=b"", *, count=None, flags=0, address=DATA_AT):
        """Run one command on `data` in memory; gives statuses, sense byte 0, residual, and the data afterwards."""
        count = len(data) if count is None else count
        self.memory.write(DATA_AT, data)
        self.memory.write(CCW_AT, struct.pack(">BBHI", command, flags, count, address))
        assert self.css.ssch(self.sid, struct.pack(">IHBBI", 0, ORB_FORMAT_1, 0x80, 0, CCW_AT)) == 0
        cc, irb = self.css.tsch(self.sid)
        assert cc == 0
        device, status, residual = struct.unpack(">BBH", irb[8:12])
        left = self.memory.read(DATA_AT, max(count, len(data)))
        return SimpleNamespace(device=device, status=status, residual=residual, sense=irb[32], data=left)

    def do(self, command, data=b"", **options):
        """As `run`, for what has to work."""
        result = self.run(command, data, **options)
        assert (result.device, result.status) == (0x0C, 0)
        return result.data

    def reject(self, command, data=b"", **options):
        result = self.run(command, data, **options)
        assert (result.device, result.status, result.sense) == (0x02, 0, 0x80)

    def drain(self):
        """Take the status away that is pending, as a driver does in its interruption handler."""
        self.css.tsch(self.sid)

    def identify(self):
        return self.do(0xE4, bytes(32), flags=0x20)[:7]

    def features(self, word=0):
        return struct.unpack("<I", self.do(0x12, bytes(4) + bytes([word]))[:4])[0]

    def accept(self, features, word=0):
        self.do(0x11, struct.pack("<IB", features, word))

    def write_status(self, status):
        self.do(0x31, bytes([status]))

    def read_status(self):
        return self.do(0x72, b"\xff")[0]

    def set_up(self, features=None):
        self.enable()
        if self.revision is not None:
            self.do(0x83, struct.pack(">HH", self.revision, 0))
        self.do(0x33)
        self.write_status(1)
        self.write_status(3)
        self.accept(self.features() if features is None else features)
        if self.modern:
            self.accept(1, 1)
            self.write_status(11)
        for number in range(len(self.ccw_device.queues)):
            self.add_ring(number)
        if self.adapter:
            self.do(0x73, struct.pack(">QQQB", SUMMARY, BITS, ADAPTER_BIT, 5))
        else:
            self.do(0x43, INDICATORS.to_bytes(8, "big"))
        self.do(0x53, CONFIG_INDICATORS.to_bytes(8, "big"))
        self.write_status(15 if self.modern else 7)
        return self

    def add_ring(self, number):
        largest = struct.unpack(">HH", self.do(0x32, struct.pack(">HH", number, 0)))[1]
        size = self.size if self.size and self.modern else largest
        ring = Ring(self.memory, RINGS + RING_SIZE * number, size, self.order)
        if self.modern:
            # Elsewhere than a legacy ring would have them.
            ring.available += 0x1000
            ring.used += 0x2000
            block = struct.pack(">QIHHQQ", ring.descriptors, 0, number, size, ring.available, ring.used)
        else:
            block = struct.pack(">QIHH", ring.base, 4096, number, size)
        self.do(0x13, block)
        self.rings.append(ring)

    def allocate(self, data):
        """A buffer with `data`, or of as many bytes."""
        size = data if isinstance(data, int) else len(data)
        address = self.buffer
        self.buffer += size + 24 & ~7  # never adjacent
        if not isinstance(data, int):
            self.memory.write(address, data)
        return address, size

    def request(self, queue, readable, writable, *, indirect=False):
        """Offer a request of bytes and sizes, notify; gives bytes written and what is in the writable buffers."""
        buffers = [(*self.allocate(data), False) for data in readable] + [
            (*self.allocate(bytes([0xEE]) * size), True) for size in writable
        ]
        table = self.allocate(16 * len(buffers))[0] if indirect else None
        head = self.rings[queue].chain(buffers, indirect=table)
        assert self.notify(queue) == 0
        used = self.rings[queue].collect()
        assert [entry[0] for entry in used] == [head]
        return used[0][1], [self.memory.read(address, size) for address, size, write in buffers if write]

    def notify(self, queue):
        return notify(self.css, self.sid, queue, 0)

    def interrupted(self):
        """Take the interruption there is, as a driver does: True if it says that ring 0 has something."""
        it = self.interruptions.first(ALL)
        if it is None:
            return False
        self.interruptions.take(it)
        assert not self.interruptions.any
        if self.adapter:
            assert it == (5, 0, 0, 0x80000000 | 5 << 27)
            assert self.memory.read(SUMMARY, 1) == b"\x01"
            bits = int.from_bytes(self.memory.read(BITS, 8), "big")
            self.memory.write(SUMMARY, bytes(1))
            self.memory.write(BITS, bytes(8))
            return bool(bits >> 63 - ADAPTER_BIT & 1)
        assert it == (3, self.sid, 0, 3 << 27)
        cc, irb = self.css.tsch(self.sid)
        assert (cc, irb[2:4]) == (0, b"\x00\x11")
        bits = int.from_bytes(self.memory.read(INDICATORS, 8), "big")
        self.memory.write(INDICATORS, bytes(8))
        return bool(bits & 1)


@pytest.fixture(scope="session")
def driver():
    return Driver


@pytest.fixture(scope="session")
def memory_image():
    return MemoryImage


@pytest.fixture(scope="session")
def read_only_image():
    return ReadOnlyImage
