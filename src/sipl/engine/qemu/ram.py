"""The guest's memory in a file without a name, which QEMU has as its memory and sipl sees, too."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError

if TYPE_CHECKING:
    from sipl.machine.memory import GuestMemory

PAGE: Final = 0x1000
_ZERO_PAGE: Final = bytes(PAGE)


class GuestRam:
    """Absolute storage of a guest in QEMU, all zero at first. `fd` is for QEMU to inherit.

    It is named in the guest's memory alone: it is gone with sipl and with QEMU, whatever ends them.

    Raises:
        UsageError: the host does not give it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        try:
            self.fd = os.memfd_create("sipl-guest", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
        except OSError as error:
            why = f"the host has no room for a guest of {size >> 20} MiB"
            raise UsageError("--memory", why, "ask for less") from error
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give sipl's hold on it back."""
        self.view.release()
        self._map.close()
        os.close(self.fd)

    def read(self, address: int, length: int) -> bytes:
        """A copy of bytes of absolute storage, all of which are there."""
        return bytes(self.view[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        """Store into absolute storage."""
        self.view[address : address + len(data)] = data

    def place(self, memory: GuestMemory, address: int, length: int) -> None:
        """Take over bytes of verified memory, whole pages around them included; pages of zeros take no room."""
        start, end = address & -PAGE, min(self.size, -(-(address + length) // PAGE) * PAGE)
        for at in range(start, end, PAGE):
            page = memory.view[at : at + PAGE]
            if page != _ZERO_PAGE:
                self.view[at : at + PAGE] = page
