"""Whether a file is a Linux kernel for s390, and what it says about itself (docs/formats/loader.md, "The kernel")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.layout.linux import (
    LINUX_AREA_OFFSET,
    LINUX_COMMAND_LINE_OFFSET,
    LINUX_ENTRY_OFFSET,
    LINUX_MAGIC,
    LINUX_MAGIC_OFFSET,
    OLD_COMMAND_LINE_SIZE,
    LinuxArea,
)
from sipl.layout.record import unpack
from sipl.text import printable

if TYPE_CHECKING:
    from sipl.layout.record import Buffer

# What a version text can have: the release, who built it, when; kernels use a few hundred characters at most.
_LONGEST_VERSION: Final = 512
_ELF: Final = b"\x7fELF"
_GZIP: Final = b"\x1f\x8b"


class LinuxImage(NamedTuple):
    """What a kernel says about itself."""

    version: str  # printable; empty where it names none
    command_line_size: int  # bytes that its command line can have, with the zero at its end


def read_linux_image(data: Buffer, where: str) -> LinuxImage:
    """Look at the kernel in a file named `where`.

    Raises:
        UsageError: it is no kernel for s390 in the form that loaders take.
    """
    magic_at = LINUX_ENTRY_OFFSET + LINUX_MAGIC_OFFSET
    if bytes(data[magic_at : magic_at + len(LINUX_MAGIC)]) != LINUX_MAGIC:
        raise UsageError(where, f"it is no kernel for s390x: {_what(bytes(data[:4]))}", "take the bzImage (vmlinuz)")
    if len(data) < LINUX_ENTRY_OFFSET + LINUX_COMMAND_LINE_OFFSET:
        raise UsageError(where, "the kernel ends too early", "take a whole bzImage")
    area = unpack(LinuxArea, data, LINUX_ENTRY_OFFSET + LINUX_AREA_OFFSET)
    size = area.command_line_size or OLD_COMMAND_LINE_SIZE
    if LINUX_ENTRY_OFFSET + LINUX_COMMAND_LINE_OFFSET + size > len(data):
        raise UsageError(where, "the kernel's area for its command line ends behind its end", "take a whole bzImage")
    return LinuxImage(_version(data, area.version), size)


def _what(start: bytes) -> str:
    if start == _ELF:
        return "it is an ELF file"
    if start.startswith(_GZIP):
        return "it is compressed with gzip"
    return "S390EP is not where such a kernel has it"


def _version(data: Buffer, offset: int) -> str:
    if not 0 < offset < len(data):
        return ""
    text = bytes(data[offset : offset + _LONGEST_VERSION]).partition(b"\0")[0]
    return printable(text.decode("ascii", "replace"))
