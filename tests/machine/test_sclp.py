"""SCLP: READ SCP INFO with its facility bytes, response codes and interruptions; offsets are those of this file."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.interruption import ProgramInterruption
from sipl.machine.memory import increment_shift

READ, READ_FORCED = 0x00020001, 0x00120001
AT = 0x20000
MEMORY = 16 << 20
MIB = 1 << 20


def sccb(length, fill=0):
    return struct.pack(">H", length) + bytes([fill]) * (max(length, 8) - 2)


@pytest.fixture
def service(guest_with):
    """Makes a call: the interruption code, or the SCCB as it lies in memory afterwards."""

    def make(guest, block, command=READ, at=AT, length=None):
        guest.put(at, block)
        try:
            guest.machine.execute_service_call(guest.cpu, command, at)
        except ProgramInterruption as error:
            return error.code
        return guest.get(at, length or len(block))

    return make


def response(block):
    return struct.unpack_from(">H", block, 6)[0]


# Interruptions, in their order


@pytest.mark.parametrize("at", [AT, AT + 4, 0, MEMORY])
def test_problem_state_comes_before_everything(guest_with, codes, at):
    guest = guest_with()
    guest.cpu.problem_state = True
    with pytest.raises(ProgramInterruption, match="privileged") as caught:
        guest.machine.execute_service_call(guest.cpu, READ, at)
    assert caught.value.code == codes.privileged


@pytest.mark.parametrize("at", [MEMORY - 7, MEMORY, MEMORY + 4, (1 << 31) + AT, (1 << 64) - 8])
def test_a_block_outside_memory(guest_with, codes, at):
    guest = guest_with()
    with pytest.raises(ProgramInterruption, match="addressing") as caught:
        guest.machine.execute_service_call(guest.cpu, READ, at)
    assert caught.value.code == codes.addressing


@pytest.mark.parametrize("at", [0, 8, 0x1000, 0x1FF8, AT + 1, AT + 4, 0x40000, 0x41FF8])
def test_a_misplaced_block(guest_with, service, codes, at):
    """In the lowcore or at the prefix, or not on a doubleword."""
    guest = guest_with()
    guest.cpu.prefix = 0x40000
    block = sccb(4096)
    guest.put(at, block)
    same = guest.unchanged()
    assert service(guest, block, at=at) == codes.specification
    assert same()


def test_a_block_above_2_gib_is_misplaced(guest_with, codes):
    guest = guest_with(memory=4 << 30)
    with pytest.raises(ProgramInterruption, match="specification") as caught:
        guest.machine.execute_service_call(guest.cpu, READ, (2 << 30) + AT)
    assert caught.value.code == codes.specification
    guest.put((2 << 30) - 4096, sccb(4096))
    guest.machine.execute_service_call(guest.cpu, READ, (2 << 30) - 4096)
    assert response(guest.get((2 << 30) - 4096, 8)) == 0x0010


@pytest.mark.parametrize("length", range(8))
@pytest.mark.parametrize("command", [READ, 0x12345678])
def test_a_block_shorter_than_its_header(guest_with, service, codes, length, command):
    guest = guest_with()
    assert service(guest, sccb(length), command) == codes.specification


def test_a_block_that_reaches_past_the_memory(guest_with, service, codes):
    guest = guest_with()
    assert service(guest, sccb(4096)[:2048], at=MEMORY - 2048) == codes.addressing


# Response codes


@pytest.mark.parametrize("command", [0, 0x00010001, 0x00770005, 0x00780005, 0x00760005, 0x00020002, 0xFFFFFFFF])
@pytest.mark.parametrize("at", [AT, AT + 0xFF8])
def test_another_command(guest_with, service, command, at):
    guest = guest_with()
    block = service(guest, sccb(64, 0x55), command, at)
    assert block == sccb(64, 0x55)[:6] + struct.pack(">H", 0x01F0) + b"\x55" * 56


@pytest.mark.parametrize(
    ("at", "length"), [(AT + 0xFF8, 16), (AT + 8, 4096), (AT + 0x800, 2056), (AT, 4097), (AT, 8192)]
)
def test_a_block_across_a_page_needs_extended_length(guest_with, service, at, length):
    guest = guest_with(cpu="qemu,els=off,cstore=off,sipl=off,sclaf=off")
    block = service(guest, sccb(length, 0x55), at=at)
    assert block == sccb(length, 0x55)[:6] + struct.pack(">H", 0x0100) + b"\x55" * (length - 8)


@pytest.mark.parametrize(("at", "length"), [(AT + 0xF00, 512), (AT, 8192), (AT, 3 * 4096), (AT + 8, 4096)])
def test_with_extended_length_a_block_may_cross_a_page(guest_with, service, at, length):
    guest = guest_with()
    block = service(guest, sccb(length, 0x55), at=at)
    assert response(block) == 0x0010
    assert block[160:] == b"\x55" * (length - 160)


@pytest.mark.parametrize("els", [True, False])
@pytest.mark.parametrize(("cpus", "needed"), [(1, 160), (2, 176), (247, 4096), (248, 4112)])
def test_room_for_every_cpu_is_needed(guest_with, service, els, cpus, needed):
    guest = guest_with(cpus=cpus, cpu="qemu" if els else "z16")
    for length in (8, needed - 1):
        if length <= 4096:
            block = service(guest, sccb(length, 0x55))
            assert block == sccb(length, 0x55)[:6] + struct.pack(">H", 0x0300) + b"\x55" * (length - 8)
    if els or needed <= 4096:
        assert response(service(guest, sccb(needed))) == 0x0010


def test_b8_248_cpus_hide_the_facilities_in_a_page(guest_with, service):
    guest = guest_with(cpus=248)
    block = service(guest, sccb(4096))
    assert response(block) == 0x0300
    assert (block[134], block[136], block[137]) == (0, 0, 0)
    longer = service(guest, sccb(4112))
    assert (longer[134], longer[136], longer[137]) == (0x04, 0x50, 0x00)
    assert struct.unpack_from(">HH", longer, 16) == (248, 144)


# What READ SCP INFO stores


@pytest.mark.parametrize("command", [READ, READ_FORCED])
def test_read_scp_info(guest_with, service, command):
    guest = guest_with(loadparm="LINUX", cpus=3, memory=512 * MIB)
    expected = bytearray(sccb(4096, 0xFF))
    expected[6:192] = bytes(186)
    struct.pack_into(">HHB", expected, 6, 0x0010, 512, 1)
    struct.pack_into(">HH", expected, 16, 3, 144)
    expected[24:32] = "LINUX   ".encode("cp037")
    expected[134] = 0x04
    struct.pack_into(">H", expected, 136, 0x5000)
    for number in range(3):
        expected[144 + 16 * number] = number
    assert service(guest, sccb(4096, 0xFF), command) == bytes(expected)


FACILITIES = {
    "qemu": (144, 0x04, 0x5000),
    "max": (144, 0x04, 0x5000),
    "qemu,sipl=off": (144, 0x04, 0x1000),
    "qemu,sclaf=off": (144, 0x04, 0x4000),
    "qemu,cstore=off": (144, 0x00, 0x5000),
    "qemu,cstore=off,sipl=off,sclaf=off": (144, 0, 0),
    "qemu,els=off": (128, 0, 0),  # the others stay on, and nobody is told
    "z16": (128, 0, 0),
    "z16,els=on": (144, 0, 0),
    "z16,els=on,cstore=on,sipl=on,sclaf=on": (144, 0x04, 0x5000),
    "z16,sipl=on": (128, 0, 0),
    "z15": (128, 0, 0),
}


@pytest.mark.parametrize("cpu", FACILITIES)
def test_facilities(guest_with, service, cpu):
    offset, cstore, ipl = FACILITIES[cpu]
    block = service(guest_with(cpu=cpu), sccb(4096, 0xFF))
    assert response(block) == 0x0010
    assert struct.unpack_from(">H", block, 18) == (offset,)
    assert (block[134], struct.unpack_from(">H", block, 136)[0]) == (cstore, ipl)


@pytest.mark.parametrize(
    ("memory", "increments", "size"),
    [(16, 16, 1), (512, 512, 1), (1020, 1020, 1), (1022, 511, 2), (1024, 512, 2), (4096, 512, 8), (65536, 512, 128)],
)
def test_the_size_of_memory(guest_with, service, memory, increments, size):
    block = service(guest_with(memory=memory * MIB), sccb(4096))
    assert struct.unpack_from(">HB", block, 8) == (increments, size)


@given(st.integers(1, 1 << 20))
def test_there_are_at_most_1020_increments_of_the_smallest_size(mib):
    shift = increment_shift(mib * MIB)
    assert shift >= 20
    assert (mib * MIB) >> shift <= 1020
    assert shift == 20 or (mib * MIB) >> (shift - 1) > 1020


def test_the_block_is_at_an_absolute_address(guest_with, service):
    guest = guest_with()
    guest.cpu.prefix = 0x40000
    assert response(service(guest, sccb(4096), at=0x2000)) == 0x0010
    assert guest.get(0x42000, 4096) == bytes(4096)
