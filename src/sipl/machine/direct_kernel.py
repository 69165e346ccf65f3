"""A kernel given directly, without a disk: no signature comes with it (docs/differences.md, H6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.host_file import HostFile
from sipl.errors import ImageFormatError, RefusedToStart
from sipl.layout.iplb import IplbFlags
from sipl.layout.linux import LINUX_MAGIC, LINUX_MAGIC_OFFSET
from sipl.layout.lowcore import PSW_ADDRESS_MASK, PSW_SHORT_64_BIT
from sipl.layout.stage3 import KERNEL_ADDRESS
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.memory import GuestMemory

_ELF_MAGIC: Final = b"\x7fELF"
_PSW_ADDRESS_FIELD: Final = 4  # low word of the short PSW that an image of another kind starts with


def check_direct_kernel(path: str, flags: IplbFlags, warn: Callable[[Reason, Level, str, str], None]) -> None:
    """Refuse a direct kernel in secure mode, warn in audit mode; `flags` are those of the machine.

    Raises:
        RefusedToStart: direct-kernel-not-verified.
    """
    message = "a kernel given directly carries no signature that could be verified"
    if flags & IplbFlags.SIPL:
        hint = "boot it from a disk on which zipl installed it with its signature"
        raise RefusedToStart(Reason.DIRECT_KERNEL_NOT_VERIFIED, path, message, hint)
    if flags:
        warn(Reason.DIRECT_KERNEL_NOT_VERIFIED, Level.WARNING, path, message)


class DirectKernel(NamedTuple):
    """A kernel that lies at absolute 0: the short PSW that starts it, and its size in bytes."""

    psw: int
    size: int


def load_kernel(path: str, memory: GuestMemory, limit: int) -> DirectKernel:
    """Load a kernel image at absolute 0.

    `limit` is the address that the image must end below.

    Raises:
        ImageError: the file is empty or cannot be read.
        ImageFormatError: it is an ELF file, or does not fit into memory.
    """
    file = HostFile(path)
    try:
        if file.size > limit:
            raise ImageFormatError(path, f"the kernel does not fit below {limit:#x}", "give the guest more --memory")
        file.read_into(0, memory.view[: file.size])
    finally:
        file.close()
    if memory.read(0, len(_ELF_MAGIC)) == _ELF_MAGIC:
        raise ImageFormatError(
            path, "the kernel is an ELF file", "name the bootable image (vmlinuz, arch/s390/boot/bzImage)"
        )
    linux = memory.read(KERNEL_ADDRESS + LINUX_MAGIC_OFFSET, len(LINUX_MAGIC)) == LINUX_MAGIC
    word = int.from_bytes(memory.read(_PSW_ADDRESS_FIELD, 4), "big")
    psw = PSW_SHORT_64_BIT | (KERNEL_ADDRESS if linux else word & PSW_ADDRESS_MASK)
    return DirectKernel(psw, file.size)
