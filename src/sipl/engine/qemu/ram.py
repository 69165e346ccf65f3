"""The guest's memory in a file without a name, which QEMU has as its memory and sipl sees, too."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError

if TYPE_CHECKING:
    from sipl.machine.memory import GuestMemory

PAGE: Final = 0x1000
# Of Linux 5.1 (linux/fcntl.h), which Python does not name.
_SEAL_FUTURE_WRITE: Final = 0x0010
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
            self.fd = os.memfd_create("sipl-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, size)
            # Who looks at a page that is no longer there is killed.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            self._map = mmap.mmap(self.fd, size)
        except OSError as error:
            raise _no_room(size) from error
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give sipl's hold on it back."""
        os.close(self.fd)
        # After an exception, somebody may still hold a part of it.
        with suppress(BufferError):
            self.view.release()
            self._map.close()
        self.fd = -1

    def seal(self) -> None:
        """From now on nobody writes to it but the guest and sipl, through the maps that there are.

        QEMU has ways to open its own descriptors anew, as an image or a memory of a device; so would have whoever can
        look into /proc.

        Raises:
            UsageError: the host cannot do that.
        """
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
        except OSError as error:
            why = f"the host does not seal the guest's memory: {error.strerror}"
            raise UsageError("QEMU", why, "take Linux 5.1 or later, or --engine embedded") from error

    def read(self, address: int, length: int) -> bytes:
        """A copy of bytes of absolute storage, all of which are there."""
        # A look through the map would take room for pages that nobody has written.
        return os.pread(self.fd, length, address)

    def write(self, address: int, data: bytes) -> None:
        """Store into absolute storage."""
        self.view[address : address + len(data)] = data

    def place(self, memory: GuestMemory, address: int, length: int) -> None:
        """Take over bytes of verified memory, whole pages around them included; pages of zeros take no room.

        Raises:
            UsageError: the host does not give the room.
        """
        start, end = address & -PAGE, min(self.size, -(-(address + length) // PAGE) * PAGE)
        used = start  # up to here nothing is known
        for at in range(start, end, PAGE):
            if memory.view[at : at + PAGE] != _ZERO_PAGE:
                continue
            if at >= used:
                used = self._next_used(at)
            # QEMU may have put something there, a program for booting from a network, say.
            if at + PAGE <= used:
                self._take(memory, start, at)
                start = at + PAGE
        self._take(memory, start, end)

    def _next_used(self, address: int) -> int:
        """The first address from this one on at which something has been written."""
        try:
            return os.lseek(self.fd, address, os.SEEK_DATA)
        except OSError:  # nothing any more
            return self.size

    def _take(self, memory: GuestMemory, start: int, end: int) -> None:
        # Through the descriptor: the host neither clears nor maps pages that are written as a whole.
        try:
            while start < end:
                start += os.pwrite(self.fd, memory.view[start:end], start)
        except OSError as error:
            raise _no_room(self.size) from error


def _no_room(size: int) -> UsageError:
    return UsageError("--memory", f"the host has no room for a guest of {size >> 20} MiB", "ask for less")
