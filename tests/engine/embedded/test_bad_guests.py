"""Guests that do what no guest should: the host stays alive, in time, and says what the guest did."""

from __future__ import annotations

import struct
import time
from typing import ClassVar

import pytest
from guest_asm import DONE, EXTERNAL, PROGRAM_NEW, PUT_PSW_SIZE, SUPERVISOR, WAIT, program
from guest_lab import MEMORY, SIGNATURE, SPARE, EndKind
from guest_ring import INDIRECT, NEXT, WRITE, Ring
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

    CASES: ClassVar = {
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
        asm = program().load(2, 0).load(3, 0xFFFFFF).load(4, 0).load(5, 0xFF000000).raw("0E24")
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

    BAD: ClassVar = {
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
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (0x400000, 8 * MIB, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
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
        ring.request(sector=1000)  # zeros
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (LOADER, 0x10000, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.available(1, 0)
        left = ends(lab, ring.notify().end(), size=MIB)
        assert left.interrupted(1), left.end
