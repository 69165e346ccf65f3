"""The embedded engine: CPU, channel subsystem, console and clock of one guest, from hand-over to the end of its run."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from sipl.disk.overlay import WritableDisk
from sipl.engine.base import EndKind, GuestEnd
from sipl.engine.console import TYPED_LIMIT, Awaited, ConsoleEnds, Silent
from sipl.engine.embedded.cpu_complex import CpuComplex, ProgramLoop
from sipl.engine.embedded.guest_cpu import PSW_EXTERNAL, PSW_IO
from sipl.engine.embedded.interruptions import CR0_SERVICE_SIGNAL
from sipl.engine.embedded.unicorn_cpu import A0, F0, R0
from sipl.engine.embedded.watch import Watch
from sipl.engine.waits import Stopped, explain
from sipl.layout.diag308 import Subcode
from sipl.layout.lowcore import PSW_ADDRESS_MASK
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.css.interruptions import IoInterruptions
from sipl.machine.css.subsystem import ChannelSubsystem
from sipl.machine.diag308 import GuestReset
from sipl.machine.sclp_events import EventFacility
from sipl.machine.tod import UNITS_PER_MICROSECOND, UNITS_PER_SECOND, TodClock, tod_from_unix
from sipl.machine.virtio.block import VirtioBlock
from sipl.machine.virtio.ccw import VirtioCcw
from sipl.machine.virtio.entropy import VirtioEntropy
from sipl.machine.virtio.scsi import VirtioScsi

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.engine.console import GuestConsole
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine

# The guest's clock runs slower than the host's, and jumps where the guest only waits: a tick costs the same work
# however fast the CPU is, and this one is slow.
TOD_SCALE: Final = 0.25
ENTROPY_DEVNO: Final = 0xFFFE
# Looking at the host's clock, and at the person, costs a system call: once in this many interruption points.
_LOOK_EVERY: Final = 256
# How long a waiting guest may sleep before the person is looked for again, in seconds.
_LONGEST_SLEEP: Final = 0.2

# Control registers that an initial CPU reset does not leave at zero.
_INITIAL_CONTROL: Final = {0: 0xE0, 14: 0xC2000000}
# General, access and floating-point registers: an initial CPU reset leaves them as they are.
_KEPT: Final = tuple(first + number for first in (R0, A0, F0) for number in range(16))


class _End(Exception):
    def __init__(self, kind: EndKind, message: str) -> None:
        self.end = GuestEnd(kind, message)
        super().__init__(message)


class EmbeddedEngine:
    """Runs guests on Unicorn's CPU, in this process.

    `console` is what the guest writes to and reads from; `timeout` ends a run after so many seconds, `until` as soon as
    the console has shown this text.
    """

    def __init__(
        self, console: GuestConsole | None = None, timeout: float | None = None, until: str | None = None
    ) -> None:
        self.console = console or Silent()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._until = Awaited(until)
        self._looks = self._looks_seen = 0
        self._console_lock = threading.Lock()
        self._typed = bytearray()
        self._ended: str | None = None
        self._events = EventFacility(self._write)
        self._started = 0  # host's monotonic clock, nanoseconds, when the guest's clock was started
        self._firmware_base: int | None = None
        self._breakpoints: dict[int, Callable[[], object]] = {}
        self.complex: CpuComplex | None = None

    def break_at(self, address: int, function: Callable[[], object]) -> None:
        """Call a function before the instruction at a virtual address; a true result ends the run there.

        Breakpoints set while the guest runs hold from its next IPL or reset on.
        """
        self._breakpoints[address] = function

    def close(self) -> None:
        """Give the CPU back; until then its registers can be looked at, after the run, too."""
        if self.complex is not None:
            self.complex.cpu.unicorn.close()
            self.complex = None

    def _at_breakpoint(self, address: int) -> None:
        if self._breakpoints[address]():
            raise _End(EndKind.BREAKPOINT, f"the guest came to {address:#x}")

    # Surroundings of the CPU

    def guest_stops(self) -> None:
        """SIGP stop of the only CPU."""
        raise _End(EndKind.DONE, "the guest has stopped its only CPU")

    def look_around(self) -> None:
        """Now and then: the person, and the clock on the wall."""
        self._looks += 1
        if self._looks % _LOOK_EVERY == 0:
            self._look(0)

    def _left(self) -> float | None:
        """Seconds that are left of the guest's time."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _look(self, wait: float) -> None:
        left = self._left()
        if left is not None:
            if left <= 0:
                at = f", and was about {self.complex.cpu.address:#x}" if self.complex is not None else ""
                raise _End(EndKind.TIMEOUT, f"the guest ran for {self._timeout:g} s, which is what it was given{at}")
            wait = min(wait, left)
        self._read_console(wait)
        if self._ended is not None:
            raise _End(EndKind.ENDED, self._ended)
        if self._typed:
            del self._typed[: self._events.feed(bytes(self._typed))]

    def _read_console(self, wait: float) -> None:
        with self._console_lock:
            try:
                self._typed += self.console.read(wait, TYPED_LIMIT - len(self._typed))
            except ConsoleEnds as end:
                self._ended = str(end)

    def _silent_and_ends(self) -> bool:
        """For the watch: look at the console in the guest's place, if the guest has not come by for a while."""
        silent, self._looks_seen = self._looks == self._looks_seen, self._looks
        if silent:
            self._read_console(0)
        return self._ended is not None

    def _write(self, data: bytes) -> None:
        self.console.write(data)
        if self._until.seen(data):
            raise _End(EndKind.SEEN, self._until.sentence())

    # The run

    def run(self, machine: Machine, state: HandOver) -> GuestEnd:
        """Run the guest from the PSW of the hand-over."""
        disks: list[VirtioBlock | VirtioScsi] = []
        interruptions = IoInterruptions()
        css = ChannelSubsystem(machine.memory, interruptions, self._stored)
        for device in machine.devices:
            if isinstance(device.disk, WritableDisk):
                scsi = device.kind is DeviceKind.VIRTIO_SCSI
                disks.append(VirtioScsi(device.disk, f"sipl{device.devno:04x}") if scsi else VirtioBlock(device.disk))
                css.attach(VirtioCcw(disks[-1]), device.devno, device.ssid)
        css.attach(VirtioCcw(VirtioEntropy()), ENTROPY_DEVNO)
        end = self._run_guest(machine, css, interruptions, state)
        faults = [str(disk.host_error) for disk in disks if disk.host_error is not None]
        return end._replace(
            host_faults=tuple(f"the guest saw I/O errors that are the host's: {fault}" for fault in faults)
        )

    def _run_guest(
        self, machine: Machine, css: ChannelSubsystem, interruptions: IoInterruptions, state: HandOver
    ) -> GuestEnd:
        """Run it through all its resets, until it ends or asks for an IPL."""
        begins_above = state.psw & PSW_ADDRESS_MASK >= machine.firmware_base
        self._firmware_base = machine.firmware_base if begins_above else None
        self._started = time.monotonic_ns()
        tod = TodClock(time.monotonic_ns, tod_from_unix(time.time_ns()), TOD_SCALE)
        self._events = EventFacility(self._write, on_service_signal=self._signal)
        machine.events = self._events
        machine.memory.on_write = self._stored
        psw = state.psw
        kept: dict[int, int] = {}
        try:
            while True:
                self.complex = self._new_cpu(machine, css, interruptions, tod, kept)
                try:
                    self._run_cpu(self.complex, psw)
                except GuestReset as reset:
                    if reset.subcode not in (Subcode.RESET_MODIFIED_CLEAR, Subcode.RESET_LOAD_NORMAL):
                        return GuestEnd(EndKind.REIPL, "the guest asked for an IPL")
                    keep = _KEPT if reset.subcode is Subcode.RESET_LOAD_NORMAL else ()
                    kept = {register: self.complex.cpu.unicorn.read(register) for register in keep}
                css.reset()
                interruptions.clear()
                self._events.reset()
                psw = int.from_bytes(machine.memory.read(0, 8), "big")
        except _End as end:
            return end.end
        except ProgramLoop as loop:
            return GuestEnd(EndKind.CRASHED, f"the guest only ends in a {loop}")
        finally:
            machine.events = None
            machine.memory.on_write = None

    def _signal(self) -> None:
        if self.complex is not None:
            self.complex.service_signal = True

    def _stored(self, address: int, length: int) -> None:
        if self.complex is not None:
            self.complex.cpu.written(address, length)

    def _new_cpu(
        self,
        machine: Machine,
        css: ChannelSubsystem,
        interruptions: IoInterruptions,
        tod: TodClock,
        kept: dict[int, int],
    ) -> CpuComplex:
        """A CPU after an initial CPU reset, with the registers that it keeps; the one before it is given back."""
        self.close()
        cpu = CpuComplex(machine, css, interruptions, tod, self)
        for number, value in _INITIAL_CONTROL.items():
            cpu.set_control(number, value)
        for register, value in kept.items():
            cpu.cpu.unicorn.write(register, value)
        for address in self._breakpoints:
            cpu.call_at(address, self._at_breakpoint)
        return cpu

    def _run_cpu(self, cpu: CpuComplex, psw: int) -> None:
        cpu.load_short_psw(psw)
        with Watch(cpu.cpu.unicorn.stop, self._left, self._silent_and_ends) as watch:
            while True:
                if cpu.waiting:
                    cpu.waiting = False
                    self._wait(cpu)
                cpu.run()
                self._look(0)
                if watch.stopped:
                    raise _End(EndKind.ENDED, "a signal ended the run")

    def _wait_for_clock(self, cpu: CpuComplex, units: int) -> None:
        """Jump to where a timer interrupts, as long as the guest's time does not overtake the host's; else sleep.

        A guest that computes falls behind, because its clock is slow, and catches up where it waits. One that is idle
        has caught up, and must not keep the host busy with its timer ticks.
        """
        host = (time.monotonic_ns() - self._started) * UNITS_PER_MICROSECOND // 1000
        ahead = cpu.tod.elapsed() + units - host
        if ahead <= 0:
            cpu.tod.skip(units)
        else:
            self._look(min(ahead / UNITS_PER_SECOND, _LONGEST_SLEEP))

    def _wait(self, cpu: CpuComplex) -> None:
        """The CPU waits: until an interruption comes; to that of a timer can be jumped."""
        mask = cpu.cpu.mask
        if not mask & (PSW_EXTERNAL | PSW_IO):
            memory = cpu.machine.memory
            end = explain(Stopped(mask, cpu.cpu.address, cpu.cpu.registers[14], self._firmware_base, memory))
            raise _End(end.kind, end.message)
        self._look(0)
        while not cpu.look_for_interruptions():
            units = cpu.units_until_external() if mask & PSW_EXTERNAL else None
            if cpu.css.work_left:
                cpu.css.continue_work()
            elif units is not None:
                self._wait_for_clock(cpu, units)
            elif mask & PSW_EXTERNAL and cpu.get_control(0) & CR0_SERVICE_SIGNAL:
                self._look(_LONGEST_SLEEP)
            else:
                raise _End(EndKind.CRASHED, "the guest waits for an interruption that will never come")
