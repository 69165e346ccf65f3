"""Guest memory: absolute storage of the machine, big endian."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Callable

MIB_SHIFT: Final = 20
MAX_INCREMENTS: Final = 1020  # how many storage increments a machine has at most
# Linux on these processors; Python names the flag from 3.13 on only.
_NO_RESERVE_ON: Final = frozenset({"aarch64", "i686", "riscv64", "s390x", "x86_64"})
_NO_RESERVE: Final = 0x4000


def _map_flags() -> int:
    """Flags of private memory that the host need not have before it is touched; 0 where there are no flags."""
    flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    known = _NO_RESERVE if sys.platform == "linux" and os.uname().machine in _NO_RESERVE_ON else 0
    return flags | getattr(mmap, "MAP_NORESERVE", known) if flags else 0


def increment_shift(memory_size: int) -> int:
    """Binary logarithm of the size of a storage increment: at least 1 MiB, at most 1020 increments."""
    shift = MIB_SHIFT
    while memory_size >> shift > MAX_INCREMENTS:
        shift += 1
    return shift


class GuestMemory:
    """Absolute storage of `size` bytes, all zero at first; the host takes only the pages that are touched.

    `view` is the whole of it as a writable memoryview, for devices and verification, which copy nothing.
    """

    __slots__ = ("_map", "_owners", "on_write", "size", "view")

    def __init__(self, size: int) -> None:
        """Take `size` bytes of address space.

        Raises:
            UsageError: the host does not give them.
        """
        self.size = size
        self._owners = 1
        self.on_write: Callable[[int, int], None] | None = None  # told of address and length by `write`
        flags = _map_flags()
        try:
            self._map = mmap.mmap(-1, size, flags=flags) if flags else mmap.mmap(-1, size)
        except (OSError, OverflowError) as error:
            why = f"the host has no room for a guest of {size >> 20} MiB"
            raise UsageError("--memory", why, "ask for less") from error
        self.view = memoryview(self._map)

    def retain(self) -> None:
        """Become one more owner of the memory, who has to close it, too."""
        self._owners += 1

    def close(self) -> None:
        """Give the memory back to the host, once every owner did so and nobody looks at it any more."""
        self._owners -= 1
        if self._owners:
            return
        self.view.release()
        with suppress(BufferError):
            self._map.close()

    def clear(self) -> None:
        """Set every byte to zero; the host gets its pages back where it can."""
        try:
            self._map.madvise(mmap.MADV_DONTNEED)
        except (AttributeError, OSError):
            self.view[:] = bytes(self.size)

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
        if self.on_write is not None:
            self.on_write(address, len(data))
