"""DIAGNOSE 308: the IPL parameter block and the resets that start from it (docs/formats/diag308.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.diag308 import ResponseCode, Subcode
from sipl.layout.iplb import IPLB_CCW_LENGTH, IPLB_FCP_MIN_LENGTH, IPLB_SIZE, IplbHeader, IplbType
from sipl.layout.record import unpack
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.machine.cpu import Cpu
    from sipl.machine.ipl_device import IplDevice

FUNCTION_CODE: Final = 0x308
MAX_SUBCODE: Final = 0xFFFF
_RESETS: Final = frozenset(
    {Subcode.RESET_MODIFIED_CLEAR, Subcode.RESET_LOAD_NORMAL, Subcode.LOAD_CLEAR, Subcode.LOAD_NORMAL_DUMP}
)
_BLOCK_ALIGNMENT: Final = 4096
_MIN_LENGTHS: Final = {IplbType.CCW: IPLB_CCW_LENGTH, IplbType.FCP: IPLB_FCP_MIN_LENGTH}


class GuestReset(Exception):
    """The guest asked for a reset: whoever runs it must carry it out; an IPL means the whole verification again."""

    def __init__(self, subcode: Subcode) -> None:
        self.subcode = subcode
        super().__init__(f"DIAGNOSE 308 subcode {int(subcode)}")


def diagnose_308(cpu: Cpu, ipl: IplDevice, r1: int, r3: int) -> None:
    """Carry out DIAGNOSE 308: address in GR `r1`, subcode in GR `r3`, response code to GR `r1` + 1.

    Raises:
        ProgramInterruption: privileged, specification (a subcode that is not offered, too), addressing.
        GuestReset: subcodes 0, 1, 3 and 4.
    """
    cpu.require_supervisor()
    subcode = cpu.registers[r3]
    if subcode > MAX_SUBCODE:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    if subcode in _RESETS:
        raise GuestReset(Subcode(subcode))
    if subcode not in (Subcode.SET, Subcode.STORE):
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    result = cpu.result_register(r1)
    address = cpu.registers[r1]
    if address % _BLOCK_ALIGNMENT:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    cpu.memory.check(address, IPLB_SIZE)
    response = _set(cpu, ipl, address) if subcode == Subcode.SET else _store(cpu, ipl, address)
    cpu.registers[result] = int(response)


def is_block(block: bytes) -> bool:
    """Whether 4096 bytes are an IPL parameter block that subcode 5 takes."""
    header = unpack(IplbHeader, block)
    if header.length > IPLB_SIZE:
        return False
    if header.type in _MIN_LENGTHS:
        return header.length >= _MIN_LENGTHS[IplbType(header.type)]
    return header.type == IplbType.QEMU_SCSI


def _set(cpu: Cpu, ipl: IplDevice, address: int) -> ResponseCode:
    length = int.from_bytes(cpu.memory.read(address, 4), "big")
    block = cpu.memory.read(address, min(length, IPLB_SIZE)).ljust(IPLB_SIZE, b"\0")
    if not is_block(block):
        return ResponseCode.INVALID
    if unpack(IplbHeader, block).type == IplbType.QEMU_SCSI:
        ipl.set_scsi_block(block)
    else:
        ipl.set_block(block)
    return ResponseCode.OK


def _store(cpu: Cpu, ipl: IplDevice, address: int) -> ResponseCode:
    if ipl.block is None:
        return ResponseCode.NO_CONFIGURATION
    cpu.memory.write(address, ipl.block[: unpack(IplbHeader, ipl.block).length])
    return ResponseCode.OK
