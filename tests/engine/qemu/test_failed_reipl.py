"""A guest that asks for an IPL in the way that QEMU refuses, and those that only look like one."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

TESTS = Path(__file__).resolve().parents[2]
# pytest's importlib mode puts nothing on the path.
sys.path[:0] = [str(TESTS / "lab"), str(TESTS / "engine" / "embedded")]

from guest_asm import (  # noqa: E402 (behind the path)
    DAT,
    GO_SIZE,
    ORIGIN,
    PROGRAM_CHECK,
    PROGRAM_NEW,
    PROGRAM_OLD,
    SUPERVISOR,
    WAIT,
    Asm,
    program,
)

from sipl.engine.dat import walk  # noqa: E402
from sipl.engine.qemu import code as programs  # noqa: E402
from sipl.engine.qemu import failed_reipl  # noqa: E402
from sipl.engine.qemu.code import BLOCK_OFFSET, CODE_SIZE, code  # noqa: E402
from sipl.engine.qemu.failed_reipl import asked_for_ipl, chosen_block  # noqa: E402
from sipl.engine.qemu.harmless import build_image, build_jump, find_image  # noqa: E402
from sipl.engine.qemu.process import QemuProcess  # noqa: E402
from sipl.engine.qemu.qmp import QemuEnded, QmpError  # noqa: E402
from sipl.engine.qemu.ram import GuestRam  # noqa: E402
from sipl.layout.guest_ends import QemuEnd  # noqa: E402
from sipl.layout.iplb import IPLB_DEVICE_OFFSET, CcwBlock, IplbHeader, IplbType  # noqa: E402
from sipl.layout.record import pack, unpack  # noqa: E402
from sipl.machine.interruption import ProgramCode, ProgramInterruption  # noqa: E402

MIB = 1 << 20
MEMORY = 64 * MIB
SECONDS = 60  # a busy host is slow
BLOCK = 0x10000
TABLES = 0x20000
DEVNO = 0x1234
LOAD_NORMAL = 4
RESTART_NEW = 0x1A0
LOW_ADDRESS_PROTECTION = 0x10000000
RESET_CR0 = 0xE0
CHOSEN = pack(IplbHeader(200, 0, 0, 192, IplbType.CCW, 0, bytes(8))) + pack(CcwBlock(1, DEVNO))
OTHER_EVENT = {"event": "RTC_CHANGE"}


def compared(block: bytes | None) -> bytes | None:
    return block and block[: len(CHOSEN)]


# Guests


def choose(asm: Asm) -> Asm:
    """Set the block that lies at BLOCK, as Linux does before it asks for the IPL."""
    return asm.load(2, BLOCK).load(3, 5).diag(2, 3, 0x308)


def ask(asm: Asm) -> Asm:
    return asm.load(2, 0).load(3, LOAD_NORMAL).diag(2, 3, 0x308)


def control(asm: Asm, number: int, value: int) -> Asm:
    return asm.load(1, value).put_register(0x5000, 1).load(12, 0x5000).rxy(0xEB2F, number, 12, 0, number)  # LCTLG


def set_prefix(asm: Asm, prefix: int) -> Asm:
    """A lowcore of its own, whose program-new PSW is the usual one."""
    asm.put(0x5000, struct.pack(">II", prefix, 0)).load(12, 0x5000).s(0xB210, 12)  # SPX
    return asm.put_psw(PROGRAM_NEW, WAIT, PROGRAM_CHECK)


def forge(asm: Asm, mask: int, address: int) -> Asm:
    """A lowcore that shows a specification exception, 4 bytes before an address."""
    return asm.put(0x88, bytes.fromhex("0000000000040006")).put_psw(PROGRAM_OLD, mask, address)


class Guest:
    """A guest on QEMU, started by sipl's jump as the engine starts it."""

    def __init__(self, qemu: str, memory: int = MEMORY, cpus: int = 1) -> None:
        self.ram = GuestRam(memory)
        image = os.memfd_create("image")
        os.write(image, build_image())
        words = ["-S", "-nodefaults", "-display", "none", "-machine", "s390-ccw-virtio,memory-backend=ram,accel=tcg"]
        words += ["-cpu", "max", "-smp", str(cpus), "-m", f"{memory >> 20}M", "-action", "panic=pause"]
        words += ["-object", f"memory-backend-file,id=ram,size={memory},share=on,mem-path=/proc/self/fd/{self.ram.fd}"]
        words += ["-bios", f"/proc/self/fd/{image}"]
        self.process = QemuProcess(qemu, words, [self.ram.fd, image])
        os.close(image)
        self.qmp = self.process.qmp
        self.process.greet()
        self.image_at = find_image(self.ram)

    def start(self, asm: Asm) -> None:
        self.ram.write(ORIGIN, bytes(asm.code))
        self.ram.write(BLOCK, CHOSEN)
        self.ram.write(0, struct.pack(">II", 0x00080000, 1 << 31 | ORIGIN))
        self.enter(0)

    def enter(self, block: int) -> None:
        self.ram.write(self.image_at, build_jump(block))
        self.qmp.execute("cont")

    def panic(self) -> tuple[int, int, int]:
        """Core and PSW of the disabled wait that it ends in."""
        deadline = time.monotonic() + SECONDS
        while True:
            for event in self.qmp.events:
                if event["event"] == "GUEST_PANICKED":
                    self.qmp.events.remove(event)
                    info = event["data"]["info"]
                    assert info["reason"] == "disabled-wait"
                    return info["core"], info["psw-mask"], info["psw-addr"]
            assert select.select([self.qmp], [], [], max(0.0, deadline - time.monotonic()))[0], "it does not stop"
            self.qmp.receive()

    def chosen(self, timeout: float = SECONDS) -> bytes | None:
        """What is found once it has stopped; the machine is stopped then, and foreign events are kept."""
        core, mask, address = self.panic()
        self.qmp.events.append(OTHER_EVENT)
        block = chosen_block(self.qmp, self.ram, self.image_at, core, mask, address, timeout)
        assert OTHER_EVENT in self.qmp.events
        assert self.qmp.execute("query-status")["running"] is False
        return block

    def close(self) -> None:
        self.process.close()
        self.ram.close()


@pytest.fixture(scope="session")
def qemu(need_tool):
    return os.environ.get("SIPL_QEMU") or need_tool("qemu-system-s390x", "qemu-system-misc")


@pytest.fixture
def new_guest(qemu):
    guests = []

    def start(**options) -> Guest:
        guests.append(Guest(qemu, **options))
        return guests[-1]

    yield start
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(new_guest):
    return new_guest()


class TestAskedFor:
    def test_without_translation(self, guest):
        guest.start(ask(choose(program())))
        assert compared(guest.chosen()) == CHOSEN

    def test_block_is_whole(self, guest):
        """What is behind the block that QEMU stores is zero, whatever was there before."""
        guest.ram.write(guest.image_at + CODE_SIZE, b"\xaa" * 8 * CODE_SIZE)
        guest.start(ask(choose(program())))
        block = guest.chosen()
        assert len(block) == 4096
        assert not any(block[len(CHOSEN) :])
        assert unpack(CcwBlock, block, IPLB_DEVICE_OFFSET).devno == DEVNO

    def test_low_address_protection(self, guest):
        """Linux has it on: the collector could store nothing into the lowcore."""
        guest.start(ask(control(choose(program()), 0, RESET_CR0 | LOW_ADDRESS_PROTECTION)))
        assert compared(guest.chosen()) == CHOSEN

    def test_the_guest_s_handler_is_not_entered(self, guest):
        """The program-new PSW, a wait that looks like the collector's, is not where it ends."""
        asm = program().put_psw(PROGRAM_NEW, WAIT, QemuEnd.CHOICE_STORED)
        guest.start(ask(choose(asm)))
        assert compared(guest.chosen()) == CHOSEN

    @pytest.mark.parametrize("collides", [False, True])
    def test_prefix(self, guest, collides):
        """Also one where the collector would have its place."""
        prefix = guest.image_at + CODE_SIZE if collides else 0x40000
        guest.start(ask(set_prefix(choose(program()), prefix)))
        assert compared(guest.chosen()) == CHOSEN

    @pytest.mark.parametrize("home", [False, True], ids=["primary", "home"])
    @pytest.mark.parametrize("level", [0, 1, 2, 3])
    def test_with_translation(self, guest, home, level):
        """From the last pages of the space; larger frames are below, without a guest: QEMU's own CPU has none."""
        virtual = (1 << 31 + 11 * level) - 0x3000
        designation = map_frame(guest.ram.write, virtual, ORIGIN, 12, level)
        asm = control(choose(program()), 13 if home else 1, designation)
        control(asm, 0, RESET_CR0 | LOW_ADDRESS_PROTECTION).load(2, 0).load(3, LOAD_NORMAL)
        asm.go(DAT | (3 << 46 if home else 0), virtual + asm.here + GO_SIZE - ORIGIN).diag(2, 3, 0x308)
        guest.start(asm)
        assert compared(guest.chosen()) == CHOSEN

    def test_by_another_cpu(self, new_guest):
        """With a lowcore of its own, when the first one has stopped, as Linux does it."""
        guest = new_guest(cpus=2)
        asm = program()
        skip = asm.here
        asm.jump(skip)  # is completed below
        entry = asm.here
        set_prefix(asm, 0x40000)
        sense = asm.here
        asm.load(5, 0).rs(0xAE, 4, 5, 0, 1).jump(sense, 8 + 2)  # SIGP sense: until there is a status to tell
        ask(choose(asm))
        asm.code[skip - ORIGIN : skip - ORIGIN + 6] = Asm(skip).jump(asm.here).code
        asm.put_psw(RESTART_NEW, SUPERVISOR, entry)
        asm.load(5, 1).rs(0xAE, 4, 5, 0, 6).load(5, 0).rs(0xAE, 4, 5, 0, 5)  # SIGP restart, SIGP stop
        asm.jump(asm.here)
        guest.start(asm)
        core, mask, address = guest.panic()
        assert (core, address) == (1, PROGRAM_CHECK)
        block = chosen_block(guest.qmp, guest.ram, guest.image_at, core, mask, address, SECONDS)
        assert compared(block) == CHOSEN

    def test_forged(self, guest):
        """Gains what any guest has that asks for an IPL: a block to verify."""
        guest.ram.write(0x30000, bytes.fromhex("832a0308"))
        guest.start(forge(choose(program()), SUPERVISOR, 0x30004).end())
        assert compared(guest.chosen()) == CHOSEN

    def test_nothing_was_chosen(self, guest):
        """QEMU has no block: there is nothing to come back to."""
        guest.start(ask(program()))
        assert guest.chosen() is None


class TestJustCrashed:
    def test_disabled_wait(self, guest):
        guest.start(choose(program()).end(0x123456))
        assert guest.chosen() is None

    def test_specification_exception_elsewhere(self, guest):
        guest.start(choose(program()).load(14, 0x4001).s(0xB2B2, 14))  # LPSWE, from an odd address
        assert guest.chosen() is None
        assert guest.ram.read(0x8C, 4) == bytes.fromhex("00040006")

    def test_other_exception_at_the_instruction(self, guest):
        """In problem state: privileged operation."""
        asm = choose(program()).load(2, 0).load(3, LOAD_NORMAL)
        guest.start(asm.go(SUPERVISOR | 1 << 48).diag(2, 3, 0x308))
        assert guest.chosen() is None
        assert guest.ram.read(0x8C, 4) == bytes.fromhex("00040002")

    def test_wait_with_translation(self, guest):
        designation = map_frame(guest.ram.write, ORIGIN, ORIGIN, 31, 1)
        asm = control(choose(program()), 1, designation).put_psw(PROGRAM_NEW, WAIT | DAT, PROGRAM_CHECK)
        guest.start(ask(asm))
        assert guest.chosen() is None

    @pytest.mark.parametrize(
        ("mask", "address"),
        [
            (SUPERVISOR, MEMORY + 4),
            (SUPERVISOR, MEMORY + 2),
            (SUPERVISOR, 0),
            (SUPERVISOR, 2),
            (SUPERVISOR, (1 << 64) - 1),
            (0, 0),
            (1 << 31, 1),
            (DAT, 0x10000),
            (DAT | 3 << 46, 0x10000),
            ((1 << 64) - 1, (1 << 64) - 1),
        ],
    )
    @pytest.mark.parametrize("designation", [0, 0x7, (1 << 64) - 1 & ~0x20, (MEMORY - 0x1000) | 0xF, (1 << 64) - 1])
    def test_forged_badly(self, forged_guest, mask, address, designation):
        assert not forged_guest(mask, address, designation)

    def test_no_disabled_wait_any_more(self, guest):
        """It stands elsewhere than the event said."""
        guest.start(ask(choose(program())))
        core, mask, address = guest.panic()
        for said in ((mask ^ 1, address), (mask, address + 2)):
            assert chosen_block(guest.qmp, guest.ram, guest.image_at, core, *said, SECONDS) is None
        assert compared(chosen_block(guest.qmp, guest.ram, guest.image_at, core, mask, address, SECONDS)) == CHOSEN


@pytest.fixture
def forged_guest():
    """Evidence of a lowcore without a guest."""

    def asked(mask, address, designation):
        storage = Sparse(MEMORY)
        storage.write(0x8C, bytes.fromhex("00040006"))
        storage.write(PROGRAM_OLD, struct.pack(">QQ", mask, address))
        return asked_for_ipl(storage, {"C01": designation, "C13": designation}, 0)

    return asked


class TestGuestInTheWay:
    def test_code_that_qemu_kept(self, guest):
        """A guest that has run other code at the collector's place has that run again: it spoils its own re-IPL."""
        place = guest.image_at + CODE_SIZE
        # AHI 8,-1; BZR 7; and again. First for two rounds, then for more than anybody waits.
        guest.ram.write(place, Asm(place).ri(0xA7A, 8, -1).raw("0787").jump(place).code)
        asm = choose(program()).load(8, 2).load(9, place).rr(0x0D, 7, 9).load(8, 0x7FFFFFFF)
        guest.start(ask(asm))
        started = time.monotonic()
        # A QEMU that sees that the memory was changed collects.
        assert compared(guest.chosen(0.5)) in (None, CHOSEN)
        assert time.monotonic() - started < 30

    def test_reset_meanwhile(self, guest):
        """A reset by somebody else is left to the one who deals with resets."""
        guest.start(ask(choose(program())))
        core, mask, address = guest.panic()
        qmp = Interfering(guest.qmp)
        assert chosen_block(qmp, guest.ram, guest.image_at, core, mask, address, SECONDS) is None
        assert "RESET" in [event["event"] for event in guest.qmp.events]

    def test_qemu_ends_meanwhile(self, guest):
        guest.start(ask(choose(program())))
        core, mask, address = guest.panic()
        guest.process.kill()
        with pytest.raises(QemuEnded):
            chosen_block(guest.qmp, guest.ram, guest.image_at, core, mask, address, SECONDS)


class Interfering:
    """Somebody else's monitor resets the machine in the moment in which it is to continue."""

    def __init__(self, qmp) -> None:
        self._qmp = qmp

    def execute(self, command, arguments=None):
        return self._qmp.execute("system_reset" if command == "cont" else command, arguments)

    def __getattr__(self, name):
        return getattr(self._qmp, name)


class Words:
    """A QEMU that answers with given words, and does nothing."""

    STATUS: ClassVar = {"running": False}
    CPUS: ClassVar = [{"cpu-index": 0, "props": {"core-id": 0}}]
    REGISTERS = "CPU#0\r\nPSW=mask 0002000180000000 addr 00000000000009c0 cc 00\r\n" + "\r\n".join(
        f"C{number:02}=0000000000000000" for number in range(16)
    )
    LOWCORE = "gpa: 0x0\r\n"

    def __init__(self, **answers) -> None:
        self.answers = {"status": self.STATUS, "cpus": self.CPUS, "registers": self.REGISTERS, "prefix": self.LOWCORE}
        self.answers |= {"nmi": "", "cont": {}, "stop": {}} | answers
        self.events = deque()
        self.asked = []
        self._pipe = os.pipe()

    def __del__(self) -> None:
        for end in self._pipe:
            os.close(end)

    def _answer(self, name):
        self.asked.append(name)
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    def execute(self, command, arguments=None):
        return self._answer({"query-status": "status", "query-cpus-fast": "cpus"}.get(command, command))

    def human(self, line, cpu=None):
        return self._answer({"info registers": "registers", "gva2gpa 0": "prefix"}.get(line, line))

    def receive(self) -> None:
        pass

    def fileno(self) -> int:
        return self._pipe[0]


class Sparse:
    """Storage that is zero but for what was written."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes: dict[int, int] = {}

    def write(self, address: int, data: bytes) -> None:
        self._bytes |= {address + number: value for number, value in enumerate(data)}

    def read(self, address: int, length: int) -> bytes:
        if address < 0 or address + length > self.size:
            raise ProgramInterruption(ProgramCode.ADDRESSING)
        return bytes(self._bytes.get(address + number, 0) for number in range(length))


class TestWhatQemuSays:
    @staticmethod
    def found(timeout=0.2, core=0, **answers):
        ram = Sparse(MEMORY)
        ram.write(0x8C, bytes.fromhex("00040006"))
        ram.write(PROGRAM_OLD, struct.pack(">QQ", SUPERVISOR, 0x30004))
        ram.write(0x30000, bytes.fromhex("832a0308"))
        qmp = Words(**answers)
        block = chosen_block(qmp, ram, 0x300000, core, WAIT, PROGRAM_CHECK, timeout)
        return block, qmp.asked

    def test_comes_to_the_collector(self):
        """All other tests here end before it, or behind it."""
        assert self.found() == (None, ["status", "cpus", "registers", "prefix", "nmi", "cont", "stop"])

    @pytest.mark.parametrize(
        ("answer", "words", "last"),
        [
            ("status", {"running": True}, "status"),
            ("status", "broken", "status"),
            ("status", QmpError("no"), "status"),
            ("cpus", [], "cpus"),
            ("cpus", {}, "cpus"),
            ("cpus", [1, {"props": 2}, {"props": {"core-id": 0}}], "cpus"),
            ("registers", "unknown command", "registers"),
            ("registers", Words.REGISTERS.replace("C13=", "X13="), "registers"),
            ("registers", Words.REGISTERS.replace("0002000180000000", "0002000180000001"), "registers"),
            ("registers", QmpError("no"), "registers"),
            ("prefix", "Unmapped\r\n", "prefix"),
            ("prefix", "gpa: 0x1000\r\n", "prefix"),
            ("prefix", f"gpa: {MEMORY:#x}\r\n", "prefix"),
            ("prefix", f"gpa: {MEMORY - 0x1000:#x}\r\n", "prefix"),
            ("prefix", "gpa: 0x4000\r\n", "prefix"),
            ("nmi", "Error: no\r\n", "stop"),
            ("cont", QmpError("no"), "stop"),
            ("stop", QmpError("no"), "stop"),
        ],
    )
    def test_no_evidence(self, answer, words, last):
        block, asked = self.found(**{answer: words})
        assert block is None
        assert asked[-1] == last
        if answer == "nmi":
            assert "cont" not in asked

    def test_no_such_cpu(self):
        assert self.found(core=1) == (None, ["status", "cpus"])

    def test_no_room(self):
        ram = Sparse(0x300000 + CODE_SIZE)
        with pytest.raises(failed_reipl._NoEvidence):
            failed_reipl._collector_place(ram, 0x300000, 0)


class TestEvidence:
    @staticmethod
    def storage(size=1 << 20, prefix=0x4000, mask=SUPERVISOR, address=0x30004, code=0x00040006):
        storage = Sparse(size)
        storage.write(prefix + 0x8C, code.to_bytes(4, "big"))
        storage.write(prefix + PROGRAM_OLD, struct.pack(">QQ", mask, address))
        return storage

    @pytest.mark.parametrize(
        ("instruction", "asked"),
        [("83230308", True), ("83ef0308", True), ("83230320", False), ("83231308", False), ("82230308", False)],
    )
    def test_instruction(self, instruction, asked):
        storage = self.storage()
        storage.write(0x30000, bytes.fromhex(instruction))
        assert asked_for_ipl(storage, {}, 0x4000) is asked

    @pytest.mark.parametrize("code", [0, 0x00020006, 0x00060006, 0x00040086, 0x00040007, 0x00040005])
    def test_interruption(self, code):
        storage = self.storage(code=code)
        storage.write(0x30000, bytes.fromhex("83230308"))
        assert not asked_for_ipl(storage, {}, 0x4000)

    @pytest.mark.parametrize(
        ("mask", "address"),
        [(SUPERVISOR, 0x30004), (1 << 31, 0xFFFF_FFFF_8003_0004), (0, 0xFFFF_FFFF_FF03_0004)],
        ids=["64", "31", "24"],
    )
    def test_addressing_mode(self, mask, address):
        storage = self.storage(mask=mask, address=address)
        storage.write(0x30000, bytes.fromhex("83230308"))
        assert asked_for_ipl(storage, {}, 0x4000)

    @pytest.mark.parametrize(("real", "absolute"), [(0x1000, 0x5000), (0x4800, 0x800)])
    def test_prefixing(self, real, absolute):
        storage = self.storage(address=real + 4)
        storage.write(absolute, bytes.fromhex("83230308"))
        assert asked_for_ipl(storage, {}, 0x4000)

    def test_across_pages(self):
        storage = self.storage(mask=DAT | SUPERVISOR, address=0x7001002)
        designation = map_frame(storage.write, 0x7000000, 0x60000, 12, 0)
        storage.write(TABLES + 0x8000 + 8, (0x50000).to_bytes(8, "big"))
        storage.write(0x60FFE, bytes.fromhex("8323"))
        storage.write(0x50000, bytes.fromhex("0308"))
        assert asked_for_ipl(storage, {"C01": designation, "C13": 0}, 0x4000)

    @given(
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
        st.binary(min_size=8, max_size=8),
    )
    def test_whatever_the_guest_left(self, mask, address, designation, pattern):
        """Every word of memory the same one: tables that lead anywhere, also into themselves."""

        class Everywhere(Sparse):
            def read(self, address, length):
                found = super().read(address, length)
                return found if any(found) or length != 8 else pattern

        storage = Everywhere(1 << 20)
        storage.write(0x408C, bytes.fromhex("00040006"))
        storage.write(0x4000 + PROGRAM_OLD, struct.pack(">QQ", mask, address))
        assert asked_for_ipl(storage, {"C01": designation, "C13": designation}, 0x4000) is False

    @given(st.integers(0, (1 << 64) - 1), st.sampled_from([12, 20, 31]), st.integers(0, 3), st.booleans())
    def test_walk_finds_what_is_mapped(self, virtual, frame, level, store):
        virtual &= (1 << 31 + 11 * level) - 1
        if frame == 31 and level == 0:
            frame = 20
        storage = Sparse(1 << 40)
        real = 5 << frame
        designation = map_frame(storage.write, virtual, real, frame, level)
        assert walk(storage, designation, virtual, store=store) == real | virtual & (1 << frame) - 1


def map_frame(write, virtual: int, real: int, frame: int, level: int) -> int:
    """Tables that map one frame of `1 << frame` bytes; gives the designation. `level` is that of the first table."""
    mask = (1 << frame) - 1
    designation = TABLES | level << 2 | 3
    origin = TABLES
    for at in range(level, -1, -1):
        index = virtual >> (20 + 11 * at) & 0x7FF
        following = origin + 0x8000
        if frame == 20 + 11 * at:
            write(origin + index * 8, (real & ~mask | 0x400 | at << 2).to_bytes(8, "big"))
            return designation
        write(origin + index * 8, (following | at << 2 | (3 if at else 0)).to_bytes(8, "big"))
        origin = following
    write(origin + (virtual >> 12 & 0xFF) * 8, (real & ~mask).to_bytes(8, "big"))
    return designation


class TestPrograms:
    FOLDER = Path(programs.__file__).parent

    def test_bytes_match_the_source(self, need_tool, tmp_path):
        need_tool("s390x-linux-gnu-as", "binutils-s390x-linux-gnu")
        subprocess.run(["sh", self.FOLDER / "build", tmp_path], check=True, timeout=60)
        for name in ("harmless", "jump", "collect"):
            assert (tmp_path / f"{name}.bin").read_bytes() == code(name), f"run {self.FOLDER / 'build'}"

    def test_collector_has_its_waits(self):
        collect = code("collect")
        for end in (QemuEnd.CHOICE_STORED, QemuEnd.NO_CHOICE, QemuEnd.COLLECTOR_FAULT):
            assert collect.count(struct.pack(">QQ", WAIT, end)) == 1
        assert collect.count(struct.pack(">Q", WAIT)) == 3

    def test_collector_brings_no_block(self):
        assert len(code("collect")) == CODE_SIZE
        assert not any(code("collect")[BLOCK_OFFSET:])


class Runs:
    """An engine that runs what was verified on QEMU until it stops, and keeps what is found then."""

    def __init__(self, new_guest, cpus: int) -> None:
        self._new_guest = new_guest
        self._cpus = cpus
        self.block = self.took = None

    def run(self, machine, state):
        from sipl.engine.base import EndKind, GuestEnd

        memory = machine.memory
        guest = self._new_guest(memory=memory.size, cpus=self._cpus)
        guest.ram.place(memory, 0, memory.size)
        guest.enter(state.iplb_address)
        core, mask, address = guest.panic()
        started = time.monotonic()
        self.block = chosen_block(guest.qmp, guest.ram, guest.image_at, core, mask, address, SECONDS)
        self.took = time.monotonic() - started
        return GuestEnd(EndKind.DONE, "")


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("memory", [512 * MIB, 4096 * MIB], ids=["512M", "4G"])
def test_linux_reboots(shared, new_guest, tmp_path, cpus, memory):
    """Debian's kernel, unchanged: its block names the device that it came from."""
    import sipl
    from sipl.machine.options import MachineOptions
    from sipl.settings import Disk, Settings

    reboot = pytest.importorskip("test_linux_boots")
    disk = tmp_path / "reboots.raw"
    start, length = reboot.raw_copy(shared, disk)(reboot.RAM_DISK)
    with disk.open("r+b") as raw:
        raw.seek(start)
        changed = reboot.change_init(raw.read(length), reboot.REBOOTS)
        raw.seek(start)
        raw.write(changed)
    engine = Runs(new_guest, cpus)
    machine = MachineOptions(
        secure_boot=True, boot_certs=(str(shared / "keys" / "certA.pem"),), memory=memory, cpus=cpus
    )
    sipl.boot([Disk(str(disk))], Settings(machine=machine), engine)
    assert engine.block is not None
    header = unpack(IplbHeader, engine.block)
    assert (header.type, header.flags) == (IplbType.CCW, 0)
    device = unpack(CcwBlock, engine.block, IPLB_DEVICE_OFFSET)
    assert (device.ssid, device.devno) == (0, 1)
    assert engine.took < 5
    print(f"{engine.took * 1000:.1f} ms")
