"""Runs guest programs: signed, on a disk, booted in secure mode, on the embedded engine; and looks at what is left."""

from __future__ import annotations

from typing import NamedTuple

import ipl_lab
from guest_asm import ORIGIN, PROGRAM_CHECK, PROGRAM_CODE, PROGRAM_LENGTH, PROGRAM_OLD
from ipl_lab import GLOBAL, MIB, PSW, Execute, Load

from sipl import ipl
from sipl.author import sclab
from sipl.disk.overlay import WritableDisk
from sipl.engine.base import EndKind, GuestEnd
from sipl.engine.embedded.engine import EmbeddedEngine

MEMORY = 16 * MIB
SPARE = 0x100000  # where programs put what they find; nothing is loaded there
SIGNATURE = 0x180000  # of the payload, where a program wants one
KEPT = 8  # runs of one boot whose memory is kept
TIMEOUT = 20.0  # s; a program ends in milliseconds, unless it is to be ended


class Console:
    """Keeps what the guest writes; `typed` is given to the guest, once."""

    def __init__(self, typed: bytes = b"") -> None:
        self.written = b""
        self.typed = typed

    def write(self, data: bytes) -> None:
        self.written += data

    def read(self, timeout: float, room: int) -> bytes:
        typed, self.typed = self.typed[:room], self.typed[room:]
        return typed


class Left(NamedTuple):
    """What a run left behind."""

    end: GuestEnd
    registers: list[int]
    control: list[int]
    memory: bytes
    prefix: int
    psw: tuple[int, int]
    traps: dict[int, int]

    def number(self, address: int, length: int = 8) -> int:
        return int.from_bytes(self.memory[address : address + length], "big")

    def bytes(self, address: int, length: int) -> bytes:
        return self.memory[address : address + length]

    @property
    def stopped_at(self) -> int:
        """Address of the disabled wait."""
        return self.psw[1]

    @property
    def program_code(self) -> int:
        return self.number(self.prefix + PROGRAM_CODE, 2)

    @property
    def program_length(self) -> int:
        return self.number(self.prefix + PROGRAM_LENGTH, 1)

    @property
    def program_old(self) -> int:
        """Address of the program old PSW."""
        return self.number(self.prefix + PROGRAM_OLD + 8)

    def interrupted(self, code: int) -> bool:
        """Whether the program ended in this program interruption."""
        return (self.stopped_at, self.program_code) == (PROGRAM_CHECK, code)


class LookingEngine(EmbeddedEngine):
    """The embedded engine; `runs` are what each run left."""

    def __init__(self, between=None, **settings) -> None:
        super().__init__(**settings)
        self.runs: list[Left] = []
        self._between = between

    def run(self, machine, state):
        end = super().run(machine, state)
        assert self.complex is not None
        cpu = self.complex.cpu
        self.runs.append(
            Left(
                end,
                [cpu.registers[number] for number in range(16)],
                [self.complex.get_control(number) for number in range(16)],
                bytes(machine.memory.view) if machine.memory.size == MEMORY and len(self.runs) < KEPT else b"",
                cpu.prefix,
                (cpu.mask, cpu.address),
                dict(self.complex.traps),
            )
        )
        if self._between is not None:
            self._between(machine, len(self.runs))
        return end


class GuestLab(ipl_lab.Lab):
    """Makes disks of programs and runs them."""

    def components(self, code: bytes, by: str = "A", extra=()) -> list:
        """A program as the signed loader, and what else is to be loaded."""
        data = sclab.append(code, sclab.build(GLOBAL, PSW, ORIGIN), 512)
        return [self.signed(ORIGIN, data, by), *extra, Execute(PSW)]

    def run(
        self,
        asm,
        *,
        certs=("A",),
        mode: str = "secure",
        memory: int = MEMORY,
        timeout: float = TIMEOUT,
        console: Console | None = None,
        until: str | None = None,
        between=None,
        extra=(),
        size: int | None = None,
        **settings,
    ) -> Left:
        """Boot a program and let it run to its end; the disk is extended to `size` bytes."""
        disk = self.disk(self.components(bytes(asm.code), extra=extra), size=size)
        return self.boot_disk(
            disk,
            certs=certs,
            mode=mode,
            memory=memory,
            timeout=timeout,
            console=console,
            until=until,
            between=between,
            **settings,
        )[0][-1]

    def boot_disk(self, disk, *, certs=("A",), mode="secure", memory=MEMORY, between=None, timeout=TIMEOUT, **others):
        """Runs and report of a boot."""
        console, until = others.pop("console", None), others.pop("until", None)
        engine = LookingEngine(between, console=console or Console(), timeout=timeout, until=until)
        report = ipl.boot([disk], self.settings(mode, certs=certs, memory=memory, **others), engine)
        engine.close()
        assert engine.runs, (report.outcome, report.reason, report.findings)
        return engine.runs, report


__all__ = ["MEMORY", "SIGNATURE", "SPARE", "Console", "EndKind", "GuestLab", "Left", "Load", "WritableDisk"]
