"""A file that sipl reads and QEMU uses, in turn (docs/formats/qcow2.md, section "Shared with QEMU").

Its name is looked up once. QEMU gets a descriptor of its own for the same file: it changes the flags of what it is
given, O_DIRECT for example, and its locks belong to it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sipl.disk.image_lock import lock_image, lock_image_against_writers

if TYPE_CHECKING:
    from sipl.disk.host_file import HostFile


class Use(NamedTuple):
    """What a file is for: `role` is a word for messages; `private`: nobody else can have it, so nobody locks it."""

    role: str
    writable: bool = False
    private: bool = False


class SharedFile:
    """Takes `host` over and locks the file: alone where it is written to, otherwise against writers.

    `descriptor` is for QEMU, which takes over and changes the locks that are on it, and stays open here from one QEMU
    process to the next.

    Raises:
        ImageError: the file cannot be opened once more, be written to or be locked; it is closed then.
        ImageInUse: another program uses it.
        UsageError: the host has no locks.
    """

    __slots__ = ("descriptor", "host", "use")

    def __init__(self, host: HostFile, use: Use) -> None:
        self.host = host
        self.use = use
        self.descriptor = -1
        try:
            self.descriptor = host.open_again(writable=use.writable)
            # It may have changed before it was locked.
            self.renew()
        except BaseException:
            self.close()
            raise

    def renew(self) -> None:
        """Lock the file again, as a QEMU that ends takes locks away, and find its size again.

        Raises:
            ImageError: the file is empty now, or cannot be locked.
            ImageInUse: another program uses it meanwhile.
        """
        if not self.use.private:
            (lock_image if self.use.writable else lock_image_against_writers)(self.descriptor, self.host.path)
        self.host.renew()

    def close(self) -> None:
        """Close both descriptors, which unlocks the file unless a QEMU still has it; closing twice is allowed."""
        self.host.close()
        fd, self.descriptor = self.descriptor, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            self.close()
