"""SCLP service calls: READ SCP INFO with the facilities of secure IPL, READ CPU INFO (docs/formats/sclp.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.layout import sclp
from sipl.layout.record import pack, unpack
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.memory import MIB_SHIFT, increment_shift

if TYPE_CHECKING:
    from sipl.machine.cpu import Cpu
    from sipl.machine.cpu_model import CpuModel
    from sipl.machine.sclp_events import EventFacility, Response

_SCCB_ADDRESS_MASK: Final = 0x7FFFFFF8  # 31 bits, doubleword boundary
_PAGE: Final = 4096
_PREFIX_AREA_MASK: Final = ~0x1FFF
_READ_SCP_INFO: Final = frozenset({sclp.Command.READ_SCP_INFO, sclp.Command.READ_SCP_INFO_FORCED})


class ScpInfo(NamedTuple):
    """What READ SCP INFO tells about the machine."""

    memory_size: int  # bytes
    cpus: int
    loadparm: bytes  # EBCDIC
    model: CpuModel


def service_call(cpu: Cpu, info: ScpInfo, command: int, address: int, events: EventFacility | None = None) -> None:
    """Carry out SERVC: the response code lands in the SCCB, the condition code is 0.

    With extended-length SCCBs READ SCP INFO and READ CPU INFO may cross a page and be longer than one. A machine whose
    guest runs has an event facility: it serves the console and takes the interruption that tells the completion.

    Raises:
        ProgramInterruption: privileged, addressing; specification for a misplaced SCCB or one shorter than its header.
    """
    cpu.require_supervisor()
    cpu.memory.check(address, sclp.SCCB_MIN_LENGTH)
    block = address & _PREFIX_AREA_MASK
    if not block or block == cpu.prefix or address & ~_SCCB_ADDRESS_MASK:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    length = unpack(sclp.SccbHeader, cpu.memory.read(address, sclp.SCCB_MIN_LENGTH)).length
    if length < sclp.SCCB_MIN_LENGTH:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    cpu.memory.check(address, length)
    sccb = bytearray(cpu.memory.read(address, length))
    crosses = address // _PAGE != (address + length - 1) // _PAGE
    response = _execute(info, command, sccb, crosses, events)
    sccb[sclp.RESPONSE_CODE_OFFSET : sclp.RESPONSE_CODE_OFFSET + 2] = int(response).to_bytes(2, "big")
    cpu.memory.write(address, bytes(sccb))
    if events is not None:
        events.completed(address)


def _execute(info: ScpInfo, command: int, sccb: bytearray, crosses: bool, events: EventFacility | None) -> Response:
    if command in _READ_SCP_INFO:
        if crosses and not info.model.els:
            return sclp.ResponseCode.BOUNDARY_VIOLATION
        response = _read_scp_info(info, sccb)
        if events is not None and response is sclp.ResponseCode.OK:
            _tell_cpus(info, sccb)
        return response
    if events is None:
        return sclp.ResponseCode.INVALID_COMMAND
    return _execute_running(info, command, sccb, crosses, events)


def _execute_running(info: ScpInfo, command: int, sccb: bytearray, crosses: bool, events: EventFacility) -> Response:
    """The commands that a machine knows whose guest runs."""
    from sipl.layout.sclp_events import EVENT_COMMANDS, EventCommand

    if command not in EVENT_COMMANDS:
        return sclp.ResponseCode.INVALID_COMMAND
    reads_cpus = command == EventCommand.READ_CPU_INFO
    if crosses and not (reads_cpus and info.model.els):
        return sclp.ResponseCode.BOUNDARY_VIOLATION
    return _read_cpu_info(info, sccb) if reads_cpus else events.command(command, sccb)


def _read_scp_info(info: ScpInfo, sccb: bytearray) -> sclp.ResponseCode:
    # The answer takes this much room whether or not the CPU entries start as late as they can.
    end = sclp.CPU_ENTRIES_EXTENDED + sclp.CPU_ENTRY_SIZE * info.cpus
    if len(sccb) < end:
        return sclp.ResponseCode.INSUFFICIENT_LENGTH
    sccb[sclp.SCCB_MIN_LENGTH : end] = bytes(end - sclp.SCCB_MIN_LENGTH)
    cpu_offset = sclp.CPU_ENTRIES_EXTENDED if info.model.els else sclp.CPU_ENTRIES
    shift = increment_shift(info.memory_size)
    _put(sccb, sclp.INCREMENTS_OFFSET, info.memory_size >> shift, 2)
    _put(sccb, sclp.INCREMENT_SIZE_OFFSET, 1 << (shift - MIB_SHIFT), 1)
    _put(sccb, sclp.CPU_COUNT_OFFSET, info.cpus, 2)
    _put(sccb, sclp.CPU_OFFSET_OFFSET, cpu_offset, 2)
    sccb[sclp.LOADPARM_OFFSET : sclp.LOADPARM_OFFSET + sclp.LOADPARM_SIZE] = info.loadparm
    if info.model.els:
        _put(sccb, sclp.CSTORE_OFFSET, sclp.CSTORE if info.model.cstore else 0, 1)
        facilities = (sclp.SIPL if info.model.sipl else 0) | (sclp.SCLAF if info.model.sclaf else 0)
        _put(sccb, sclp.IPL_FACILITIES_OFFSET, facilities, 2)
    for number in range(info.cpus):
        _put(sccb, cpu_offset + number * sclp.CPU_ENTRY_SIZE, number, 1)
    return sclp.ResponseCode.OK


def _tell_cpus(info: ScpInfo, sccb: bytearray) -> None:
    """What READ SCP INFO adds where READ CPU INFO is known."""
    from sipl.layout import sclp_events

    _put(sccb, sclp_events.FACILITIES_OFFSET, sclp_events.HAS_CPU_INFO, 8)
    _put(sccb, sclp_events.HIGHEST_CPU_OFFSET, info.cpus - 1, 2)


def _read_cpu_info(info: ScpInfo, sccb: bytearray) -> sclp.ResponseCode:
    from sipl.layout import sclp_events

    end = sclp_events.CPU_INFO_ENTRIES + sclp.CPU_ENTRY_SIZE * info.cpus
    if len(sccb) < end:
        return sclp.ResponseCode.INSUFFICIENT_LENGTH
    sccb[sclp.SCCB_MIN_LENGTH : end] = bytes(end - sclp.SCCB_MIN_LENGTH)
    told = pack(sclp_events.CpuInfo(info.cpus, sclp_events.CPU_INFO_ENTRIES, 0, end))
    sccb[sclp_events.CPU_INFO_OFFSET : sclp_events.CPU_INFO_OFFSET + len(told)] = told
    for number in range(info.cpus):
        _put(sccb, sclp_events.CPU_INFO_ENTRIES + number * sclp.CPU_ENTRY_SIZE, number, 1)
    return sclp.ResponseCode.OK


def _put(sccb: bytearray, offset: int, value: int, length: int) -> None:
    sccb[offset : offset + length] = value.to_bytes(length, "big")
