"""The parameters that zipl's stage3 loader reads at 0x9000 (docs/formats/boot-record.md, "What zipl writes")."""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

STAGE3_ENTRY: Final = 0xA000
STAGE3_LENGTH: Final = 0x4000
STAGE3_PSW: Final = 0x000800008000A000
STAGE3_PARAMETERS: Final = 0x9000
STAGE3_HEAP: Final = 0x2000
STAGE3_STACK: Final = 0xF000
# What zipl keeps free of other components there, with two dummies of zeros.
STAGE3_HEAP_SIZE: Final = 0x4000
STAGE3_STACK_SIZE: Final = 0x1000

KERNEL_ADDRESS: Final = 0x10000
KERNEL_PSW: Final = 0x0008000080010000
# stage3 moves what lies this far behind the kernel's start down onto the start.
KERNEL_MOVE_OFFSET: Final = 0x10000

FLAG_SCSI: Final = 0x0001000000000000
FLAG_KDUMP: Final = 0x0002000000000000
KNOWN_FLAGS: Final = FLAG_SCSI | FLAG_KDUMP
UNSPECIFIED_ADDRESS: Final = 0xFFFFFFFFFFFFFFFF


@layout(">10Q")
class Stage3Parameters(NamedTuple):
    """80 bytes; addresses are absolute, lengths in bytes."""

    parmline_address: int
    initrd_address: int
    initrd_length: int
    kernel_psw: int
    extra_parameters: int  # 0 on SCSI, 1 otherwise
    flags: int
    kernel_length: int  # of the file, an appended signature included
    kernel_address: int
    environment_address: int
    environment_length: int
