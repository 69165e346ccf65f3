"""Where sipl's own guests stop: addresses of disabled-wait PSWs.

See docs/demo-guest.md, docs/formats/loader.md and docs/qemu-engine.md.
"""

from __future__ import annotations

from enum import IntEnum


class DemoEnd(IntEnum):
    """The demo guest."""

    DONE = 0xC0FFEE  # kernel: every line was written
    NO_IPL_PARAMETERS = 0xBAD001  # loader: DIAGNOSE 308 did not store the IPL parameter block
    NO_REPORT = 0xBAD002  # loader: secure IPL without an IPL report
    KERNEL_NOT_VERIFIED = 0xBAD003  # loader: secure IPL, and the report lists no verified kernel
    LOADER_FAULT = 0xBAD00F  # loader: program interruption
    NO_CONSOLE = 0xBAD011  # kernel: the SCLP takes neither messages nor VT220 data
    CONSOLE_FAILED = 0xBAD012  # kernel: a service call was not carried out
    KERNEL_FAULT = 0xBAD01F  # kernel: program interruption


class LoaderEnd(IntEnum):
    """The loader for Linux, where it does not enter the kernel. The addresses are even, as instructions have them."""

    NO_IPL_PARAMETERS = 0x51B010  # DIAGNOSE 308 did not store the IPL parameter block, or one of a newer version
    NO_REPORT = 0x51B020  # secure IPL without an IPL report
    REPORT_MALFORMED = 0x51B030
    PARAMETERS_NOT_LOADED = 0x51B040  # no component (closed: no verified one) has them
    PARAMETERS_UNKNOWN = 0x51B050  # kernel address, PSW or flags are others than this loader knows
    KERNEL_NOT_VERIFIED = 0x51B060
    KERNEL_LENGTH = 0x51B070  # not that of the verified component, or not possible
    NOT_LINUX = 0x51B080  # no kernel for s390, or one with an impossible command-line area
    INITRD_MISPLACED = 0x51B090  # not between the kernel's end and 2 GiB
    INITRD_NOT_LOADED = 0x51B0A0  # not in one component (closed: a verified one)
    COMMAND_LINE_MISPLACED = 0x51B0B0
    COMMAND_LINE_NOT_LOADED = 0x51B0C0
    COMMAND_LINE_TOO_LONG = 0x51B0D0  # no end inside its component, or longer than the kernel takes
    ENVIRONMENT_MISPLACED = 0x51B0E0
    ENVIRONMENT_NOT_LOADED = 0x51B0F0
    ENVIRONMENT_UNKNOWN = 0x51B100  # it does not begin like an environment block
    FAULT = 0x51B1F0  # program interruption


class QemuEnd(IntEnum):
    """The programs that sipl has a QEMU run: the harmless image, the jump, and the collector of a chosen block."""

    BLOCK_STORED = 0x51B210  # harmless image: the IPL parameter block lies behind it
    NO_BLOCK = 0x51B220  # harmless image: QEMU has none
    IMAGE_FAULT = 0x51B230  # harmless image: program interruption
    BLOCK_REFUSED = 0x51B240  # jump: QEMU does not take the IPL parameter block
    BLOCK_CHANGED = 0x51B250  # jump: QEMU gives another one back
    CHOICE_STORED = 0x51B260  # collector: the block that the guest chose lies behind it
    NO_CHOICE = 0x51B270  # collector: QEMU has none
    COLLECTOR_FAULT = 0x51B280  # collector: program interruption
