from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.machine.css.channel_program import MAX_CCWS

CCW_AT, DATA_AT, LIST_AT = 0x2000, 0x8000, 0x5000
MEMORY = 1 << 20
CD, CC, SLI, SKIP, PCI, IDA, SUSPEND, MIDA = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
READ, WRITE, CONTROL, ANSWER, TIC, NOP = 0x02, 0x01, 0x0B, 0x32, 0x08, 0x03
PROGRAM_CHECK, INCORRECT_LENGTH = 0x20, 0x40


@pytest.fixture
def machine(guest):
    guest.enable()
    return guest


def refused(machine, **orb):
    irb = machine.run(**orb)
    assert (irb.control, irb.device, irb.status & 0x7F, irb.residual) == (0x4017, 0, PROGRAM_CHECK, 0)
    return irb


class TestChaining:
    def test_commands(self, machine):
        machine.ccw(0, CONTROL, CC | SLI, 1, 0)
        machine.ccw(1, READ, CC, 10, DATA_AT)
        machine.ccw(2, WRITE, 0, 4, DATA_AT + 2)
        irb = machine.run()
        assert (irb.control, irb.device, irb.status, irb.residual) == (0x4007, 0x0C, 0, 0)
        assert irb.address == CCW_AT + 24
        assert machine.device.calls == [CONTROL, READ, WRITE]
        assert machine.device.taken == [b"2345"]

    def test_a_unit_check_ends_the_chain(self, machine):
        machine.ccw(0, 0x51, CC, 1, DATA_AT)
        machine.ccw(1, READ, 0, 10, DATA_AT)
        irb = machine.run()
        assert (irb.device, irb.address) == (0x02, CCW_AT + 8)
        assert machine.device.calls == [0x51]

    def test_transfer_in_channel(self, machine):
        machine.ccw(0, CONTROL, CC | SLI, 1, 0)
        machine.ccw(1, TIC, 0, 0, CCW_AT + 0x100)
        machine.ccw(32, READ, 0, 10, DATA_AT)
        irb = machine.run()
        assert (irb.status, irb.address) == (0, CCW_AT + 0x108)

    def test_it_may_not_come_first_nor_lead_to_another_one(self, machine):
        machine.ccw(0, TIC, 0, 0, CCW_AT + 8)
        machine.ccw(1, READ, 0, 10, DATA_AT)
        refused(machine)
        machine.ccw(0, CONTROL, CC | SLI, 1, 0)
        machine.ccw(1, TIC, 0, 0, CCW_AT + 24)
        machine.ccw(3, TIC, 0, 0, CCW_AT + 32)
        machine.ccw(4, READ, 0, 10, DATA_AT)
        refused(machine)

    @pytest.mark.parametrize(("command", "flags", "count"), [(TIC, CC, 0), (TIC, 0, 1), (0x18, 0, 0)])
    def test_its_reserved_bits_in_format_1(self, machine, command, flags, count):
        machine.ccw(0, CONTROL, CC | SLI, 1, 0)
        machine.ccw(1, command, flags, count, CCW_AT + 24)
        machine.ccw(3, READ, 0, 10, DATA_AT)
        refused(machine)

    def test_a_loop_ends_after_as_many_ccws_as_a_program_may_have(self, machine):
        machine.ccw(0, CONTROL, CC | SLI, 1, 0)
        machine.ccw(1, TIC, 0, 0, CCW_AT)
        begun = time.monotonic()
        refused(machine)
        assert len(machine.device.calls) == MAX_CCWS // 2
        assert time.monotonic() - begun < 5

    def test_so_does_one_of_chained_data(self, machine):
        machine.ccw(0, READ, CD, 0xFFFF, DATA_AT)
        machine.ccw(1, TIC, 0, 0, CCW_AT)
        refused(machine)
        assert machine.device.calls == []

    def test_data(self, machine):
        machine.ccw(0, READ, CD, 3, DATA_AT)
        machine.ccw(1, 0, CD | SKIP, 4, DATA_AT + 16)
        machine.ccw(2, TIC, 0, 0, CCW_AT + 32)
        machine.ccw(4, 0xFF, SLI, 7, DATA_AT + 32)
        irb = machine.run()
        assert (irb.device, irb.status, irb.residual, irb.address) == (0x0C, 0, 4, CCW_AT + 40)
        assert machine.memory.read(DATA_AT, 40) == b"012".ljust(32, b"\0") + b"789".ljust(8, b"\0")
        assert machine.stored == [(DATA_AT, 3), (DATA_AT + 32, 3)]

    def test_data_that_ends_before_the_last_ccw_has_the_wrong_length(self, machine):
        machine.ccw(0, READ, CD | SLI, 16, DATA_AT)
        machine.ccw(1, 0, SLI, 16, DATA_AT + 16)
        irb = machine.run()
        assert (irb.status, irb.residual, irb.address) == (INCORRECT_LENGTH, 6, CCW_AT + 8)
        machine.ccw(0, READ, CD | SLI, 10, DATA_AT)
        irb = machine.run()
        assert (irb.status, irb.residual, irb.address) == (0, 16, CCW_AT + 16)

    def test_a_request_and_its_answer_in_one_area(self, machine):
        machine.memory.write(DATA_AT, b"\x01\x02\xff\xff")
        machine.ccw(0, ANSWER, CD, 3, DATA_AT)
        machine.ccw(1, 0, 0, 1, DATA_AT + 0x20)
        irb = machine.run()
        assert irb.status == 0
        assert machine.memory.read(DATA_AT, 3) == b"\x01\x02\x01"
        assert machine.memory.read(DATA_AT + 0x20, 1) == b"\x03"
        for number in range(4):
            machine.ccw(number, ANSWER, CD if number < 3 else 0, 1, DATA_AT + 0x40 * number)
        machine.memory.write(DATA_AT + 0x40, b"\x05")
        assert machine.run().status == 0
        assert [machine.memory.read(DATA_AT + 0x40 * n, 2) for n in (2, 3)] == [b"\x01\0", b"\x06\0"]


class TestLength:
    @pytest.mark.parametrize("count", [9, 11])
    def test_one_that_does_not_match(self, machine, count):
        machine.ccw(0, READ, CC, count, DATA_AT)
        machine.ccw(1, CONTROL, SLI, 1, 0)
        irb = machine.run()
        assert (irb.control, irb.device, irb.status) == (0x4017, 0x0C, INCORRECT_LENGTH)
        assert irb.residual == max(0, count - 10)
        assert machine.device.calls == [READ]
        assert machine.memory.read(DATA_AT, 12) == b"0123456789"[:count].ljust(12, b"\0")

    @pytest.mark.parametrize("count", [9, 10, 11])
    def test_suppressed(self, machine, count):
        machine.ccw(0, READ, CC | SLI, count, DATA_AT)
        machine.ccw(1, CONTROL, SLI, 1, 0)
        assert machine.run().status == 0
        assert machine.device.calls == [READ, CONTROL]

    def test_too_little_for_the_device_is_a_unit_check(self, machine):
        machine.ccw(0, WRITE, SLI, 3, DATA_AT)
        assert machine.run().device == 0x02

    def test_of_an_immediate_operation(self, machine):
        machine.ccw(0, CONTROL, 0, 1, 0)
        assert machine.run().status == INCORRECT_LENGTH
        assert machine.run(extension=0x80).status == 0
        machine.ccw(0, CONTROL, 0, 0, 0)
        assert machine.run().status == 0

    def test_count_zero(self, machine):
        machine.ccw(0, READ, CD, 0, DATA_AT)
        machine.ccw(1, 0, 0, 10, DATA_AT)
        refused(machine)
        machine.ccw(0, READ, CD, 10, DATA_AT)
        machine.ccw(1, 0, 0, 0, DATA_AT)
        refused(machine)
        machine.memory.write(CCW_AT, struct.pack(">IBxH", CONTROL << 24, SLI, 0))
        refused(machine, control=0)


class TestAddresses:
    def test_format_0(self, machine):
        machine.memory.write(CCW_AT, struct.pack(">IBxH", CONTROL << 24, CC, 1))
        machine.memory.write(CCW_AT + 8, struct.pack(">IBxH", 0xF8 << 24 | CCW_AT + 24, 0xFF, 0xFFFF))
        machine.memory.write(CCW_AT + 24, struct.pack(">IBxH", READ << 24 | DATA_AT, 0, 10))
        irb = machine.run(control=0)
        assert (irb.device, irb.status, irb.address) == (0x0C, 0, CCW_AT + 32)
        assert machine.memory.read(DATA_AT, 10) == b"0123456789"

    @pytest.mark.parametrize("program", [CCW_AT + 4, CCW_AT + 1, MEMORY, MEMORY - 4, 0x7FFFFFF8])
    def test_a_program_that_is_not_there(self, machine, program):
        irb = refused(machine, program=program)
        assert irb.address == program + 8

    def test_a_format_0_program_ends_at_16_mib(self, new_guest):
        guest = new_guest(32 << 20)
        guest.enable()
        for program in ((1 << 24) - 8, 1 << 24):
            guest.memory.write(program, struct.pack(">IBxH", CONTROL << 24, 0, 1))
        assert guest.run(control=0, program=(1 << 24) - 8).status == 0
        refused(guest, control=0, program=1 << 24)
        assert guest.run(program=1 << 24).status == 0

    def test_a_command_that_is_none(self, machine):
        for command in (0x00, 0x10, 0xF0):
            machine.ccw(0, command, 0, 1, DATA_AT)
            refused(machine)

    @pytest.mark.parametrize("address", [MEMORY, MEMORY - 9, 0x80000000 | DATA_AT, 0x7FFFFFFF])
    def test_data_that_is_not_there(self, machine, address):
        machine.ccw(0, READ, 0, 10, address)
        refused(machine)
        assert machine.memory.read(MEMORY - 16, 16) == bytes(16)

    def test_only_what_is_transferred_has_to_be_there(self, machine):
        machine.ccw(0, READ, SLI, 0xFFFF, MEMORY - 10)
        assert machine.run().status == 0
        assert machine.memory.read(MEMORY - 10, 10) == b"0123456789"

    def test_modified_indirect_addressing_and_lone_suspend_flags(self, machine):
        machine.ccw(0, READ, MIDA, 10, DATA_AT)
        refused(machine)
        machine.ccw(0, READ, SUSPEND, 10, DATA_AT)
        refused(machine)

    def test_a_program_controlled_interruption_shows_at_the_end(self, machine):
        machine.ccw(0, CONTROL, CC | SLI | PCI, 1, 0)
        machine.ccw(1, READ, 0, 10, DATA_AT)
        irb = machine.run()
        assert (irb.control, irb.status) == (0x400F, 0x80)


class TestIndirect:
    @pytest.mark.parametrize(
        ("control", "block", "width"), [(0x0080, 2048, 4), (0x0083, 2048, 8), (0x0082, 4096, 8), (0x0081, 2048, 4)]
    )
    def test_blocks(self, machine, control, block, width):
        machine.device.payload = bytes(range(256)) * 18  # 4608 bytes
        first = DATA_AT + block - 100
        others = [0x20000 + 3 * block * i for i in range(4)]
        for number, address in enumerate([first, *others]):
            machine.memory.write(LIST_AT + width * number, address.to_bytes(width, "big"))
        machine.ccw(0, READ, IDA, 4608, LIST_AT)
        assert machine.run(control=control).status == 0
        found = machine.memory.read(first, 100)
        for address in others:
            found += machine.memory.read(address, block)
        assert found[:4608] == machine.device.payload
        assert not any(found[4608:])

    @pytest.mark.parametrize("control", [0x0080, 0x0082])
    def test_a_list_off_its_boundary(self, machine, control):
        machine.ccw(0, READ, IDA, 10, LIST_AT + 2)
        refused(machine, control=control)

    def test_a_later_word_off_its_block(self, machine):
        machine.memory.write(LIST_AT, struct.pack(">II", DATA_AT + 2040, 0x20000 + 8))
        machine.ccw(0, READ, IDA, 10, LIST_AT)
        refused(machine)

    def test_words_that_name_nothing(self, machine):
        machine.memory.write(LIST_AT, struct.pack(">I", 0x80000000 | DATA_AT))
        machine.ccw(0, READ, IDA, 10, LIST_AT)
        refused(machine)
        machine.memory.write(LIST_AT, struct.pack(">Q", 1 << 63))
        refused(machine, control=0x0082)
        machine.ccw(0, READ, IDA, 10, MEMORY)
        refused(machine)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([READ, WRITE, CONTROL, ANSWER, TIC, NOP, 0xE4, 0x04, 0x18, 0x00, 0x51]),
            st.integers(0, 255),
            st.one_of(st.sampled_from([0, 1, 4, 10, 0xFFFF]), st.integers(0, 0xFFFF)),
            st.one_of(
                st.integers(0, 20).map(lambda n: CCW_AT + 8 * n),
                st.sampled_from([0, DATA_AT, DATA_AT + 1, LIST_AT, MEMORY - 8, MEMORY, 0x7FFFFFFF, 0xFFFFFFFF]),
            ),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 0xFFFF).map(lambda control: control & ~4),
    st.sampled_from([0, 0x80]),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=8),
)
@settings(max_examples=300, deadline=5000)
def test_every_program_ends(new_guest, program, control, extension, words):
    guest = new_guest()
    guest.enable()
    for number, ccw in enumerate(program):
        guest.ccw(number, *ccw)
    guest.memory.write(LIST_AT, b"".join(word.to_bytes(8, "big") for word in words))
    assert guest.start(control=control, extension=extension) == 0
    code, irb = guest.css.tsch(0x00010000)
    function, suspended = irb[2] & 0x40, irb[3] & 0x20
    assert function
    assert code == 0 or suspended
    assert len(guest.device.calls) <= MAX_CCWS
    if not suspended:
        # Either the device ended it, or the channel found fault with it.
        assert irb[8] in {0x0C, 0x02} or irb[9] & PROGRAM_CHECK
