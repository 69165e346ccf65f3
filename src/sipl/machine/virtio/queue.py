"""Split virtqueues: what the driver made available, and what the device has used (docs/formats/channel-io.md).

Everything here is the guest's to write, at any time: nothing is taken for true twice, and every walk has an end.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sipl.errors import SiplError
from sipl.layout.virtio import (
    AVAILABLE_ALIGNMENT,
    AVAILABLE_INDEX,
    AVAILABLE_NO_INTERRUPT,
    AVAILABLE_RING,
    BIG_ENDIAN,
    DESCRIPTOR_ALIGNMENT,
    DESCRIPTOR_FORMAT,
    DESCRIPTOR_INDIRECT,
    DESCRIPTOR_NEXT,
    DESCRIPTOR_SIZE,
    DESCRIPTOR_WRITE,
    LEGACY_ALIGNMENT,
    LITTLE_ENDIAN,
    RING_EXTRA,
    USED_ALIGNMENT,
    USED_ELEMENT_FORMAT,
    USED_ELEMENT_SIZE,
    USED_INDEX,
    USED_RING,
)
from sipl.machine.css.storage import OutsideStorage

if TYPE_CHECKING:
    from sipl.machine.css.storage import DeviceStorage

# Descriptors of one chain. An indirect table may have more entries than the ring, so that the ring's size is no bound;
# Linux makes chains of at most the segments a device takes and two more.
MAX_CHAIN: Final = 1024
MAX_WRITTEN: Final = 0xFFFFFFFF  # the used ring has 32 bits for it

_DESCRIPTOR: Final = {order: struct.Struct(order + DESCRIPTOR_FORMAT) for order in (LITTLE_ENDIAN, BIG_ENDIAN)}
_USED: Final = {order: struct.Struct(order + USED_ELEMENT_FORMAT) for order in (LITTLE_ENDIAN, BIG_ENDIAN)}
_U16: Final = {order: struct.Struct(order + "H") for order in (LITTLE_ENDIAN, BIG_ENDIAN)}


class QueueBroken(SiplError):
    """The driver broke the rules of the ring, so that the device stops until it is reset."""

    def __init__(self, why: str) -> None:
        super().__init__("virtqueue", why)


class Chain:
    """A request: what the device reads, and then what it writes.

    `length` is the number of bytes of both together, `order` the byte order of their fields for `struct`.
    """

    __slots__ = ("_storage", "_writable", "head", "length", "order", "readable", "writable_length")

    def __init__(self, storage: DeviceStorage, head: int, order: str) -> None:
        self._storage = storage
        self.head = head
        self.order = order
        self.readable: list[memoryview] = []
        self._writable: list[tuple[int, int]] = []
        self.length = 0
        self.writable_length = 0

    def add(self, address: int, length: int, *, write: bool) -> None:
        """Append what a descriptor names.

        Raises:
            QueueBroken: it is empty, not in storage, or to be read after something to be written.
        """
        if not length:
            raise QueueBroken("a descriptor names nothing")
        self.length += length
        try:
            if write:
                self._storage.check(address, length)
                self.writable_length += length
                parts = self._writable
                if parts and parts[-1][0] + parts[-1][1] == address:
                    parts[-1] = (parts[-1][0], parts[-1][1] + length)
                else:
                    parts.append((address, length))
            elif self._writable:
                raise QueueBroken("a buffer to be read follows one to be written")
            else:
                self.readable.append(self._storage.readable(address, length))
        except OutsideStorage as error:
            raise QueueBroken(error.why) from error

    def take(self, size: int) -> bytes:
        """The next `size` bytes that the device reads; they are gone from `readable`.

        Raises:
            QueueBroken: there are not so many.
        """
        data = b""
        while self.readable and len(data) < size:
            first, step = self.readable[0], size - len(data)
            data += first[:step]
            if len(first) > step:
                self.readable[0] = first[step:]
            else:
                del self.readable[0]
        if len(data) < size:
            raise QueueBroken(f"the request has {len(data)} bytes where {size} are needed")
        return data

    def writable(self, start: int, end: int) -> list[memoryview]:
        """Bytes `start` to `end` of what the device writes, to be written at once; bounded by what there is."""
        views = []
        for address, length in self._writable:
            low, high = max(start, 0), min(end, length)
            if low < high:
                views.append(self._storage.writable(address + low, high - low))
            start -= length
            end -= length
            if end <= 0:
                break
        return views

    def fill(self, data: bytes, start: int = 0) -> int:
        """Write `data` at byte `start` of what the device writes; returns how much of it there was room for."""
        done = 0
        for view in self.writable(start, start + len(data)):
            view[:] = data[done : done + len(view)]
            done += len(view)
        return done


class Virtqueue:
    """One queue. `max_size` is the device's; `size`, order and places are the driver's, checked when they are set."""

    __slots__ = (
        "_available",
        "_descriptor",
        "_descriptors",
        "_seen",
        "_storage",
        "_u16",
        "_used",
        "_used_element",
        "_used_index",
        "max_size",
        "order",
        "ready",
        "size",
    )

    def __init__(self, storage: DeviceStorage, max_size: int) -> None:
        self._storage = storage
        self.max_size = max_size
        self.disable()

    def disable(self) -> None:
        """Forget what the driver said."""
        self.ready = False
        self.size = 0
        self._set_order(LITTLE_ENDIAN)
        self._descriptors = self._available = self._used = 0
        self._seen = self._used_index = 0

    def set_up(self, descriptors: int, available: int, used: int, size: int, order: str) -> None:
        """Take the places of a ring of virtio 1.

        Raises:
            QueueBroken: the size is no power of two up to the largest, or a part is not aligned or not in storage.
        """
        self.disable()
        if not 0 < size <= self.max_size or size & (size - 1):
            raise QueueBroken(f"{size} is no size for a queue of at most {self.max_size}")
        if descriptors % DESCRIPTOR_ALIGNMENT or available % AVAILABLE_ALIGNMENT or used % USED_ALIGNMENT:
            raise QueueBroken("a part of the ring is not aligned")
        try:
            self._storage.check(descriptors, DESCRIPTOR_SIZE * size)
            self._storage.check(available, RING_EXTRA + 2 * size)
            self._storage.check(used, RING_EXTRA + USED_ELEMENT_SIZE * size)
        except OutsideStorage as error:
            raise QueueBroken(error.why) from error
        self._descriptors, self._available, self._used = descriptors, available, used
        self.size = size
        self._set_order(order)
        self.ready = True

    def set_up_legacy(self, address: int, order: str) -> None:
        """Take the place of a ring of before virtio 1, which has the largest size; raises as `set_up`."""
        size = self.max_size
        available = address + DESCRIPTOR_SIZE * size
        used = -(-(available + RING_EXTRA + 2 * size) // LEGACY_ALIGNMENT) * LEGACY_ALIGNMENT
        self.set_up(address, available, used, size, order)

    @property
    def work_left(self) -> bool:
        """Whether there are requests that the device has not taken."""
        return self.ready and self._read(self._available + AVAILABLE_INDEX) != self._seen

    def pop(self) -> Chain | None:
        """Take the next request, None if there is none.

        Raises:
            QueueBroken: the ring or the chain makes no sense.
        """
        if not self.ready:
            return None
        waiting = (self._read(self._available + AVAILABLE_INDEX) - self._seen) & 0xFFFF
        if not waiting:
            return None
        if waiting > self.size:
            raise QueueBroken(f"{waiting} requests are available in a ring of {self.size}")
        head = self._read(self._available + AVAILABLE_RING + 2 * (self._seen % self.size))
        self._seen = (self._seen + 1) & 0xFFFF
        chain = Chain(self._storage, head, self.order)
        self._walk(chain, head)
        return chain

    def push(self, head: int, written: int) -> None:
        """Give a request back: its head, and how many bytes the device wrote from the first one on."""
        at = self._used + USED_RING + USED_ELEMENT_SIZE * (self._used_index % self.size)
        self._storage.store(at, self._used_element.pack(head, min(written, MAX_WRITTEN)))
        self._used_index = (self._used_index + 1) & 0xFFFF
        self._storage.store(self._used + USED_INDEX, self._u16.pack(self._used_index))

    @property
    def wants_interruption(self) -> bool:
        """Whether the driver wants to hear of used requests."""
        return not self._read(self._available) & AVAILABLE_NO_INTERRUPT

    def _set_order(self, order: str) -> None:
        self.order = order
        self._descriptor = _DESCRIPTOR[order]
        self._used_element = _USED[order]
        self._u16 = _U16[order]

    def _read(self, address: int) -> int:
        value: int = self._u16.unpack_from(self._storage.view, address)[0]
        return value

    def _walk(self, chain: Chain, number: int) -> None:
        table, entries, indirect = self._descriptors, self.size, False
        for _ in range(MAX_CHAIN):
            if number >= entries:
                raise QueueBroken(f"descriptor {number} of {entries}")
            at = table + DESCRIPTOR_SIZE * number
            address, length, flags, following = self._descriptor.unpack_from(self._storage.view, at)
            if flags & DESCRIPTOR_INDIRECT:
                if indirect or flags & DESCRIPTOR_NEXT:
                    raise QueueBroken("an indirect descriptor that may not stand there")
                table, entries, indirect, number = address, self._table_entries(address, length), True, 0
                continue
            chain.add(address, length, write=bool(flags & DESCRIPTOR_WRITE))
            if not flags & DESCRIPTOR_NEXT:
                return
            number = following
        raise QueueBroken(f"a chain of more than {MAX_CHAIN} descriptors")

    def _table_entries(self, address: int, length: int) -> int:
        if not length or length % DESCRIPTOR_SIZE:
            raise QueueBroken(f"a table of {length} bytes")
        try:
            self._storage.check(address, length)
        except OutsideStorage as error:
            raise QueueBroken(error.why) from error
        return length // DESCRIPTOR_SIZE
