"""The instructions that Unicorn leaves out or does otherwise than the machine needs, by their opcode.

A handler gets the CPU complex and the instruction's bytes; the PSW address already points behind it. What a handler
raises as `ProgramInterruption` is delivered to the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.embedded.interruptions import SUBSYSTEM_ID, load_psw
from sipl.engine.embedded.unicorn_cpu import PSWM
from sipl.machine.facilities import stfl_word, store_facility_list_extended
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.engine.embedded.cpu_complex import CpuComplex

    Handler = Callable[[CpuComplex, bytes], None]

LENGTHS: Final = (2, 4, 4, 6)  # bytes of an instruction, by its first two bits
SET_PREFIX: Final = 0xB210
STORE_THEN_OR: Final = 0xAD
EXECUTE: Final = 0x44
EXECUTE_RELATIVE_LONG: Final = 0xC600
EXECUTION_PROTECTION: Final = 0x100000  # of CR0
LOW_ADDRESS_PROTECTION: Final = 0x10000000  # of CR0
_SHORT_PSW_BIT: Final = 0x0008000000000000
_SYSTEM_MASK_SHIFT: Final = 56
INVALID_SYSTEM_MASK: Final = 0xB8  # bits that no valid PSW has


def address_s(cpx: CpuComplex, code: bytes) -> int:
    """Operand address of formats S, SI and RS: base and 12-bit displacement in bytes 2 and 3."""
    return cpx.cpu.effective(code[2] >> 4, (code[2] & 0xF) << 8 | code[3])


def _rsy(cpx: CpuComplex, code: bytes) -> int:
    """Operand address of format RSY: base and signed 20-bit displacement."""
    displacement = code[4] << 12 | (code[2] & 0xF) << 8 | code[3]
    if displacement & 0x80000:
        displacement -= 0x100000
    return cpx.cpu.effective(code[2] >> 4, displacement)


def _aligned(address: int, boundary: int) -> int:
    if address % boundary:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    return address


def diagnose(cpx: CpuComplex, code: bytes) -> None:
    """DIAGNOSE: the function code is the second operand address."""
    cpx.cpu.require_supervisor()
    cpx.diagnose(address_s(cpx, code) & 0xFFFF, code[1] >> 4, code[1] & 0xF)


def sigp(cpx: CpuComplex, code: bytes) -> None:
    """SIGNAL PROCESSOR: order code in the second operand address."""
    cpx.cpu.require_supervisor()
    cpx.sigp(address_s(cpx, code) & 0xFF, code[1] >> 4, code[1] & 0xF)


def servc(cpx: CpuComplex, code: bytes) -> None:
    """SERVICE CALL: command in the first register, SCCB address in the second."""
    cpx.cpu.require_supervisor()
    command = cpx.cpu.registers[code[3] >> 4] & 0xFFFFFFFF
    cpx.cpu.set_cc(cpx.service_call(command, cpx.cpu.registers[code[3] & 0xF]))


def lpsw(cpx: CpuComplex, code: bytes) -> None:
    """LOAD PSW: a short PSW of 8 bytes."""
    cpx.cpu.require_supervisor()
    data = int.from_bytes(cpx.cpu.logical_read(_aligned(address_s(cpx, code), 8), 8), "big")
    if not data & _SHORT_PSW_BIT:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    mask = (data & 0xFFFFFFFF80000000) ^ _SHORT_PSW_BIT
    load_psw(cpx.cpu, mask, data & 0x7FFFFFFF)
    cpx.psw_loaded()


def lpswe(cpx: CpuComplex, code: bytes) -> None:
    """LOAD PSW EXTENDED."""
    cpx.cpu.require_supervisor()
    data = cpx.cpu.logical_read(_aligned(address_s(cpx, code), 8), 16)
    load_psw(cpx.cpu, int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big"))
    cpx.psw_loaded()


def _set_system_mask(cpx: CpuComplex, value: int) -> None:
    mask = cpx.cpu.mask & 0x00FFFFFFFFFFFFFF
    cpx.cpu.unicorn.write(PSWM, mask | value << _SYSTEM_MASK_SHIFT)
    cpx.mask_changed()


def ssm(cpx: CpuComplex, code: bytes) -> None:
    """SET SYSTEM MASK."""
    cpx.cpu.require_supervisor()
    _set_system_mask(cpx, cpx.cpu.logical_read(address_s(cpx, code), 1)[0])


def stosm(cpx: CpuComplex, code: bytes) -> None:
    """STORE THEN OR SYSTEM MASK."""
    cpx.cpu.require_supervisor()
    old = cpx.cpu.mask >> _SYSTEM_MASK_SHIFT
    cpx.cpu.logical_write(address_s(cpx, code), bytes([old]))
    _set_system_mask(cpx, old | code[1])


def _lctl(cpx: CpuComplex, code: bytes, address: int, size: int) -> None:
    cpx.cpu.require_supervisor()
    first, last = code[1] >> 4, code[1] & 0xF
    count = (last - first & 0xF) + 1
    data = cpx.cpu.logical_read(_aligned(address, size), size * count)
    for i in range(count):
        number = first + i & 0xF
        value = int.from_bytes(data[i * size : (i + 1) * size], "big")
        if size == 4:
            value |= cpx.cpu.control(number) & ~0xFFFFFFFF
        cpx.set_control(number, value)
    cpx.look_for_interruptions()


def lctl(cpx: CpuComplex, code: bytes) -> None:
    """LOAD CONTROL, 32 bits."""
    _lctl(cpx, code, address_s(cpx, code), 4)


def lctlg(cpx: CpuComplex, code: bytes) -> None:
    """LOAD CONTROL, 64 bits."""
    _lctl(cpx, code, _rsy(cpx, code), 8)


def _stctl(cpx: CpuComplex, code: bytes, address: int, size: int) -> None:
    cpx.cpu.require_supervisor()
    first, last = code[1] >> 4, code[1] & 0xF
    numbers = [first + i & 0xF for i in range((last - first & 0xF) + 1)]
    mask = (1 << 8 * size) - 1
    data = b"".join((cpx.get_control(number) & mask).to_bytes(size, "big") for number in numbers)
    cpx.cpu.logical_write(_aligned(address, size), data)


def stctl(cpx: CpuComplex, code: bytes) -> None:
    """STORE CONTROL, 32 bits."""
    _stctl(cpx, code, address_s(cpx, code), 4)


def stctg(cpx: CpuComplex, code: bytes) -> None:
    """STORE CONTROL, 64 bits."""
    _stctl(cpx, code, _rsy(cpx, code), 8)


def stidp(cpx: CpuComplex, code: bytes) -> None:
    """STORE CPU ID."""
    cpx.cpu.require_supervisor()
    cpx.cpu.logical_write(_aligned(address_s(cpx, code), 8), cpx.cpu_id.to_bytes(8, "big"))


def sck(cpx: CpuComplex, code: bytes) -> None:
    """SET CLOCK."""
    cpx.cpu.require_supervisor()
    cpx.tod.set(int.from_bytes(cpx.cpu.logical_read(_aligned(address_s(cpx, code), 8), 8), "big"))
    cpx.set_alarm()
    cpx.cpu.set_cc(0)


def stck(cpx: CpuComplex, code: bytes) -> None:
    """STORE CLOCK, and STORE CLOCK FAST."""
    cpx.cpu.logical_write(address_s(cpx, code), cpx.tod.store().to_bytes(8, "big"))
    cpx.cpu.set_cc(0)
    cpx.look_for_interruptions()


def stcke(cpx: CpuComplex, code: bytes) -> None:
    """STORE CLOCK EXTENDED."""
    cpx.cpu.logical_write(address_s(cpx, code), cpx.tod.store_extended())
    cpx.cpu.set_cc(0)
    cpx.look_for_interruptions()


def sckc(cpx: CpuComplex, code: bytes) -> None:
    """SET CLOCK COMPARATOR."""
    cpx.cpu.require_supervisor()
    cpx.set_clock_comparator(int.from_bytes(cpx.cpu.logical_read(_aligned(address_s(cpx, code), 8), 8), "big"))


def spt(cpx: CpuComplex, code: bytes) -> None:
    """SET CPU TIMER."""
    cpx.cpu.require_supervisor()
    cpx.cpu_timer.set(int.from_bytes(cpx.cpu.logical_read(_aligned(address_s(cpx, code), 8), 8), "big"))
    cpx.set_alarm()


def stpt(cpx: CpuComplex, code: bytes) -> None:
    """STORE CPU TIMER."""
    cpx.cpu.require_supervisor()
    cpx.cpu.logical_write(_aligned(address_s(cpx, code), 8), cpx.cpu_timer.store().to_bytes(8, "big"))


def stckc(cpx: CpuComplex, code: bytes) -> None:
    """STORE CLOCK COMPARATOR."""
    cpx.cpu.require_supervisor()
    cpx.cpu.logical_write(_aligned(address_s(cpx, code), 8), cpx.clock_comparator.to_bytes(8, "big"))


def stfl(cpx: CpuComplex, code: bytes) -> None:
    """STORE FACILITY LIST, to real 200."""
    cpx.cpu.require_supervisor()
    cpx.cpu.memory.write(cpx.cpu.prefix + 200, stfl_word(cpx.facilities))


def stfle(cpx: CpuComplex, code: bytes) -> None:
    """STORE FACILITY LIST EXTENDED."""
    address = _aligned(address_s(cpx, code), 8)
    answer = store_facility_list_extended(cpx.facilities, cpx.cpu.registers[0])
    cpx.cpu.logical_write(address, answer.data)
    cpx.cpu.registers[0] = answer.r0
    cpx.cpu.set_cc(answer.condition_code)


def stsi(cpx: CpuComplex, code: bytes) -> None:
    """STORE SYSTEM INFORMATION."""
    cpx.cpu.require_supervisor()
    answer = cpx.stsi(cpx.cpu.registers[0], cpx.cpu.registers[1])
    if answer.block is not None:
        cpx.cpu.logical_write(_aligned(address_s(cpx, code), 4096), answer.block)
    cpx.cpu.registers[0] = answer.r0
    cpx.cpu.set_cc(answer.condition_code)


def chsc(cpx: CpuComplex, code: bytes) -> None:
    """CHANNEL SUBSYSTEM CALL: the block takes a page."""
    cpx.cpu.require_supervisor()
    address = _aligned(cpx.cpu.registers[code[3] >> 4], 4096)
    at = cpx.cpu.absolute(cpx.cpu.real(address, store=True))
    cpx.cpu.set_cc(cpx.css.chsc(at))


def _storable(cpx: CpuComplex, code: bytes, length: int) -> int:
    """Address of an operand that will be stored: an access exception must come before anything has changed."""
    address = _aligned(address_s(cpx, code), 4)
    cpx.cpu.check_store(address, length)
    return address


def _sid(cpx: CpuComplex) -> int:
    cpx.cpu.require_supervisor()
    return cpx.cpu.registers[1] & 0xFFFFFFFF


def ssch(cpx: CpuComplex, code: bytes) -> None:
    """START SUBCHANNEL."""
    sid = _sid(cpx)
    cpx.cpu.set_cc(cpx.css.ssch(sid, cpx.cpu.logical_read(_aligned(address_s(cpx, code), 4), 32)))
    cpx.look_for_interruptions()


def msch(cpx: CpuComplex, code: bytes) -> None:
    """MODIFY SUBCHANNEL."""
    sid = _sid(cpx)
    cpx.cpu.set_cc(cpx.css.msch(sid, cpx.cpu.logical_read(_aligned(address_s(cpx, code), 4), 52)))


def stsch(cpx: CpuComplex, code: bytes) -> None:
    """STORE SUBCHANNEL."""
    sid = _sid(cpx)
    address = _storable(cpx, code, 52)
    cc, schib = cpx.css.stsch(sid)
    if cc == 0:
        cpx.cpu.logical_write(address, schib)
    cpx.cpu.set_cc(cc)


def tsch(cpx: CpuComplex, code: bytes) -> None:
    """TEST SUBCHANNEL."""
    sid = _sid(cpx)
    address = _storable(cpx, code, 64)
    cc, irb = cpx.css.tsch(sid)
    if irb:
        cpx.cpu.logical_write(address, irb)
    cpx.cpu.set_cc(cc)


def tpi(cpx: CpuComplex, code: bytes) -> None:
    """TEST PENDING INTERRUPTION: to the operand, or to lowcore where its address is zero."""
    cpx.cpu.require_supervisor()
    address = _aligned(address_s(cpx, code), 4)
    if address:
        cpx.cpu.check_store(address, 8)
    pending = cpx.css.tpi(cpx.cpu.control(6))
    if pending is not None:
        data = pending.subsystem_id.to_bytes(4, "big") + pending.parm.to_bytes(4, "big")
        if address:
            cpx.cpu.logical_write(address, data)
        else:
            cpx.cpu.memory.write(cpx.cpu.prefix + SUBSYSTEM_ID, data + pending.word.to_bytes(4, "big"))
    cpx.cpu.set_cc(int(pending is not None))


def rchp(cpx: CpuComplex, code: bytes) -> None:
    """RESET CHANNEL PATH."""
    cpx.cpu.require_supervisor()
    cpx.cpu.set_cc(cpx.css.rchp(cpx.cpu.registers[1]))


def sal(cpx: CpuComplex, code: bytes) -> None:
    """SET ADDRESS LIMIT."""
    cpx.cpu.require_supervisor()
    cpx.css.sal(cpx.cpu.registers[1])


def _plain_io(name: str) -> Handler:
    def handler(cpx: CpuComplex, code: bytes) -> None:
        cpx.cpu.set_cc(getattr(cpx.css, name)(_sid(cpx)))
        cpx.look_for_interruptions()

    return handler


def stcrw(cpx: CpuComplex, code: bytes) -> None:
    """STORE CHANNEL REPORT WORD."""
    cpx.cpu.require_supervisor()
    address = _storable(cpx, code, 4)
    cc, crw = cpx.css.stcrw()
    cpx.cpu.logical_write(address, crw.to_bytes(4, "big"))
    cpx.cpu.set_cc(cc)


def schm(cpx: CpuComplex, code: bytes) -> None:
    """SET CHANNEL MONITOR: nothing is measured."""
    cpx.cpu.require_supervisor()
    cpx.css.schm(cpx.cpu.registers[1], cpx.cpu.registers[2])


HANDLERS: Final[dict[int, Handler]] = {
    0x82: lpsw,
    0x83: diagnose,
    0x80: ssm,
    STORE_THEN_OR: stosm,
    0xAE: sigp,
    0xB7: lctl,
    0xB6: stctl,
    0xEB2F: lctlg,
    0xEB25: stctg,
    0xB202: stidp,
    0xB204: sck,
    0xB205: stck,
    0xB206: sckc,
    0xB207: stckc,
    0xB208: spt,
    0xB209: stpt,
    0xB220: servc,
    0xB230: _plain_io("csch"),
    0xB231: _plain_io("hsch"),
    0xB232: msch,
    0xB233: ssch,
    0xB234: stsch,
    0xB235: tsch,
    0xB236: tpi,
    0xB237: sal,
    0xB238: _plain_io("rsch"),
    0xB239: stcrw,
    0xB23B: rchp,
    0xB23C: schm,
    0xB25F: chsc,
    0xB276: _plain_io("xsch"),
    0xB278: stcke,
    0xB27C: stck,
    0xB27D: stsi,
    0xB2B0: stfle,
    0xB2B1: stfl,
    0xB2B2: lpswe,
}
ONE_BYTE: Final = frozenset(op for op in HANDLERS if op < 0x100)
TWO_BYTES: Final = frozenset(op >> 8 for op in HANDLERS if 0xB200 <= op < 0xB300)


def target_of(cpx: CpuComplex, key: int, code: bytes, address: int) -> int:
    """Address of the instruction that EXECUTE or EXECUTE RELATIVE LONG at `address` carries out."""
    if key == EXECUTE:
        index, base, displacement = code[1] & 0xF, code[2] >> 4, (code[2] & 0xF) << 8 | code[3]
        registers = cpx.cpu.registers
        return cpx.cpu.wrap((registers[index] if index else 0) + (registers[base] if base else 0) + displacement)
    return cpx.cpu.wrap(address + 2 * int.from_bytes(code[2:6], "big", signed=True))


def opcode(code: bytes | memoryview) -> int:
    """The key of an instruction in `HANDLERS`; 0 for one that is not there."""
    first = code[0]
    if first in ONE_BYTE or first == EXECUTE:
        return first
    if first == 0xC6 and not code[1] & 0xF:
        return EXECUTE_RELATIVE_LONG
    if first == 0xB2:
        key = 0xB200 | code[1]
    elif first == 0xEB:
        key = 0xEB00 | code[5]
    else:
        return 0
    return key if key in HANDLERS or key == SET_PREFIX else 0
