"""A Linux kernel for s390: the file, a bzImage (docs/formats/loader.md, "The kernel"), and what tells that it runs.

The file is an image of storage from address 0 on. Its first 64 KiB are for starts that nobody makes today; loaders
put the file at 0x10000, move what lies behind these 64 KiB down onto 0x10000, and enter it there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

LINUX_ENTRY_OFFSET: Final = 0x10000  # in the file; all offsets below count from here
LINUX_MAGIC_OFFSET: Final = 8
LINUX_MAGIC: Final = b"S390EP"
LINUX_AREA_OFFSET: Final = 0x400
LINUX_COMMAND_LINE_OFFSET: Final = 0x480
# Of a kernel whose field for it is zero.
OLD_COMMAND_LINE_SIZE: Final = 896

# A kernel that runs keeps the address of a block about itself, u64, in the prefix area of absolute storage.
OS_INFO_POINTER: Final = 0xE18
OS_INFO_MAGIC: Final = b"OSINFOSZ"


@layout(">7Q")
class LinuxArea(NamedTuple):
    """Start of the area that a loader fills in; the command line follows at `LINUX_COMMAND_LINE_OFFSET`."""

    subchannel: int  # of the device that the IPL was from
    initrd_address: int
    initrd_length: int
    old_memory_address: int
    old_memory_length: int
    version: int  # offset in the file of the text that names the version, zero-terminated
    command_line_size: int  # bytes, with the zero at its end
