"""Guests that do what no guest should: the host stays alive, in time, and says what the guest did."""

from __future__ import annotations

import struct
import time

import pytest
from guest_asm import DONE, EXTERNAL, PROGRAM_NEW, PUT_PSW_SIZE, SUPERVISOR, WAIT, Asm, program
from guest_lab import MEMORY, SIGNATURE, SPARE, EndKind
from ipl_lab import LOADER, MIB, Load

from sipl.layout.virtio import Command

GIVEN = 1.0  # s
SLACK = 4.0  # s; what the end may take longer, on a busy host


def ends(lab, asm, given=GIVEN, **options):
    """Run a guest that does not end; it must, in time."""
    started = time.monotonic()
    left = lab.run(asm, timeout=given, **options)
    assert time.monotonic() - started < given + SLACK
    return left


class TestLoops:
    @pytest.mark.parametrize(
        "body",
        [
            "",
            "A75B0001",  # AGHI
            "E35020000024",  # STG
            "070707070707",
            "0D50",  # BASR 5,0
            "C05000000000",  # LARL
        ],
    )
    def test_without_traps(self, lab, body):
        asm = program().load(2, SPARE)
        start = asm.here
        left = ends(lab, asm.raw(body).jump(start))
        assert left.end.kind is EndKind.TIMEOUT, left.end

    @pytest.mark.parametrize("body", ["B205C000", "83260508", "AC00C000", "B202C000"])
    def test_with_traps(self, lab, body):
        asm = program().load(12, SPARE).load(2, 0).load(6, 0)
        start = asm.here
        left = ends(lab, asm.raw(body).jump(start))
        assert left.end.kind is EndKind.TIMEOUT, left.end

    def test_long_move(self, lab):
        """One instruction that runs for long, over and over."""
        asm = program()
        start = asm.here
        asm.load(2, 0x200000).load(3, 0x400000).load(4, 0x600000).load(5, 0x400000).raw("0E24").jump(start)
        assert ends(lab, asm).end.kind is EndKind.TIMEOUT

    def test_waiting_for_nobody(self, lab):
        """An enabled wait for the console, where nobody types."""
        asm = program().put(SPARE, (0x200).to_bytes(8, "big")).load(12, SPARE).rxy(0xEB2F, 0, 12, index=0)
        left = ends(lab, asm.go(EXTERNAL | WAIT, 0xA000))
        assert left.end.kind is EndKind.TIMEOUT


class TestPsws:
    """A program new PSW that faults itself."""

    CASES = {
        "odd address": (SUPERVISOR, 0xA001),
        "unassigned bit": (0x8000000180000000, 0xA000),
        "mode that is none": (0x0000000100000000, 0xA000),
        "no storage": (SUPERVISOR, MEMORY),
        "far away": (SUPERVISOR, 0xFFFF_FFFF_FFFF_FFFE),
        "no instruction": (SUPERVISOR, SPARE),
        "translation without tables": (0x0400000180000000, 0xA000),
    }

    @pytest.mark.parametrize("name", CASES)
    def test_program_check_loop(self, lab, name):
        asm = program().put_psw(PROGRAM_NEW, *self.CASES[name]).raw("0000")
        left = ends(lab, asm.end())
        assert left.end.kind in (EndKind.TIMEOUT, EndKind.CRASHED), left.end

    @pytest.mark.parametrize("name", CASES)
    def test_wild_branch(self, lab, name):
        left = ends(lab, program().put_psw(PROGRAM_NEW, SUPERVISOR, SPARE).go(*self.CASES[name]))
        assert left.end.kind in (EndKind.TIMEOUT, EndKind.CRASHED), left.end

    def test_the_message_names_the_loop(self, lab):
        left = ends(lab, program().put_psw(PROGRAM_NEW, SUPERVISOR, SPARE).raw("0000").end())
        assert left.end.kind is EndKind.CRASHED
        assert "program" in left.end.message

    def test_svc_loop(self, lab):
        asm = program()
        asm.put_psw(0x1C0, SUPERVISOR, asm.here + PUT_PSW_SIZE).svc(1)
        assert ends(lab, asm).end.kind is EndKind.TIMEOUT

    def test_lowcore_of_garbage(self, lab):
        """Every new PSW is what memory happens to hold."""
        asm = program()
        for address in range(0x1A0, 0x200, 8):
            asm.put(address, b"\xff" * 8)
        left = ends(lab, asm.raw("0000"))
        assert left.end.kind in (EndKind.TIMEOUT, EndKind.CRASHED), left.end


class TestStores:
    def test_over_the_report(self, lab):
        """The report and the block in lowcore are the guest's own: only it is misled."""
        asm = program().load(1, 0).load(1, 0)
        asm.raw("58100014")  # L 1,20: address of the IPL parameter block
        asm.load(3, 0)
        for at in range(0, 8192, 256):
            asm.rxy(0xE371, 2, 1, at).raw("D7FF20002000")  # LAY, XC
        left = lab.run(asm.load(2, SPARE).load(6, 6).diag(2, 6, 0x308).end())
        assert left.stopped_at == DONE, left.end
        block = left.number(20, 4)
        assert left.bytes(block, 8192) == bytes(8192)
        assert left.number(SPARE + 4, 1) == 0x60  # DIAG 308 still knows

    def test_over_everything(self, lab):
        """MVCL over all of memory, the program itself too."""
        asm = program().load(2, 0).load(3, MEMORY).load(4, 0).load(5, 0xFF000000).raw("0E24")
        left = ends(lab, asm.end())
        assert left.end.kind in (EndKind.TIMEOUT, EndKind.CRASHED), left.end

    def test_firmware_storage(self, lab):
        left = lab.run(program().put(13 * MIB, b"not mine").end())
        assert left.stopped_at == DONE


class TestDiagnose:
    def test_hammering_diag_508(self, lab, signers):
        """256 MiB, hashed again and again; the disk's own memory is small."""
        size = 256 * MIB
        signature = signers["A"].sign(b"something else")
        block = struct.pack(">I3xB8xB7xQQQQQ", 64, 0, 0, 0, size, 0x1000000, len(signature), SIGNATURE)
        asm = program().put(SPARE, block).load(2, SPARE).load(6, 0x8000)
        start = asm.here
        asm.diag(2, 6, 0x508).ri(0xA7B, 9, 1).jump(start)
        left = ends(lab, asm, memory=512 * MIB, extra=[Load(SIGNATURE, signature)])
        assert left.end.kind is EndKind.TIMEOUT, left.end
        assert left.registers[9] >= 1

    @pytest.mark.parametrize("function", [0x308, 0x320, 0x508, 0x500, 0x288, 0x258, 0x000, 0xFFF])
    def test_arguments_of_all_ones(self, lab, function):
        ones = (1 << 64) - 1
        asm = program()
        for number in range(1, 8):
            asm.load(number, ones)
        left = lab.run(asm.diag(2, 6, function).end(), timeout=3)
        assert left.end.kind in (EndKind.DONE, EndKind.CRASHED), left.end

    def test_sigp_stop(self, lab):
        left = lab.run(program().load(1, 0).load(3, 0).raw("AE130005").end())  # SIGP 1,3,5: stop
        assert left.end.kind is EndKind.DONE, left.end


class Ring:
    """A virtio-blk device set up by channel programs, with a ring of 256 in guest storage."""

    DESCRIPTORS, AVAILABLE, USED = 0x220000, 0x222000, 0x223000
    HEADER, BUFFER, STATUS = 0x230000, 0x231000, 0x230800
    CCWS, BLOCKS = 0x240000, 0x241000

    def __init__(self, revision: int = 1) -> None:
        self.asm = program()
        self.asm.load(1, 0x10000)
        self.asm.s_at(0xB234, SPARE)  # STSCH
        self.asm.load(15, 0x0080).load(14, SPARE + 4).rxy(0xE370, 15, 14)  # STHY: enabled, nothing else
        self.asm.raw("92" + "01" + "E001")  # MVI 1(14),1: device number valid; MSCH ignores it
        self.asm.raw("9280" + "E001").s_at(0xB232, SPARE)  # MSCH
        self.asm.put(0x4100, struct.pack(">IHBB", 0, 0x0080, 0xFF, 0) + struct.pack(">II", self.CCWS, 0))
        self.command(Command.SET_REVISION, struct.pack(">HH", revision, 0))
        self.command(Command.WRITE_STATUS, b"\x01")
        self.command(Command.WRITE_STATUS, b"\x03")
        self.command(Command.WRITE_FEATURES, struct.pack("<IB", 0, 0))
        self.command(Command.WRITE_FEATURES, struct.pack("<IB", 1, 1))
        self.command(Command.WRITE_STATUS, b"\x0b")
        self.command(
            Command.SET_QUEUE, struct.pack(">Q4xHHQQ", self.DESCRIPTORS, 0, 256, self.AVAILABLE, self.USED)
        )
        self.command(Command.WRITE_STATUS, b"\x0f")

    def command(self, code: int, data: bytes, expect_cc: bool = True) -> None:
        """One channel command: SSCH, TSCH."""
        padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
        self.asm.put(self.BLOCKS, padded)
        self.asm.put(self.CCWS, struct.pack(">BBHI", int(code), 0x20, len(data), self.BLOCKS))
        self.asm.load(1, 0x10000).s_at(0xB233, 0x4100).s_at(0xB235, SPARE + 0x200)

    def descriptors(self, *entries: tuple[int, int, int, int]) -> None:
        data = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
        self.asm.put(self.DESCRIPTORS, data)

    def available(self, index: int, *heads: int) -> None:
        data = struct.pack("<HH", 0, index) + b"".join(struct.pack("<H", head) for head in heads)
        self.asm.put(self.AVAILABLE, data.ljust(-(-len(data) // 8) * 8, b"\0"))

    def request(self, kind: int = 0, sector: int = 0) -> None:
        self.asm.put(self.HEADER, struct.pack("<IIQ", kind, 0, sector))

    def notify(self, queue: int = 0) -> Asm:
        self.asm.load(1, 3).load(2, 0x10000).load(3, queue).load(4, 0)
        return self.asm.rs(0x83, 2, 4, 0, 0x500)


NEXT, WRITE, INDIRECT = 1, 2, 4


class TestVirtqueues:
    def test_a_good_request(self, lab):
        ring = Ring()
        ring.request()
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.asm.put(Ring.STATUS, b"\xff" * 8)
        ring.available(1, 0)
        left = lab.run(ring.notify().end())
        assert left.stopped_at == DONE, left.end
        assert left.bytes(Ring.BUFFER, 4) == b"zIPL"
        assert left.bytes(Ring.STATUS, 1) == b"\0"
        assert left.bytes(Ring.USED, 12) == struct.pack("<HHII", 0, 1, 0, 513)

    BAD = {
        "chain that leads to itself": [(Ring.HEADER, 16, NEXT, 0)],
        "chain of two that leads back": [(Ring.HEADER, 16, NEXT, 1), (Ring.HEADER, 16, NEXT, 0)],
        "next outside the ring": [(Ring.HEADER, 16, NEXT, 256)],
        "next far outside": [(Ring.HEADER, 16, NEXT, 0xFFFF)],
        "length beyond storage": [(Ring.HEADER, 16, NEXT, 1), (MEMORY - 512, 1024, WRITE, 0)],
        "length of 4 GiB": [(Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 0xFFFFFFFF, WRITE, 0)],
        "address of all ones": [((1 << 64) - 1, 16, NEXT, 1), (Ring.STATUS, 1, WRITE, 0)],
        "empty descriptor": [(Ring.HEADER, 0, NEXT, 1), (Ring.STATUS, 1, WRITE, 0)],
        "no status": [(Ring.HEADER, 16, 0, 0)],
        "short header": [(Ring.HEADER, 8, NEXT, 1), (Ring.STATUS, 1, WRITE, 0)],
        "read after write": [(Ring.STATUS, 1, WRITE | NEXT, 1), (Ring.HEADER, 16, 0, 0)],
        "indirect that was not negotiated, into itself": [(Ring.DESCRIPTORS, 16, INDIRECT, 0)],
        "indirect of no length": [(Ring.DESCRIPTORS, 0, INDIRECT, 0)],
        "indirect outside": [(MEMORY, 4096, INDIRECT, 0)],
    }

    @pytest.mark.parametrize("name", BAD)
    def test_malformed(self, lab, name):
        """The device stops until it is reset, the machine goes on, and the end says so."""
        ring = Ring()
        ring.request()
        ring.descriptors(*self.BAD[name])
        ring.available(1, 0)
        left = lab.run(ring.notify().end(), timeout=5)
        assert left.stopped_at == DONE, left.end
        assert left.number(Ring.USED, 4) == 0

    @pytest.mark.parametrize("index", [257, 0x8000, 0xFFFF])
    def test_index_that_ran_away(self, lab, index):
        ring = Ring()
        ring.request()
        ring.available(index, *([0] * 8))
        left = lab.run(ring.notify().end(), timeout=5)
        assert left.stopped_at == DONE, left.end

    def test_full_ring_of_large_requests(self, lab):
        """256 requests, each of as much storage as there is: work in bounded portions, and the time limit holds."""
        ring = Ring()
        ring.request()
        ring.descriptors(
            (Ring.HEADER, 16, NEXT, 1), (0x400000, 8 * MIB, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0)
        )
        ring.available(256, *([0] * 256))
        asm = ring.notify()
        start = asm.here
        asm.load(14, Ring.USED + 2).rxy(0xE391, 9, 14).jump(start)
        left = ends(lab, asm, size=16 * MIB)
        assert left.end.kind is EndKind.TIMEOUT, left.end

    @pytest.mark.parametrize(
        "place", [(0x220001, 0x222000, 0x223000), (MEMORY, 0x222000, 0x223000), (0x220000, 0x222000, MEMORY - 8)]
    )
    def test_ring_that_is_no_place(self, lab, place):
        ring = Ring()
        descriptors, available, used = place
        ring.command(Command.SET_QUEUE, struct.pack(">Q4xHHQQ", descriptors, 0, 256, available, used))
        ring.request()
        left = lab.run(ring.notify().end(), timeout=5)
        assert left.stopped_at == DONE, left.end
        assert left.number(SPARE + 0x208, 1) & 0x02  # unit check

    def test_channel_program_that_leads_to_itself(self, lab):
        ring = Ring()
        ring.asm.put(Ring.CCWS, struct.pack(">BBHI", 0x03, 0x60, 1, 0) + struct.pack(">BBHI", 0x08, 0, 0, Ring.CCWS))
        ring.asm.load(1, 0x10000).s_at(0xB233, 0x4100).s_at(0xB235, SPARE + 0x200)
        left = lab.run(ring.asm.end(), timeout=5)
        assert left.stopped_at == DONE, left.end
        assert left.number(SPARE + 0x209, 1) & 0x20  # program check

    def test_device_over_the_program(self, lab):
        """The device writes over code that runs: the guest is on its own, the host is not hurt."""
        ring = Ring()
        ring.request()
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (LOADER, 8192, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.available(1, 0)
        left = ends(lab, ring.notify().end(), size=MIB)
        assert left.end.kind in (EndKind.CRASHED, EndKind.TIMEOUT), left.end
