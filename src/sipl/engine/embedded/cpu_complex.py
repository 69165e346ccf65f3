"""The CPU with what surrounds it: timers, pending interruptions, and the instructions that Unicorn leaves to us.

Everything happens inside Unicorn's hooks, on its thread: an interruption changes the PSW and returns, and Unicorn goes
on there. It is left only when a new site was found, when the guest waits, or when its run is to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from sipl.engine.embedded import interruptions
from sipl.engine.embedded.guest_cpu import PSW_EXTERNAL, PSW_IO, PSW_WAIT, GuestCpu
from sipl.engine.embedded.instructions import (
    EXECUTE,
    EXECUTE_RELATIVE_LONG,
    EXECUTION_PROTECTION,
    HANDLERS,
    INVALID_SYSTEM_MASK,
    LENGTHS,
    LOW_ADDRESS_PROTECTION,
    SET_PREFIX,
    STORE_THEN_OR,
    address_s,
    opcode,
    target_of,
)
from sipl.engine.embedded.unicorn_cpu import CR0, INTERRUPTION_SVC, PC, UnicornError
from sipl.machine.cpu_type import cpu_type
from sipl.machine.diag308 import GuestReset
from sipl.machine.facilities import facility_list
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.stsi import Configuration, store_system_information
from sipl.machine.tod import CpuTimer
from sipl.machine.virtio.ccw import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.css.interruptions import IoInterruptions
    from sipl.machine.css.subsystem import ChannelSubsystem
    from sipl.machine.machine import Machine
    from sipl.machine.stsi import SystemInformation
    from sipl.machine.tod import TodClock

_NEVER: Final = 1 << 64
NO_COMPARATOR: Final = 0xFFFF_FFFF_FFFF_FFFF
_CR0_TRANSLATION: Final = 0x900000  # EDAT and IEP: what a page table means depends on them
_PAGE: Final = 0x1000
_LONGEST: Final = 6  # bytes of an instruction
_EXECUTION_EXCEPTION: Final = 0x84  # of the translation-exception identification: instruction-execution protection
_PREFIX_MASK: Final = 0x7FFFE000
_PREFIX_AREA: Final = 0x2000
# How much is scanned before a start: Unicorn announces every new block but the one that it starts with. A longer first
# block ends with the next instruction that is looked for, which this covers.
_SCAN_AHEAD: Final = 512 * 6
# How many times Linux may enable interruptions before somebody looks around.
_LOOK_AROUND: Final = 16
_DIAG_TIME_SLICE: Final = frozenset({0x44, 0x9C})
_DIAG_VIRTIO: Final = 0x500
_VIRTIO_NOTIFY: Final = 3
_EINVAL: Final = 22
# A program interruption that comes so often at one place, with no other between, is all that the guest does.
_LOOP_LIMIT: Final = 20_000
_SHORT_PSW_MASK: Final = 0xFFFFFFFF80000000
_SHORT_PSW_BIT: Final = 0x0008000000000000
_SIGP_SENSE: Final = 0x01
_SIGP_STOP: Final = 0x05
_SIGP_STOP_AND_STORE: Final = 0x09
_SIGP_SET_ARCHITECTURE: Final = 0x12
_SIGP_INVALID_ORDER: Final = 0x02
_SIGP_INVALID_PARAMETER: Final = 0x100


class ProgramLoop(Exception):
    """The guest does nothing but end in the same program interruption."""

    def __init__(self, code: int, address: int) -> None:
        self.code = code
        self.address = address
        super().__init__(f"program interruption {code:#06x} at {address:#x}, again and again")


class Surroundings(Protocol):
    """What the CPU cannot decide alone."""

    def guest_stops(self) -> None:
        """SIGP stop of the only CPU: the guest has switched itself off."""

    def look_around(self) -> None:
        """Called now and then: input, time limits, a person who wants to end the run."""


class CpuComplex:
    """One CPU, its clocks and what it can reach. `traps` counts emulated instructions by opcode."""

    def __init__(
        self,
        machine: Machine,
        css: ChannelSubsystem,
        io: IoInterruptions,
        tod: TodClock,
        surroundings: Surroundings,
    ) -> None:
        """A CPU after an initial CPU reset, over the machine's memory."""
        self.machine = machine
        self.cpu = GuestCpu(machine.memory)
        self.css = css
        self.tod = tod
        self.facilities = facility_list(machine.model)
        self.cpu_id = cpu_type(machine.model).cpu_id
        self._configuration = Configuration(machine.options.cpus)
        self.clock_comparator = NO_COMPARATOR
        self.cpu_timer = CpuTimer(tod)
        self.traps: dict[int, int] = {}
        self.waiting = False
        self.service_signal = False  # one may be pending
        self._glances = 0
        self._length = 0  # of the instruction that is emulated, or of the EXECUTE that carries it out
        self._go_on = True
        self._last_program = (0, 0)
        self._same_program = 0
        self._io = io
        self._surroundings = surroundings
        self._cr0 = self.cpu.control(0)  # as the guest has loaded it
        self._protection_lifted = False
        self._sites: dict[int, tuple[bytes, int]] = {}
        self._error: BaseException | None = None
        self._alarm = 0  # elapsed units of the clock, when the interruption of a timer is pending
        self.set_alarm()
        unicorn = self.cpu.unicorn
        self._site_callback = unicorn.code_callback(self._at_site)
        self._flush_callback = unicorn.code_callback(lambda _: unicorn.flush_tlb())
        unicorn.on_interruption(self._at_interruption)
        unicorn.on_new_block(self._at_new_block)

    # The run

    def run(self) -> None:
        """Run until the guest waits, or Unicorn was stopped from outside; raises what a hook has raised."""
        unicorn = self.cpu.unicorn
        self._go_on = True
        while self._go_on and not self.waiting:
            self._go_on = False
            self._surroundings.look_around()
            address = unicorn.read(PC)
            if address & 1:
                self._program(ProgramCode.SPECIFICATION, LENGTHS[0], address)
                self._interrupted()
                self._go_on = True
                continue
            if self._scan(address, self._fetch(address, _SCAN_AHEAD)):
                unicorn.forget_code(address, address + _SCAN_AHEAD)
            if not unicorn.run(address):
                self._allow_code(unicorn.read(PC))
                self._go_on = True
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def _allow_code(self, address: int) -> None:
        """Something of a block at `address` lies where nothing was executed before: let it be executed."""
        code = self._fetch(address, 6)
        places = [address, (address | 0xFFF) + 1]
        if code and opcode(code.ljust(6, b"\0")) in (EXECUTE, EXECUTE_RELATIVE_LONG):
            target = target_of(self, opcode(code), code, address)
            places += [target, target + 5]
        unicorn = self.cpu.unicorn
        for place in places:
            absolute = unicorn.translate(self.cpu.wrap(place))
            if absolute is not None and unicorn.allow_code(absolute):
                return
        raise UnicornError("embedded CPU", f"code at {address:#x} cannot be fetched", "this is a bug of sipl")

    def call_at(self, address: int, function: Callable[[int], None]) -> None:
        """Call a function before the instruction at a virtual address; what it raises ends the run."""

        def guarded(at: int) -> None:
            try:
                function(at)
            except BaseException as error:  # noqa: BLE001 (nothing can leave a callback of a C library)
                self.leave(error)

        self.cpu.unicorn.on_code(address, self.cpu.unicorn.code_callback(guarded))

    def leave(self, error: BaseException) -> None:
        """End the run from within a hook: `run` raises `error`."""
        self._error = error
        self.cpu.unicorn.stop()

    # Sites: virtual addresses at which an instruction was seen that Unicorn does not carry out

    def _at_new_block(self, address: int, size: int) -> None:
        try:
            if self._protection_lifted:
                self._protect_data()
            if address & 1 or self._scan(address, self._fetch(address, size)):
                # The block is translated anew, with the hooks in it, before anything of it runs; or not at all.
                self.cpu.unicorn.forget_code(address, address + size)
                self.cpu.unicorn.stop()
                self._go_on = True
        except BaseException as error:  # noqa: BLE001 (nothing can leave a callback of a C library)
            self.leave(error)

    def _fetch(self, address: int, length: int) -> bytes:
        """Instructions at a virtual address, as far as they can be reached."""
        code = b""
        while length > 0:
            step = min(length, _PAGE - (address & 0xFFF))
            at = self.cpu.unicorn.translate(address)
            if at is None or at + step > self.cpu.memory.size:
                break
            self.cpu.code_pages[at // _PAGE] = 1
            code += self.cpu.memory.read(at, step)
            address = self.cpu.wrap(address + step)
            length -= step
        return code

    def _scan(self, address: int, code: bytes) -> bool:
        """Put a hook on every instruction of `code` that needs one; whether there was a new one."""
        found = False
        at = 0
        while at < len(code):
            length = LENGTHS[code[at] >> 6]
            instruction = code[at : at + length]
            site = address + at
            key = opcode(instruction) if len(instruction) == length else 0
            if key and site not in self._sites and self._concerns(key, instruction, site):
                self._sites[site] = instruction, key
                self.cpu.unicorn.on_code(site, self._site_callback)
                if key == SET_PREFIX:
                    self.cpu.unicorn.on_code(site + length, self._flush_callback)
                found = True
            at += length
        return found

    def _concerns(self, key: int, code: bytes, site: int) -> bool:
        """Whether a site needs a hook: EXECUTE RELATIVE LONG only if its target, whose place is fixed, does."""
        if key != EXECUTE_RELATIVE_LONG:
            return True
        target = self._fetch(target_of(self, key, code, site), 6)
        return len(target) >= 2 and bool(opcode(target.ljust(6, b"\0")))

    def _at_site(self, address: int) -> None:
        try:
            code, key = self._sites[address]
            if self._protection_lifted and key not in (EXECUTE, EXECUTE_RELATIVE_LONG):
                # EXECUTE fetches once more: with the protection put back before, it would fault for ever.
                self._protect_data()
            if not self._is_there(address, code):
                # Another address space, or code that was replaced.
                code = self._fetch(address, 6)
                code = code[: LENGTHS[code[0] >> 6]] if code else code
                key = opcode(code) if len(code) >= 2 else 0
            elif key == STORE_THEN_OR and not code[1] & INVALID_SYSTEM_MASK and not self._something_pending():
                # Linux enables interruptions all the time; the CPU does that itself, and there is none to deliver.
                return
            elif key == EXECUTE and self._is_native(target_of(self, key, code, address)):
                # Most are moves of a length that is in a register.
                return
            if key:
                self._emulate(key, code, address)
        except BaseException as error:  # noqa: BLE001 (nothing can leave a callback of a C library)
            self.leave(error)

    def _is_native(self, target: int) -> bool:
        """Whether the CPU carries out what EXECUTE finds at an address; False where that takes a closer look."""
        at = self.cpu.unicorn.translate(target) if target & 0xFFF <= _PAGE - _LONGEST else None
        return at is not None and not opcode(self.cpu.memory.view[at : at + _LONGEST])

    def _is_there(self, address: int, code: bytes) -> bool:
        """Whether an instruction stands at a virtual address."""
        if (address & 0xFFF) + len(code) > _PAGE:
            return self._fetch(address, len(code)) == code
        at = self.cpu.unicorn.translate(address)
        return at is not None and self.cpu.memory.view[at : at + len(code)] == code

    def _emulate(self, key: int, code: bytes, address: int) -> None:
        length = len(code)
        if key in (EXECUTE, EXECUTE_RELATIVE_LONG):
            code = self._target(key, code, address)
            key = opcode(code) if len(code) >= 2 else 0
            if key not in HANDLERS:
                return
        self.traps[key] = self.traps.get(key, 0) + 1
        if key == SET_PREFIX:
            self._note_prefix(code)
            return
        self.cpu.unicorn.write(PC, self.cpu.wrap(address + length))
        self._length = length
        try:
            HANDLERS[key](self, code)
        except ProgramInterruption as interruption:
            failing = getattr(interruption, "address", None)
            if failing is not None:
                interruptions.store_translation_exception(self.cpu, failing)
            interruptions.program(self.cpu, interruption.code, length, address)
            self._interrupted()

    def _target(self, key: int, code: bytes, address: int) -> bytes:
        """The instruction that an EXECUTE carries out: the one at its target, with a register's byte in its second."""
        target = target_of(self, key, code, address)
        found = bytearray(self._fetch(target, 6)) if not target & 1 else bytearray()
        register = code[1] >> 4
        if register and len(found) >= 2:
            found[1] |= self.cpu.registers[register] & 0xFF
        return bytes(found[: LENGTHS[found[0] >> 6]]) if found else b""

    def _note_prefix(self, code: bytes) -> None:
        """SET PREFIX: the CPU does it itself; here it is noted, as far as it will succeed."""
        address = address_s(self, code)
        if self.cpu.problem_state or address % 4:
            return
        try:
            prefix = int.from_bytes(self.cpu.logical_read(address, 4), "big") & _PREFIX_MASK
            self.cpu.memory.check(prefix, _PREFIX_AREA)
        except ProgramInterruption:
            return
        self.cpu.prefix = prefix

    # Interruptions

    def _at_interruption(self, number: int) -> None:
        try:
            context = self.cpu.unicorn.context()
            offsets = self.cpu.unicorn.offsets
            address = self.cpu.unicorn.read(PC)
            if number == INTERRUPTION_SVC:
                code, length = offsets.svc(context)
                interruptions.supervisor_call(self.cpu, code, length, address)
            else:
                code, length = offsets.program(context)
                if code == ProgramCode.PROTECTION and self._lift_protection():
                    return
                self._program(code, length, address)
            self._interrupted()
        except BaseException as error:  # noqa: BLE001 (nothing can leave a callback of a C library)
            self.leave(error)

    # Instruction-execution protection is always on below the guest: Unicorn makes stores fast only on pages that cannot
    # hold code, and Linux says which can't long before it wants to be told. Where the guest has not switched it on, a
    # fault of it is none of the guest's: it is lifted until the block that was to be fetched is translated.

    def _lift_protection(self) -> bool:
        """Whether it was instruction-execution protection, without the guest having asked for it: lift it then."""
        if self._cr0 & EXECUTION_PROTECTION:
            return False
        identification = self.cpu.memory.span(self.cpu.prefix + interruptions.TRANSLATION_EXCEPTION, 8)
        if identification[7] & _EXECUTION_EXCEPTION != _EXECUTION_EXCEPTION:
            return False
        self.cpu.unicorn.write(CR0, self.cpu.control(0) & ~EXECUTION_PROTECTION)
        self._protection_lifted = True
        return True

    def _protect_data(self) -> None:
        self._protection_lifted = False
        self.cpu.unicorn.write(CR0, self.cpu.control(0) | EXECUTION_PROTECTION)

    def _program(self, code: int, length: int, address: int) -> None:
        if length not in LENGTHS:
            instruction = self._fetch(address, 2)
            length = LENGTHS[instruction[0] >> 6] if instruction else LENGTHS[0]
        if (code, address) != self._last_program:
            self._last_program = code, address
            self._same_program = 0
        self._same_program += 1
        if self._same_program > _LOOP_LIMIT:
            raise ProgramLoop(code, address)
        interruptions.program(self.cpu, code, length, address)

    def _interrupted(self) -> None:
        """An interruption has loaded a new PSW, which may not be valid, and with which the CPU may wait."""
        self._accept_psw()
        if self.cpu.mask & PSW_WAIT:
            self.waiting = True
            self.cpu.unicorn.stop()
        elif self.cpu.address & 1:
            self._go_on = True
            self.cpu.unicorn.stop()

    def _accept_psw(self, length: int = 0) -> bool:
        """Whether the current PSW is valid; for one that is not, a specification exception is delivered.

        `length` is that of the instruction where it has set a part of the PSW only.

        Raises:
            ProgramLoop: the new PSW of that is not valid either.
        """
        if interruptions.is_valid_psw(self.cpu.mask, self.cpu.address):
            return True
        at = self.cpu.wrap(self.cpu.address - length) if length else self.cpu.address
        interruptions.program(self.cpu, ProgramCode.SPECIFICATION, length, at)
        if not interruptions.is_valid_psw(self.cpu.mask, self.cpu.address):
            raise ProgramLoop(ProgramCode.SPECIFICATION, self.cpu.address)
        return False

    def mask_changed(self) -> None:
        """The system mask was set: it may not be valid, and interruptions may be enabled now."""
        if self._accept_psw(self._length):
            self.look_for_interruptions()
        else:
            self._interrupted()

    def _something_pending(self) -> bool:
        """Whether an interruption may be pending, enabled or not."""
        self._glances += 1
        if self._io.pending or self.service_signal:
            return True
        if not self._glances % _LOOK_AROUND:
            self._surroundings.look_around()
        return self.tod.elapsed() >= self._alarm

    def set_clock_comparator(self, value: int) -> None:
        """SET CLOCK COMPARATOR."""
        self.clock_comparator = value
        self.set_alarm()

    def set_alarm(self) -> None:
        """Clock, timers or their masks were set: find out when the next of their interruptions is pending."""
        units = self.units_until_external()
        self._alarm = self.tod.elapsed() + (_NEVER if units is None else units)

    def units_until_external(self) -> int | None:
        """Units of the clock until a timer that is enabled by control register 0 interrupts; None if none ever will."""
        found = []
        if self._cr0 & interruptions.CR0_CPU_TIMER:
            found.append(self.cpu_timer.units_until_pending())
        if self._cr0 & interruptions.CR0_CLOCK_COMPARATOR:
            until = self.tod.units_until(self.clock_comparator)
            if until is not None:
                found.append(until)
        return min(found, default=None)

    def look_for_interruptions(self) -> bool:
        """Deliver what is pending and enabled: external first, then I/O; whether there was something."""
        self._surroundings.look_around()
        if self.css.work_left:
            self.css.continue_work()
        mask = self.cpu.mask
        if mask & PSW_EXTERNAL and self._external():
            self._interrupted()
            return True
        if mask & PSW_IO and self._io.any:
            pending = self._io.first(self.cpu.control(6))
            if pending is not None:
                self._io.take(pending)
                interruptions.input_output(self.cpu, pending.subsystem_id, pending.parm, pending.word)
                self._interrupted()
                return True
        return False

    def _external(self) -> bool:
        enabled = self._cr0
        if enabled & interruptions.CR0_CLOCK_COMPARATOR and self.tod.comparator_pending(self.clock_comparator):
            interruptions.external(self.cpu, interruptions.CLOCK_COMPARATOR)
            return True
        if enabled & interruptions.CR0_CPU_TIMER and self.cpu_timer.pending:
            interruptions.external(self.cpu, interruptions.CPU_TIMER)
            return True
        if self.service_signal and enabled & interruptions.CR0_SERVICE_SIGNAL and self.machine.events is not None:
            self.service_signal = False
            parameter = self.machine.events.take_service_signal()
            if parameter is not None:
                interruptions.external(self.cpu, interruptions.SERVICE_SIGNAL, parameter)
                return True
        return False

    def psw_loaded(self) -> None:
        """A PSW was loaded: it may not be valid, interruptions may be enabled now, and the CPU may wait."""
        if not self._accept_psw():
            self._interrupted()
            return
        if interruptions.may_interrupt(self.cpu.mask):
            self.look_for_interruptions()
        if self.cpu.mask & PSW_WAIT:
            self.waiting = True
            self.cpu.unicorn.stop()

    # What instructions change

    def set_control(self, number: int, value: int) -> None:
        """Load a control register.

        Low-address protection is kept back, which Unicorn applies to unaligned stores that are far from low.
        """
        old = self.get_control(number)
        if old == value:
            return
        changed = old ^ value
        if number == 0:
            self._cr0 = value
            value = value & ~LOW_ADDRESS_PROTECTION | EXECUTION_PROTECTION
        self.cpu.unicorn.write(CR0 + number, value)
        if number == 0:
            self.set_alarm()
        if number in (1, 7, 13) or (number == 0 and changed & _CR0_TRANSLATION):
            self.cpu.unicorn.flush_tlb()

    def get_control(self, number: int) -> int:
        """A control register as the guest has loaded it."""
        return self._cr0 if number == 0 else self.cpu.control(number)

    def stsi(self, r0: int, r1: int) -> SystemInformation:
        """STORE SYSTEM INFORMATION by two registers."""
        return store_system_information(self.machine.model, self._configuration, r0, r1)

    def service_call(self, command: int, address: int) -> int:
        """SERVC; the condition code."""
        self.machine.execute_service_call(self.cpu, command, address)
        return 0

    def diagnose(self, function: int, r1: int, r3: int) -> None:
        """DIAGNOSE by its function code."""
        if function in _DIAG_TIME_SLICE:
            return
        if function == _DIAG_VIRTIO:
            self._notify_device()
            return
        try:
            self.machine.execute_diagnose(self.cpu, function, r1, r3)
        except GuestReset as reset:
            # A reset begins with a new CPU.
            self.leave(reset)

    def _notify_device(self) -> None:
        registers = self.cpu.registers
        if registers[1] != _VIRTIO_NOTIFY:
            registers[2] = -_EINVAL
            return
        registers[2] = notify(self.css, registers[2] & 0xFFFFFFFF, registers[3], registers[4])
        self.look_for_interruptions()

    def load_short_psw(self, psw: int) -> None:
        """Make a short PSW current."""
        mask = (psw & _SHORT_PSW_MASK) ^ _SHORT_PSW_BIT
        interruptions.load_psw(self.cpu, mask, psw & 0x7FFFFFFF)
        self.psw_loaded()

    def sigp(self, order: int, r1: int, r3: int) -> None:
        """SIGNAL PROCESSOR: this CPU is the only one."""
        registers = self.cpu.registers
        if order == _SIGP_SET_ARCHITECTURE:
            # The CPU is in z/Architecture mode, and stays there.
            self._sigp_status(r1, _SIGP_INVALID_PARAMETER)
        elif registers[r3] & 0xFFFF:
            self.cpu.set_cc(3)
        elif order == _SIGP_SENSE:
            self.cpu.set_cc(0)
        elif order in (_SIGP_STOP, _SIGP_STOP_AND_STORE):
            self.cpu.set_cc(0)
            self._surroundings.guest_stops()
        else:
            self._sigp_status(r1, _SIGP_INVALID_ORDER)

    def _sigp_status(self, r1: int, status: int) -> None:
        registers = self.cpu.registers
        registers[r1] = registers[r1] & ~0xFFFFFFFF | status
        self.cpu.set_cc(1)
