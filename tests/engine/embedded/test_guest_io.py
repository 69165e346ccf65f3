"""Channel I/O and virtio-blk from inside: instructions, interruptions, data."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from guest_asm import DONE, IO, IO_SEEN, PROBLEM, SUPERVISOR, WAIT, program
from guest_lab import MEMORY, SPARE
from guest_ring import NEXT, WRITE, Ring

PRIVILEGED, ADDRESSING, SPECIFICATION, OPERAND = 2, 5, 6, 0x15
ORB, CCW, DATA = 0x4100, 0x4200, 0x4300
PARAMETER = 0xCAFE0001


def ok(left):
    assert left.stopped_at == DONE, (left.end, hex(left.program_code), hex(left.program_old))
    return left


def enabled(isc=0):
    """The disk's subchannel is enabled, for an interruption subclass."""
    asm = program().load(1, 0x10000).s_at(0xB234, SPARE).keep_cc(SPARE + 0x800)
    asm.load(14, SPARE).raw(f"96{isc << 3:02x}E004").raw("9680E005").load(1, 0x10000)
    return asm.s_at(0xB232, SPARE).keep_cc(SPARE + 0x808)


def sense_id(asm, command=0xE4, count=7):
    asm.put(ORB, struct.pack(">IHBBI", PARAMETER, 0x0080, 0xFF, 0, CCW).ljust(16, b"\0"))
    asm.put(CCW, struct.pack(">BBHI", command, 0x20, count, DATA))
    return asm.load(1, 0x10000).s_at(0xB233, ORB).keep_cc(SPARE + 0x810)


def open_subclass(asm, mask):
    asm.put(SPARE + 0xA00, mask.to_bytes(8, "big")).load(12, SPARE + 0xA00)
    return asm.rxy(0xEB2F, 6, 12, index=6)


class TestInstructions:
    def test_sense_id(self, lab):
        """STSCH, MSCH, SSCH, TSCH: the disk is a virtio device."""
        asm = sense_id(enabled()).load(1, 0x10000).s_at(0xB235, SPARE + 0x200).keep_cc(SPARE + 0x818)
        left = ok(lab.run(asm.s_at(0xB235, SPARE + 0x300).keep_cc(SPARE + 0x820).end()))
        assert [left.number(SPARE + 0x800 + 8 * slot) for slot in range(5)] == [0, 0, 0, 0, 1]
        assert left.bytes(DATA, 7) == bytes.fromhex("FF 3832 02 0000 00")
        assert left.number(SPARE + 0x200 + 8, 2) == 0x0C00  # channel end, device end
        assert left.number(SPARE + 6, 2) == 0x0001  # device number

    def test_no_such_subchannel(self, lab):
        asm = program().load(1, 0x10777)
        for slot, op in enumerate((0xB234, 0xB232, 0xB235, 0xB233, 0xB230, 0xB231, 0xB238, 0xB276)):
            asm.put(ORB, bytes(64)).put(ORB, struct.pack(">IHBB", 0, 0x80, 0xFF, 0)).load(1, 0x10777)
            asm.s_at(op, ORB).keep_cc(SPARE + 8 * slot)
        left = ok(lab.run(asm.end()))
        assert [left.number(SPARE + 8 * slot) for slot in range(8)] == [3] * 8

    @pytest.mark.parametrize("op", [0xB234, 0xB232, 0xB235, 0xB233, 0xB230, 0xB231, 0xB238, 0xB276])
    def test_subsystem_identification_without_its_one(self, lab, op):
        left = lab.run(program().load(1, 0).s_at(op, SPARE).end())
        assert left.interrupted(OPERAND), left.end

    @pytest.mark.parametrize("op", [0xB234, 0xB232, 0xB235, 0xB233, 0xB236, 0xB239])
    def test_operands(self, lab, op):
        assert lab.run(program().load(1, 0x10000).s_at(op, SPARE + 2).end()).interrupted(SPECIFICATION)
        left = lab.run(sense_id(enabled()).load(1, 0x10000).s_at(op, MEMORY).end())
        assert left.interrupted(ADDRESSING), left.end

    @pytest.mark.parametrize("op", [0xB230, 0xB231, 0xB232, 0xB233, 0xB234, 0xB235, 0xB236, 0xB238, 0xB239, 0xB276])
    def test_privileged(self, lab, op):
        asm = program().load(1, 0x10000).load(12, SPARE).go(PROBLEM).s(op, 12)
        assert lab.run(asm.end()).interrupted(PRIVILEGED)

    @pytest.mark.parametrize("op", [0xB25F])
    def test_chsc_privileged_and_not_aligned(self, lab, op):
        assert lab.run(program().load(2, SPARE).go(PROBLEM).rre(op, 2).end()).interrupted(PRIVILEGED)
        assert lab.run(program().load(2, SPARE + 8).rre(op, 2).end()).interrupted(SPECIFICATION)
        assert lab.run(program().load(2, MEMORY).rre(op, 2).end()).interrupted(ADDRESSING)

    def test_tsch_that_cannot_store_keeps_the_status(self, lab):
        """The program interruption comes, and the status is still there."""
        asm = sense_id(enabled())
        asm.put_psw(0x1D0, SUPERVISOR, asm.here + 60 + 12 + 12 + 4)
        asm.load(1, 0x10000).s_at(0xB235, MEMORY - 8)
        left = ok(lab.run(asm.load(1, 0x10000).s_at(0xB235, SPARE + 0x200).keep_cc(SPARE).end()))
        assert left.number(0x8E, 2) == ADDRESSING
        assert left.number(SPARE) == 0


class TestInterruption:
    def test_at_once(self, lab):
        asm = sense_id(open_subclass(enabled(isc=3), 0x80000000 >> 3))
        left = lab.run(asm.go(IO | SUPERVISOR).end())
        assert left.stopped_at == IO_SEEN, left.end
        assert (left.number(0xB8, 4), left.number(0xBC, 4), left.number(0xC0, 4)) == (0x10000, PARAMETER, 0x18000000)

    def test_wakes(self, lab):
        asm = sense_id(open_subclass(enabled(isc=3), 0x80000000 >> 3))
        left = lab.run(asm.go(IO | WAIT, 0xA000))
        assert left.stopped_at == IO_SEEN, left.end
        assert left.number(0x170) & WAIT == WAIT

    def test_of_a_start_with_interruptions_enabled(self, lab):
        asm = open_subclass(enabled(isc=3), 0x80000000 >> 3).go(IO | SUPERVISOR)
        left = lab.run(sense_id(asm).end())
        assert left.stopped_at == IO_SEEN, left.end
        assert left.number(0x178) > 0xA000

    def test_masked(self, lab):
        ok(lab.run(sense_id(open_subclass(enabled(isc=3), 0x80000000 >> 4)).go(IO | SUPERVISOR).end()))
        ok(lab.run(sense_id(open_subclass(enabled(isc=3), 0xFF000000)).end()))

    def test_tpi_takes_it(self, lab):
        asm = sense_id(open_subclass(enabled(isc=3), 0xFF000000)).s_at(0xB236, SPARE + 0x300).keep_cc(SPARE + 0x400)
        asm.s_at(0xB236, SPARE + 0x310).keep_cc(SPARE + 0x408)
        left = ok(lab.run(asm.go(IO | SUPERVISOR).end()))
        assert (left.number(SPARE + 0x400), left.number(SPARE + 0x408)) == (1, 0)
        assert (left.number(SPARE + 0x300, 4), left.number(SPARE + 0x304, 4)) == (0x10000, PARAMETER)


class TestBlockDevice:
    def read(self, address, length=512, sector=0):
        ring = Ring()
        ring.request(sector=sector)
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (address, length, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.asm.put(Ring.STATUS, b"\xff" * 8)
        ring.available(1, 0)
        return ring

    def test_read(self, lab):
        left = ok(lab.run(self.read(Ring.BUFFER).notify().end()))
        assert left.bytes(Ring.BUFFER, 4) == b"zIPL"
        assert left.bytes(Ring.STATUS, 1) == b"\0"
        assert left.bytes(Ring.USED, 12) == struct.pack("<HHII", 0, 1, 0, 513)

    def test_write_and_read_again(self, lab):
        """What was written is read, and the image on the host stays as it is."""
        ring = Ring()
        ring.request(kind=1, sector=100)
        ring.asm.put(Ring.BUFFER, b"written!")
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.available(1, 0)
        ring.notify()
        ring.request(kind=0, sector=100)
        ring.descriptors((Ring.HEADER, 16, NEXT, 1), (0x250000, 512, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
        ring.available(2, 0, 0)
        disk = lab.disk(lab.components(bytes(ring.notify().end().code)), size=1 << 20)
        before = Path(disk.path).read_bytes()
        runs, _ = lab.boot_disk(disk)
        assert ok(runs[0]).bytes(0x250000, 8) == b"written!"
        assert Path(disk.path).read_bytes() == before

    def test_queue_that_is_not_there(self, lab):
        left = ok(lab.run(self.read(Ring.BUFFER).notify(queue=1).end()))
        assert left.registers[2] >> 63

    AT = Ring.BUFFER + 0x8000

    def test_code_is_read_over_code(self, lab):
        """A subroutine ran; the disk's sector 200 holds another one, which runs next."""
        old, new = (bytes.fromhex(f"A75900{n:02x}07FE").ljust(8, b"\0") for n in (1, 2))
        ring = self.read(self.AT, sector=200)
        ring.asm.put(self.AT, old).load(13, self.AT).raw("0DED").put_register(SPARE + 0x700, 5)
        ring.notify().load(13, self.AT).raw("0DED").put_register(SPARE + 0x708, 5)
        path = lab.disk(lab.components(bytes(ring.asm.end().code)), size=1 << 20).path
        image = bytearray(Path(path).read_bytes())
        image[200 * 512 : 200 * 512 + 8] = new
        runs, _ = lab.boot_disk(lab.disk(image))
        left = ok(runs[0])
        assert (left.number(SPARE + 0x700), left.number(SPARE + 0x708)) == (1, 2)

    def test_code_is_read_over_code_by_a_channel_program(self, lab):
        """Sense id stores seven bytes, which begin with FF: no instruction of those that ran."""
        asm = enabled().put(DATA, bytes.fromhex("A75900010 7FE0000".replace(" ", ""))).load(13, DATA).raw("0DED")
        left = lab.run(sense_id(asm).load(13, DATA).raw("0DED").end())
        assert left.interrupted(1), left.end
        assert left.program_old in (DATA + 2, DATA + 6)
