"""Absolute storage as channel and devices reach it: bounds checked, and somebody may be told what they stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.memory import GuestMemory


class OutsideStorage(SiplError):
    """The guest named storage that its machine does not have."""

    def __init__(self, address: int, length: int) -> None:
        super().__init__("channel subsystem", f"the guest has no storage at {address:#x}, {length} bytes")


class DeviceStorage:
    """Guest memory for devices.

    `stored(address, length)` is called before a range is handed out for writing: an engine that keeps translations of
    guest code drops those of the range.
    """

    __slots__ = ("_stored", "size", "view")

    def __init__(self, memory: GuestMemory, stored: Callable[[int, int], None] | None = None) -> None:
        self.size = memory.size
        self.view = memory.view
        self._stored = stored

    def check(self, address: int, length: int) -> None:
        """Raise `OutsideStorage` unless all of `[address, address + length)` is there."""
        if address < 0 or address + length > self.size:
            raise OutsideStorage(address, length)

    def readable(self, address: int, length: int) -> memoryview:
        """The bytes at an absolute address, not copied, to be read.

        Raises:
            OutsideStorage: one of them is not there.
        """
        if address < 0 or address + length > self.size:
            raise OutsideStorage(address, length)
        return self.view[address : address + length]

    def writable(self, address: int, length: int) -> memoryview:
        """The bytes at an absolute address, not copied, to be written at once; raises as `readable`."""
        if address < 0 or address + length > self.size:
            raise OutsideStorage(address, length)
        if self._stored is not None:
            self._stored(address, length)
        return self.view[address : address + length]

    def fetch(self, address: int, length: int) -> bytes:
        """A copy of the bytes at an absolute address; raises as `readable`."""
        return bytes(self.readable(address, length))

    def store(self, address: int, data: bytes | memoryview) -> None:
        """Store bytes at an absolute address; raises as `readable`, before anything is stored."""
        self.writable(address, len(data))[:] = data
