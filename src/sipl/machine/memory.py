"""Guest memory: absolute storage of the machine, big endian."""

from __future__ import annotations

import mmap
from contextlib import suppress

from sipl.machine.interruption import ProgramCode, ProgramInterruption


class GuestMemory:
    """Absolute storage of `size` bytes, all zero at first; the host takes only the pages that are touched.

    `view` is the whole of it as a writable memoryview, for devices and verification, which copy nothing.
    """

    __slots__ = ("_map", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0) | getattr(mmap, "MAP_NORESERVE", 0)
        self._map = mmap.mmap(-1, size, flags=flags) if flags else mmap.mmap(-1, size)
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give the memory back to the host, as soon as nobody looks at it any more; the machine is of no use then."""
        self.view.release()
        with suppress(BufferError):
            self._map.close()

    def check(self, address: int, length: int) -> None:
        """Raise an addressing exception unless all of `[address, address + length)` is there."""
        if address < 0 or address + length > self.size:
            raise ProgramInterruption(ProgramCode.ADDRESSING)

    def span(self, address: int, length: int) -> memoryview:
        """The bytes at an absolute address, not copied.

        Raises:
            ProgramInterruption: addressing, where one of the bytes is not there.
        """
        self.check(address, length)
        return self.view[address : address + length]

    def read(self, address: int, length: int) -> bytes:
        """A copy of the bytes at an absolute address; raises as `span`."""
        return bytes(self.span(address, length))

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at an absolute address; raises as `span`, before anything is stored."""
        self.check(address, len(data))
        self.view[address : address + len(data)] = data
