"""Delivering interruptions: old PSW, codes and new PSW in the prefix area (docs/embedded-engine.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.embedded.guest_cpu import PSW_EA_BA, PSW_EXTERNAL, PSW_IO
from sipl.engine.embedded.unicorn_cpu import PC, PSWM
from sipl.machine.interruption import ProgramCode

if TYPE_CHECKING:
    from sipl.engine.embedded.guest_cpu import GuestCpu

EXTERNAL_PARAMETER: Final = 0x80
EXTERNAL_CPU_ADDRESS: Final = 0x84
EXTERNAL_CODE: Final = 0x86
SVC_LENGTH: Final = 0x88
PROGRAM_LENGTH: Final = 0x8C
TRANSLATION_EXCEPTION: Final = 0xA8
SUBSYSTEM_ID: Final = 0xB8
EXTERNAL_OLD: Final = 0x130
SVC_OLD: Final = 0x140
PROGRAM_OLD: Final = 0x150
IO_OLD: Final = 0x170
EXTERNAL_NEW: Final = 0x1B0
SVC_NEW: Final = 0x1C0
PROGRAM_NEW: Final = 0x1D0
IO_NEW: Final = 0x1F0

# Bits 0, 2 to 4, 12, 24 to 30 and 33 to 63 of the PSW; condition code and program mask are shown in it, too.
UNASSIGNED: Final = 0xB80800FE7FFFFFFF
EXTENDED_ADDRESSING: Final = 0x100000000

SERVICE_SIGNAL: Final = 0x2401
CLOCK_COMPARATOR: Final = 0x1004
CPU_TIMER: Final = 0x1005
CR0_SERVICE_SIGNAL: Final = 0x200
CR0_CPU_TIMER: Final = 0x400
CR0_CLOCK_COMPARATOR: Final = 0x800

# The instruction did not happen and the old PSW points to it: it is to be tried again.
NULLIFYING: Final = frozenset(
    {
        ProgramCode.SEGMENT_TRANSLATION,
        ProgramCode.PAGE_TRANSLATION,
        ProgramCode.ASCE_TYPE,
        ProgramCode.REGION_FIRST_TRANSLATION,
        ProgramCode.REGION_SECOND_TRANSLATION,
        ProgramCode.REGION_THIRD_TRANSLATION,
    }
)


def _swap_psw(cpu: GuestCpu, address: int, old: int, new: int) -> None:
    """Store the current PSW, whose address is given, and load another."""
    unicorn = cpu.unicorn
    lowcore = cpu.prefix
    cpu.memory.write(lowcore + old, unicorn.read(PSWM).to_bytes(8, "big") + address.to_bytes(8, "big"))
    data = cpu.memory.read(lowcore + new, 16)
    load_psw(cpu, int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big"))


def store_translation_exception(cpu: GuestCpu, address: int) -> None:
    """Say which page has no translation; the bits of the address space and of fetch or store stay zero."""
    cpu.memory.write(cpu.prefix + TRANSLATION_EXCEPTION, (address & ~0xFFF).to_bytes(8, "big"))


def load_psw(cpu: GuestCpu, mask: int, address: int) -> None:
    """Make a PSW current."""
    cpu.unicorn.write(PSWM, mask)
    cpu.unicorn.write(PC, address)


def is_valid_psw(mask: int, address: int) -> bool:
    """Whether a PSW has no unassigned bit, an addressing mode, and an address that fits it.

    An odd address is found only when an instruction is to be fetched there, and a CPU that waits fetches none.
    """
    if mask & UNASSIGNED:
        return False
    mode = mask & PSW_EA_BA
    if mode == PSW_EA_BA:
        return True
    if mode & EXTENDED_ADDRESSING:
        return False
    return not address >> (31 if mode else 24)


def program(cpu: GuestCpu, code: int, length: int, address: int) -> None:
    """Program interruption; `address` is that of the instruction, `length` its bytes."""
    word = length << 16 | code
    cpu.memory.write(cpu.prefix + PROGRAM_LENGTH, word.to_bytes(4, "big"))
    old = address if code in NULLIFYING or not length else cpu.wrap(address + length)
    _swap_psw(cpu, old, PROGRAM_OLD, PROGRAM_NEW)


def supervisor_call(cpu: GuestCpu, code: int, length: int, address: int) -> None:
    """SVC interruption; `address` is that of the instruction."""
    cpu.memory.write(cpu.prefix + SVC_LENGTH, (length << 16 | code).to_bytes(4, "big"))
    _swap_psw(cpu, cpu.wrap(address + length), SVC_OLD, SVC_NEW)


def external(cpu: GuestCpu, code: int, parameter: int | None = None) -> None:
    """External interruption; the current PSW address is that of the next instruction."""
    if parameter is not None:
        cpu.memory.write(cpu.prefix + EXTERNAL_PARAMETER, parameter.to_bytes(4, "big"))
    cpu.memory.write(cpu.prefix + EXTERNAL_CPU_ADDRESS, code.to_bytes(4, "big"))
    _swap_psw(cpu, cpu.unicorn.read(PC), EXTERNAL_OLD, EXTERNAL_NEW)


def input_output(cpu: GuestCpu, subsystem_id: int, parameter: int, word: int) -> None:
    """I/O interruption; the current PSW address is that of the next instruction."""
    data = subsystem_id.to_bytes(4, "big") + parameter.to_bytes(4, "big") + word.to_bytes(4, "big")
    cpu.memory.write(cpu.prefix + SUBSYSTEM_ID, data)
    _swap_psw(cpu, cpu.unicorn.read(PC), IO_OLD, IO_NEW)


def may_interrupt(mask: int) -> bool:
    """Whether a PSW mask lets external or I/O interruptions through."""
    return bool(mask & (PSW_EXTERNAL | PSW_IO))
