"""A kernel in the form of Linux that only stops in a wait of its own, and programs that load it as mkdisk does."""

from __future__ import annotations

import struct

from ipl_lab import KERNEL, LOADER, PARAMETERS, PSW, Execute, Load

from sipl.author import loader, sclab
from sipl.author.environment import build_environment
from sipl.layout.record import pack
from sipl.layout.stage3 import FLAG_SCSI, KERNEL_PSW, UNSPECIFIED_ADDRESS, Stage3Parameters

ENTERED = 0xC0FFEE
VERSION = b"6.1.0-tiny (somebody@example) #1 SMP"
COMMAND_LINE_AT = 0x10480
COMMAND_LINE_SIZE = 256
KERNEL_SIZE = 0x13000
COMMAND_LINE, INITRD, ENVIRONMENT = 0x30000, 0x40000, 0x50000
INITRD_LENGTH = 1000


def tiny_linux(size: int = KERNEL_SIZE, command_line_size: int = COMMAND_LINE_SIZE, magic: bytes = b"S390EP") -> bytes:
    """The file of a kernel: padded, with a SCLAB at its end."""
    image = bytearray(struct.pack(">I", 0x51000000) * (size // 4))
    image[0x8000 : 0x8000 + len(VERSION) + 1] = VERSION + b"\0"
    at = 0x10000
    code = {
        0: bytes.fromhex("a7f40800 00000000") + magic,  # j .+0x1000
        0x400: struct.pack(">7Q", 0, 0, 0, 0, 0, 0x8000, command_line_size),
        0x480: b"built in\0",
        0x1000: bytes.fromhex("c01000000008 b2b21000").ljust(16, b"\0")
        + struct.pack(">QQ", 2 << 48 | 3 << 31, ENTERED),
    }
    for offset, data in code.items():
        image[at + offset : at + offset + len(data)] = data
    return sclab.overwrite(bytes(image[:size]), sclab.build())


def parameters(kernel_length: int = KERNEL_SIZE, **changes) -> Stage3Parameters:
    """What mkdisk would write for the program below; a field is replaced by naming it."""
    standard = Stage3Parameters(
        COMMAND_LINE, INITRD, INITRD_LENGTH, KERNEL_PSW, 0, FLAG_SCSI, kernel_length, KERNEL, ENVIRONMENT, 4096
    )
    return standard._replace(**changes)


NOTHING = {
    "parmline_address": UNSPECIFIED_ADDRESS,
    "initrd_address": 0,
    "initrd_length": 0,
    "environment_address": UNSPECIFIED_ADDRESS,
    "environment_length": 0,
}


def program(
    lab, *, closed: bool = False, line: bytes = b"quiet\0", environment=None, without=(), kernel=None, **changes
) -> list:
    """Components of a disk with sipl's loader; `changes` are fields of the parameters."""
    kernel_data = tiny_linux() if kernel is None else kernel
    environment_block = build_environment(environment or {}, 4096 - 32 * closed)
    loose = {
        PARAMETERS: pack(parameters(**{"kernel_length": len(kernel_data)} | changes)),
        COMMAND_LINE: line,
        INITRD: bytes(range(250)) * 4,
        ENVIRONMENT: environment_block,
    }

    def part(address: int, data: bytes) -> Load:
        return lab.signed(address, sclab.append(data, sclab.build(), 512)) if closed else Load(address, data)

    components = [lab.signed(LOADER, loader.component(closed=closed)), lab.signed(KERNEL, kernel_data)]
    components += [part(address, data) for address, data in loose.items() if address not in without]
    return [*components, Execute(PSW)]
