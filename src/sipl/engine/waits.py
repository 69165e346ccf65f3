"""What a disabled wait means: who stopped and why, if it is certain (docs/embedded-engine.md, "Disabled waits").

A guest says why it stops by the address of the PSW that it waits with, each in its own way. So it must be known who it
is, by what else it left behind; otherwise the PSW is all that can be said.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sipl.engine.base import EndKind, GuestEnd
from sipl.layout.guest_ends import DemoEnd, LoaderEnd
from sipl.layout.linux import LINUX_MAGIC, LINUX_MAGIC_OFFSET, OS_INFO_MAGIC, OS_INFO_POINTER
from sipl.layout.sclab import SCLAB_MAGIC
from sipl.layout.stage3 import KERNEL_ADDRESS, STAGE3_ENTRY, STAGE3_LENGTH

# PSW masks of a disabled wait, apart from the condition code: addressing with 64 and with 31 bits.
_WAIT_64: Final = 0x0002000180000000
_WAIT_31: Final = 0x0002000080000000
_CONDITION_CODE: Final = 0x0000300000000000

_DEMO: Final[dict[int, str]] = {
    DemoEnd.DONE: "the guest says that it is done",
    DemoEnd.NO_IPL_PARAMETERS: "the demo loader got no IPL parameter block",
    DemoEnd.NO_REPORT: "the demo loader found no IPL report in secure mode",
    DemoEnd.KERNEL_NOT_VERIFIED: "the demo loader found its kernel not verified",
    DemoEnd.LOADER_FAULT: "the demo loader ended in a program interruption",
    DemoEnd.NO_CONSOLE: "the demo kernel found no console",
    DemoEnd.CONSOLE_FAILED: "a service call of the demo kernel failed",
    DemoEnd.KERNEL_FAULT: "the demo kernel ended in a program interruption",
}
_LOADER: Final[dict[int, str]] = {
    LoaderEnd.NO_IPL_PARAMETERS: "it got no IPL parameter block",
    LoaderEnd.NO_REPORT: "there is no IPL report, in secure mode",
    LoaderEnd.REPORT_MALFORMED: "the IPL report is malformed",
    LoaderEnd.PARAMETERS_NOT_LOADED: "its parameters are not in a component that may have them",
    LoaderEnd.PARAMETERS_UNKNOWN: "its parameters are not those of a Linux that it can start",
    LoaderEnd.KERNEL_NOT_VERIFIED: "the kernel is not a verified component",
    LoaderEnd.KERNEL_LENGTH: "the length of the kernel is not that of the verified component",
    LoaderEnd.NOT_LINUX: "what lies at 0x10000 is no Linux kernel",
    LoaderEnd.INITRD_MISPLACED: "the RAM disk does not lie behind the kernel",
    LoaderEnd.INITRD_NOT_LOADED: "the RAM disk is not in a component that may have it",
    LoaderEnd.COMMAND_LINE_MISPLACED: "the command line does not lie behind the kernel",
    LoaderEnd.COMMAND_LINE_NOT_LOADED: "the command line is not in a component that may have it",
    LoaderEnd.COMMAND_LINE_TOO_LONG: "the command line is longer than its component, or than the kernel takes",
    LoaderEnd.ENVIRONMENT_MISPLACED: "the environment block does not lie behind the kernel",
    LoaderEnd.ENVIRONMENT_NOT_LOADED: "the environment block is not in a component that may have it",
    LoaderEnd.ENVIRONMENT_UNKNOWN: "the environment block is none",
    LoaderEnd.FAULT: "it ended in a program interruption",
}
_STAGE3_END: Final = STAGE3_ENTRY + STAGE3_LENGTH
_STAGE3_NOT_SECURE: Final = 0x4512


class Storage(Protocol):
    """Absolute storage of the guest that has stopped."""

    size: int

    def read(self, address: int, length: int) -> bytes:
        """A copy of bytes that are there."""


class Stopped(NamedTuple):
    """A guest in a disabled wait; addresses are absolute, but for that of the PSW."""

    mask: int
    address: int
    return_address: int  # general register 14, which the code of firmware, loader and Linux returns by
    firmware_base: int | None  # where a real firmware lies if the run began there
    memory: Storage


def explain(stopped: Stopped) -> GuestEnd:
    """How the run ended."""
    kind = EndKind.DONE if stopped.address == DemoEnd.DONE else EndKind.CRASHED
    sentence = _own(stopped) or _firmware(stopped) or _loader(stopped) or _linux(stopped)
    if sentence is None:
        sentence = "the guest stopped for a reason that it alone knows"
    return GuestEnd(kind, f"{sentence} (disabled wait, PSW {stopped.mask:016x} {stopped.address:016x})")


def _own(stopped: Stopped) -> str | None:
    """A program of sipl's, whose codes nobody else uses."""
    if stopped.address in _LOADER:
        return f"sipl's loader did not start Linux: {_LOADER[stopped.address]}"
    return _DEMO.get(stopped.address)


def _mask(stopped: Stopped) -> int:
    return stopped.mask & ~_CONDITION_CODE


def _firmware(stopped: Stopped) -> str | None:
    """A real s390-ccw firmware, which lies above what it loads."""
    if stopped.firmware_base is None or (_mask(stopped), stopped.address) != (_WAIT_64, 0):
        return None
    if not stopped.firmware_base <= stopped.return_address < stopped.memory.size:
        return None
    return "the firmware stopped, as it found nothing to boot or had to give up; the console says why"


def _loader(stopped: Stopped) -> str | None:
    """zipl's stage3, whose file ends with a SCLAB, signed or not."""
    magic = stopped.memory.read(_STAGE3_END - len(SCLAB_MAGIC), len(SCLAB_MAGIC))
    if _mask(stopped) != _WAIT_31 or magic != SCLAB_MAGIC:
        return None
    if not STAGE3_ENTRY <= stopped.return_address < _STAGE3_END:
        return None
    if stopped.address == _STAGE3_NOT_SECURE:
        return "zipl's loader refused the kernel, as its own check of secure IPL found no verified one where it starts"
    return f"zipl's loader stopped with code {stopped.address:#x}"


def _linux(stopped: Stopped) -> str | None:
    memory = stopped.memory
    if _mask(stopped) != _WAIT_64:
        return None
    info = int.from_bytes(memory.read(OS_INFO_POINTER, 8), "big")
    if 0 < info <= memory.size - len(OS_INFO_MAGIC) and memory.read(info, len(OS_INFO_MAGIC)) == OS_INFO_MAGIC:
        # The kernel runs at virtual addresses beyond all storage, and waits at one of its own.
        if stopped.address < memory.size:
            return None
        return "Linux stopped itself, as it does after a panic; the console says why"
    if memory.read(KERNEL_ADDRESS + LINUX_MAGIC_OFFSET, len(LINUX_MAGIC)) == LINUX_MAGIC:
        if not KERNEL_ADDRESS <= stopped.address < memory.size:
            return None
        return "Linux stopped while it was unpacking itself, before its kernel ran; the console says why"
    return None
