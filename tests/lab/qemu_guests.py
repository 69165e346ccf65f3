"""Runs guest programs on the QEMU engine: signed, on disks, booted; looks at what is left, and attacks in between."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine" / "embedded"))

import console_guests
import ipl_lab
from guest_asm import ORIGIN, PROGRAM_NEW, SUPERVISOR, Asm, program
from guest_lab import GuestLab
from guest_ring import NEXT, WRITE, Ring
from ipl_lab import KERNEL, MIB, Load, kernel_bytes

from sipl import ipl
from sipl.engine.qemu.engine import QemuEngine
from sipl.engine.qemu.own_setup import OwnSetup
from sipl.engine.qemu.qmp import Qmp
from sipl.engine.qemu.relay.relays import Relays

if TYPE_CHECKING:
    from sipl.engine.base import GuestEnd
    from sipl.report.model import Report

MEMORY = 64 * MIB
LOOKED_AT = 16 * MIB  # of a guest's memory, kept when its run has ended
SPARE = 0x100000  # where programs put what they find; nothing is loaded there
BLOCK = 0x110000
GO_ON = 0x120000  # a guest that waits for somebody looks at this doubleword
PAGES = 0x130000  # a component of two pages, where a program brings what it writes elsewhere
TIMEOUT = 60.0  # s; a busy host is slow, and no test waits for it unless it is about to fail
# Where versions of QEMU put their firmware, counted from the end of memory.
PLACES = (2 * MIB, 3 * MIB)
SET, STORE, LOAD_CLEAR, LOAD_NORMAL = 5, 6, 3, 4
CCW_TYPE, FCP_TYPE = 2, 0
UNWRITTEN = 0xEE


def find_qemu() -> str:
    """The QEMU to test with: `SIPL_QEMU`, else the installed one; without any the test is skipped."""
    named = os.environ.get("SIPL_QEMU")
    found = shutil.which(named or "qemu-system-s390x")
    if found is None:
        pytest.skip("qemu-system-s390x is not installed (apt-get install qemu-system-misc)")
    return found


class Console:
    """Keeps what the guest writes. `actions` are done once, each when the guest has written its text."""

    def __init__(self, **actions) -> None:
        self.written = b""
        self.typed = b""
        self.actions = {name.encode(): action for name, action in actions.items()}

    def write(self, data: bytes) -> None:
        self.written += data
        for text in [text for text in self.actions if text in self.written]:
            self.actions.pop(text)()

    def read(self, timeout: float, room: int) -> bytes:
        typed, self.typed = self.typed[:room], self.typed[room:]
        return typed

    def descriptor(self) -> int | None:
        return None


class Setup(OwnSetup):
    """The machine of `sipl boot`, and a monitor that is not sipl's.

    `more` are further arguments; with `boot_order` QEMU has one, too: the disks as sipl has them.
    """

    def __init__(self, disks, settings, *, more=(), has_secure=False, boot_order=False) -> None:
        super().__init__(disks, settings, has_secure=has_secure)
        self.monitors: list[Qmp] = []
        self._theirs: list[socket.socket] = []
        self._more = tuple(more)
        self._boot_order = boot_order

    def arguments(self) -> list[str]:
        ours, theirs = socket.socketpair()
        self._theirs.append(theirs)
        self.monitors.append(Qmp(ours))
        chardev = f"socket,id=other,fd={theirs.fileno()}"
        words = super().arguments()
        if self._boot_order:
            disks = [number for number, word in enumerate(words) if '"drive": ' in word]
            for index, number in enumerate(disks):
                words[number] = words[number].replace('"drive": ', f'"bootindex": {index + 1}, "drive": ')
        return [*words, "-chardev", chardev, "-mon", "chardev=other,mode=control", *self._more]

    def descriptors(self) -> list[int]:
        return [*super().descriptors(), *(theirs.fileno() for theirs in self._theirs)]

    def started(self) -> None:
        super().started()
        while self._theirs:
            self._theirs.pop().close()

    def monitor(self) -> Qmp:
        """The other monitor of the newest QEMU, ready for commands."""
        found = self.monitors[-1]
        if not getattr(found, "greeted", False):
            found.greet()
            found.greeted = True  # type: ignore[attr-defined]
        return found

    def close(self) -> None:
        super().close()
        for monitor in self.monitors:
            monitor.close()


class Left(NamedTuple):
    """What a run left behind."""

    end: GuestEnd
    memory: bytes

    def number(self, address: int, length: int = 8) -> int:
        return int.from_bytes(self.memory[address : address + length], "big")

    def bytes(self, address: int, length: int) -> bytes:
        return self.memory[address : address + length]


class Engine(QemuEngine):
    """The QEMU engine; `runs` are what each run left.

    `between` is called after each run, with the engine and the run's number, `placed` with the engine before each.
    """

    def __init__(self, setup, console, between=None, placed=None, **settings) -> None:
        super().__init__(setup, console, **settings)
        self.runs: list[Left] = []
        self.pids: list[int] = []
        self._between = between
        self._memory = b""
        if placed is not None:
            self.session.relays = Placed(self, placed)

    def _run_in(self, process, machine, state):
        self.pids.append(process.qemu._process.pid)
        try:
            return super()._run_in(process, machine, state)
        finally:
            self._memory = os.pread(process.ram.fd, LOOKED_AT, 0)

    def run(self, machine, state):
        end = super().run(machine, state)
        self.runs.append(Left(end, self._memory))
        if self._between is not None:
            self._between(self, len(self.runs))
        return end

    @property
    def ram(self):
        """The memory of the QEMU that there is."""
        return self._process.ram


class Placed(Relays):
    """A user who has no monitor, but something to do once everything is in its place."""

    def __init__(self, engine: Engine, action) -> None:
        super().__init__(engine.session.loop)
        self._engine = engine
        self._action = action

    def placed(self, *, started_by_engine: bool = True) -> None:
        super().placed(started_by_engine=started_by_engine)
        self._action(self._engine)


class Booted(NamedTuple):
    """All that a boot came to: the last report, those that were announced, the runs, and the console."""

    report: Report
    announced: list[Report]
    runs: list[Left]
    console: bytes
    pids: list[int]

    @property
    def ends(self) -> list[str]:
        return [str(run.end.kind) for run in self.runs]

    @property
    def verdicts(self) -> list[tuple[str, str | None]]:
        """Of each IPL, in order."""
        last = [] if self.announced and self.announced[-1] is self.report else [self.report]
        return [ipl_lab.verdict(report) for report in [*self.announced, *last]]


class QemuLab(GuestLab):
    """Makes disks of programs and runs them on QEMU."""

    def guest(self, asm, *, extra=(), size: int | None = MIB, by: str = "A", **how):
        """A disk with a signed guest and a signed kernel that it never enters."""
        kernel = self.signed(KERNEL, kernel_bytes(size=max(2048, how.get("block_size", 512))), by)
        code = bytes(asm.code)
        code = code.ljust(-(-len(code) // how.get("block_size", 512)) * how.get("block_size", 512) - 64, b"\0")
        return self.disk(self.components(code, by, extra=[kernel, *extra]), size=size, **how)

    def boot_qemu(
        self,
        *disks,
        mode: str = "secure",
        certs=("A",),
        console: Console | None = None,
        between=None,
        placed=None,
        before=None,
        announce=None,
        until: str | None = None,
        timeout: float = TIMEOUT,
        more=(),
        boot_order: bool = False,
        has_secure: bool = False,
        memory: int = MEMORY,
        cpus: int = 1,
        **options,
    ) -> Booted:
        """Boot disks, or guests on disks of their own, until no IPL follows.

        `before` gets engine and setup when QEMU stands before its first instruction, `placed` the engine when the guest
        has been placed, `announce` engine and report before each run, `between` the engine and the number of runs.
        """
        made = [self.guest(disk) if isinstance(disk, Asm) else disk for disk in disks]
        settings = self.settings(mode, certs=certs, memory=memory, **options)
        settings = settings._replace(machine=settings.machine._replace(cpus=cpus))
        console = console or Console()
        setup = Setup(made, settings, more=more, has_secure=has_secure, boot_order=boot_order)
        engine = Engine(setup, console, between, placed, timeout=timeout, until=until)
        announced: list[Report] = []

        def tell(report: Report) -> None:
            announced.append(report)
            if announce is not None:
                announce(engine, report)

        try:
            if before is not None:
                engine.wait_until_ready()
                before(engine, setup)
            report = ipl.boot(made, settings, engine, tell, engine.open_image)
        finally:
            engine.close()
            setup.close()
        return Booted(report, announced, engine.runs, console.written, engine.pids)


# Guests


def dump(asm: Asm, address: int, length: int) -> Asm:
    """Write bytes of memory to the console as they are."""
    length_of_event = 6 + length
    asm.put(console_guests.SCCB, struct.pack(">H6xHBBHH", 8 + length_of_event, length_of_event, 0x1A, 0, 0, 0)[:16])
    for offset in range(0, length, 256):
        part = min(256, length - offset)
        asm.load(1, console_guests.SCCB + 14 + offset).load(2, address + offset)
        asm.raw(bytes([0xD2, part - 1, 0x10, 0x00, 0x20, 0x00]))  # MVC
    return console_guests.service(asm, console_guests.WRITE_EVENT_DATA, console_guests.SCCB)


def diagnose(asm: Asm, subcode: int, address: int = BLOCK, answer: int = 0) -> Asm:
    """DIAGNOSE 308; its response goes to `answer`, if there is one. Even and odd register 2 and 3."""
    asm.load(2, address).load(3, 0).load(6, subcode).diag(2, 6, 0x308)
    return asm.put_register(answer, 3) if answer else asm


def block(devno: int, *, ssid: int = 0, kind: int = CCW_TYPE, length: int = 200, loadparm: bytes = b"", flags: int = 0):
    """An IPL parameter block as a guest sets it, a multiple of eight bytes."""
    header = struct.pack(">IB2xBIBB2x8s", length, flags, 0, length - 8, kind, 0x80 if loadparm else 0, loadparm)
    return (header + struct.pack(">85xBH", ssid, devno)).ljust(max(length, 112), b"\0")


def choose(asm: Asm, data: bytes, answer: int = SPARE) -> Asm:
    """Set a block for the next IPL."""
    return diagnose(asm.put(BLOCK, data), SET, answer=answer)


def reboot(asm: Asm, subcode: int = LOAD_CLEAR) -> Asm:
    return diagnose(asm, subcode, 0)


def wait_for_test(asm: Asm) -> Asm:
    """Loop until the test stores something at GO_ON."""
    at = asm.here
    asm.load(12, GO_ON).lg(3, 12).ri(0xA7F, 3, 0)  # CGHI
    return asm.jump(at, 8)


def go_on(engine: Engine) -> None:
    engine.ram.write(GO_ON, bytes(7) + b"\1")


def says(text: bytes) -> Asm:
    return console_guests.write(program(), text)


def forgive_checks(asm: Asm) -> Asm:
    """Go on behind an instruction that ends in a program interruption; r9 then has its code, and lowcore no trace."""
    over = asm.here
    asm.ril(0xC04, 15, 0)
    handler = asm.here
    asm.load(12, 0x88).rxy(0xE391, 9, 12, 6)  # LLGH of the code at 0x8E
    asm.put(0x88, bytes(8)).load(12, 0x150).s(0xB2B2, 12)  # LPSWE: the program old PSW
    asm.code[over - asm.origin : over - asm.origin + 6] = Asm(over).jump(asm.here).code
    return asm.put_psw(PROGRAM_NEW, SUPERVISOR, handler)


def copy_everywhere(asm: Asm, first: int, end: int) -> Asm:
    """Copy the page at PAGES to every page from `first` to `end`."""
    asm.load(4, first).load(5, end)
    loop = asm.here
    asm.rr(0x18, 8, 4).rre(0xB904, 8, 4).load(9, 4096).load(10, PAGES).load(11, 4096).rr(0x0E, 8, 10)  # MVCL
    asm.ri(0xA7B, 4, 4096).rre(0xB921, 4, 5)  # AGHI, CLGR
    return asm.jump(loop, 4)


def evil_page(text: bytes = b"EVIL") -> bytes:
    """Code that runs wherever it lies, and says so."""
    code = bytes(console_guests.write(Asm().raw("010E"), text).end(0x51B210).code)
    assert len(code) <= 4096
    return code.ljust(4096, b"\0")


def write_sectors(sector: int, data_at: int | None = None, count: int = 1, *, kind: int = 1) -> Ring:
    """A guest that writes memory to sectors of its disk (`kind` 0: reads them), and waits until this is done."""
    ring = Ring()
    ring.request(kind=kind, sector=sector)
    data = (data_at or Ring.BUFFER, 512 * count, NEXT | (WRITE if kind == 0 else 0), 2)
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), data, (Ring.STATUS, 1, WRITE, 0))
    ring.available(1, 0)
    ring.asm.put(Ring.STATUS, bytes([UNWRITTEN]) + bytes(7))
    ring.notify()
    at = ring.asm.here
    ring.asm.load(12, Ring.STATUS).rxy(0xE390, 3, 12).ri(0xA7F, 3, UNWRITTEN).jump(at, 8)  # LLGC, CGHI
    return ring


def component_page(data: bytes, at: int = PAGES) -> Load:
    """A page that comes with the program, unsigned."""
    return Load(at, data.ljust(4096, b"\0"))


__all__ = ["ORIGIN", "Asm", "Ring"]
