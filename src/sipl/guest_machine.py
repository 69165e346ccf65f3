"""A guest machine from Python: boot disks, talk to the console, look at registers and memory, stop at addresses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.errors import UsageError
from sipl.ipl import boot
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from sipl.engine.base import GuestEnd
    from sipl.engine.embedded.guest_cpu import GuestCpu
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine as Hardware
    from sipl.report.model import Report


class Machine:
    """A machine with disks in boot order, run by the embedded engine.

        with sipl.Machine("disk.qcow2", settings=settings, until="login:") as machine:
            report = machine.boot()
            print(machine.end, machine.output)

    Registers and memory can be looked at in callbacks, and after `boot` until the machine is closed. `console` gets
    what the guest writes, as it writes it; `timeout` (seconds) and `until` (a text on the console) end a run.
    """

    def __init__(
        self,
        *disks: Disk | str,
        settings: Settings | None = None,
        console: Callable[[bytes], object] | None = None,
        timeout: float | None = None,
        until: str | None = None,
    ) -> None:
        self.disks = tuple(Disk(disk) if isinstance(disk, str) else disk for disk in disks)
        self.settings = settings or Settings()
        self.end: GuestEnd | None = None
        self.ipls = 0
        self._console = console
        self._limits = (timeout, until)
        self._breakpoints: dict[int, Callable[[Machine], object]] = {}
        self._output = bytearray()
        self._input = bytearray()
        self._hardware: Hardware | None = None
        self._engine: EmbeddedEngine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give CPU and guest memory back."""
        if self._engine is not None:
            self._engine.close()
        if self._hardware is not None:
            self._hardware.close()
            self._hardware = None

    def boot(self) -> Report:
        """IPL, and run the guest until its run ends; returns the report of the last IPL.

        Raises:
            UsageError: the settings are not possible.
        """
        self.close()
        timeout, until = self._limits
        engine = EmbeddedEngine(_Console(self), timeout, until)
        for address, function in self._breakpoints.items():
            engine.break_at(address, lambda function=function: function(self))  # type: ignore[misc] # bound now
        self._engine = engine
        return boot(self.disks, self.settings, _Keeper(self, engine))

    def breakpoint(self, address: int, function: Callable[[Machine], object]) -> None:
        """Call a function before the instruction at a virtual address is carried out; True ends the run there."""
        self._breakpoints[address] = function

    def type(self, text: str | bytes) -> None:
        """Type on the guest's console; what is typed before the guest listens waits for it."""
        self._input += text.encode() if isinstance(text, str) else text

    @property
    def output(self) -> str:
        """What the guest has written so far; bytes that are no UTF-8 are replaced."""
        return self._output.decode("utf-8", "replace")

    @property
    def registers(self) -> Sequence[int]:
        """The 16 general registers."""
        cpu = self._cpu()
        return [cpu.registers[number] for number in range(16)]

    def set_register(self, number: int, value: int) -> None:
        """Set a general register."""
        self._cpu().registers[number] = value

    @property
    def psw(self) -> tuple[int, int]:
        """The PSW: mask (the condition code in it) and instruction address."""
        cpu = self._cpu()
        return cpu.mask, cpu.address

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of absolute storage.

        Raises:
            UsageError: they are not there.
        """
        self._check(address, length)
        return self._running().memory.read(address, length)

    def write_memory(self, address: int, data: bytes) -> None:
        """Store into absolute storage.

        Raises:
            UsageError: the place is not there.
        """
        self._check(address, len(data))
        self._running().memory.write(address, data)
        self._cpu().written(address, len(data))

    def _check(self, address: int, length: int) -> None:
        size = self._running().memory.size
        if address < 0 or length < 0 or address + length > size:
            raise UsageError("guest memory", f"{length} bytes at {address:#x} are not there", f"it ends at {size:#x}")

    def _running(self) -> Hardware:
        if self._hardware is None:
            raise UsageError("machine", "it has not been booted", "call boot() first")
        return self._hardware

    def _cpu(self) -> GuestCpu:
        if self._engine is None or self._engine.complex is None:
            raise UsageError("machine", "it has not been booted", "call boot() first")
        return self._engine.complex.cpu

    def take(self, hardware: Hardware) -> None:
        """Called when a guest starts: hold on to its memory."""
        self.ipls += 1
        if self._hardware is None:
            hardware.memory.retain()
            self._hardware = hardware

    def show(self, data: bytes) -> None:
        """Called with what the guest writes."""
        self._output += data
        if self._console is not None:
            self._console(data)

    def typed(self, room: int) -> bytes:
        """Called for what was typed, at most `room` bytes."""
        data = bytes(self._input[:room])
        del self._input[:room]
        return data


class _Keeper:
    """The engine of a `Machine`: keeps the machine and the end of the run for it."""

    def __init__(self, owner: Machine, engine: EmbeddedEngine) -> None:
        self._owner = owner
        self._engine = engine

    def run(self, machine: Hardware, state: HandOver) -> GuestEnd:
        """Run the guest."""
        self._owner.take(machine)
        self._owner.end = self._engine.run(machine, state)
        return self._owner.end


class _Console:
    """The console of a `Machine`."""

    def __init__(self, owner: Machine) -> None:
        self._owner = owner

    def write(self, data: bytes) -> None:
        """The guest writes."""
        self._owner.show(data)

    def read(self, timeout: float, room: int) -> bytes:
        """What was typed."""
        data = self._owner.typed(room)
        if not data and timeout:
            time.sleep(timeout)
        return data
