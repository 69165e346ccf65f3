from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine.interruption import ProgramCode, ProgramInterruption

SID = 0x00010000
CCW_AT, DATA_AT = 0x2000, 0x8000
INSTRUCTIONS = ("csch", "hsch", "rsch", "xsch", "tsch", "stsch")


def operand(call, *arguments):
    with pytest.raises(ProgramInterruption) as caught:
        call(*arguments)
    assert caught.value.code is ProgramCode.OPERAND


def cc(result):
    return result[0] if isinstance(result, tuple) else result


class TestIdentification:
    @pytest.mark.parametrize("name", INSTRUCTIONS)
    @pytest.mark.parametrize("sid", [0, 0x00000001, 0x00030000, 0x00090000, 0x01010000, 0x80010000, 0x00018000 << 4])
    def test_a_word_that_is_none_is_an_operand_exception(self, guest, name, sid):
        operand(getattr(guest.css, name), sid)

    def test_so_it_is_with_blocks(self, guest):
        operand(guest.css.msch, 0, bytes(guest.schib()))
        operand(guest.css.ssch, 0, guest.orb())

    @pytest.mark.parametrize("name", INSTRUCTIONS)
    def test_where_there_is_no_subchannel_it_is_condition_code_3(self, guest, name):
        assert cc(getattr(guest.css, name)(SID + 1)) == 3

    def test_so_it_is_with_blocks_too(self, guest):
        assert guest.css.msch(SID + 1, bytes(guest.schib())) == 3
        assert guest.css.ssch(SID + 1, guest.orb()) == 3

    def test_bits_above_the_word_do_not_count(self, guest):
        assert guest.css.stsch(0xFFFFFFFF_00010000)[0] == 0

    def test_device_numbers_are_unique_and_16_bits_wide(self, guest):
        with pytest.raises(UsageError, match="in use"):
            guest.css.attach(type(guest.device)(), 0x0001)
        for number, ssid in ((0x10000, 0), (-1, 0), (2, 4)):
            with pytest.raises(UsageError, match="no such device number"):
                guest.css.attach(type(guest.device)(), number, ssid)
        for number, ssid in ((0, 0), (0xFFFF, 3)):
            assert guest.css.attach(type(guest.device)(), number, ssid).device_number == number
        assert [subchannel.subsystem_id for subchannel in guest.css.subchannels()] == [SID, SID + 1, 0x00070000]

    def test_other_sets_are_there_once_the_guest_enables_them(self, guest):
        other = guest.css.attach(type(guest.device)(), 0x0001, ssid=2)
        assert other.subsystem_id == 0x00050000
        assert guest.css.find(0x00050000) is other
        operand(guest.css.stsch, 0x00050000)
        guest.memory.write(0x3000, bytes.fromhex("04000031 00000002"))
        assert guest.css.chsc(0x3000) == 0
        assert guest.memory.read(0x3400, 4) == bytes.fromhex("00080001")
        assert guest.css.stsch(0x00050000)[0] == 0
        assert guest.css.stsch(0x00050001)[0] == 3
        assert guest.css.stsch(0x00070000)[0] == 3
        guest.css.reset()
        operand(guest.css.stsch, 0x00050000)


class TestSchib:
    def test_at_first(self, guest):
        assert guest.schib() == bytes.fromhex(
            "00000000 00010001 80000080 0000ff80 00000000 00000000 00000000"  # PMCW
            "00000000 00000000 00000000"  # SCSW
            "00000000 00000000 00000000"
        )

    def test_only_what_may_be_modified_is(self, guest):
        schib = guest.schib()
        schib[0:4] = b"\x11\x22\x33\x44"
        schib[4:6] = (0x38FF & ~0x0060 | 0x0020).to_bytes(2, "big")
        schib[6:8] = b"\xff\xff"  # device number
        schib[8:12] = b"\xc0\xff\xff\xff"  # logical path mask; the rest is the subchannel's
        schib[12:16] = b"\x12\x34\x56\xff"  # measurement index, path-operational mask
        schib[16:24] = b"\xff" * 8
        schib[24:28] = b"\x00\x00\x00\x05"
        schib[28:40] = b"\xff" * 12
        schib[40:48] = (0x123440).to_bytes(8, "big")
        assert guest.css.msch(SID, bytes(schib)) == 0
        assert guest.schib() == bytes.fromhex(
            "11223344 38bd0001 c0000080 12345680 00000000 00000000 00000005"
            "00000000 00000000 00000000"
            "00000000 00123440 00000000"
        )

    @pytest.mark.parametrize(
        ("at", "value"),
        [(4, 0x80), (4, 0x40), (4, 0x04), (4, 0x02), (4, 0x01), (24, 0x80), (25, 0x10), (27, 0x08), (27, 0x02)],
    )
    def test_reserved_bits_are_an_operand_exception(self, guest, at, value):
        schib = guest.schib()
        schib[at] |= value
        operand(guest.css.msch, SID, bytes(schib))

    def test_so_are_both_limit_bits_and_a_measurement_block_off_its_boundary(self, guest):
        schib = guest.schib()
        schib[5] |= 0x60
        operand(guest.css.msch, SID, bytes(schib))
        schib = guest.schib()
        schib[27] |= 4
        schib[47] = 0x20
        operand(guest.css.msch, SID, bytes(schib))

    def test_status_pending_and_a_function_under_way_forbid_it(self, guest):
        guest.enable()
        schib = bytes(guest.schib())
        assert guest.css.csch(SID) == 0
        assert guest.css.msch(SID, schib) == 1
        guest.css.tsch(SID)
        guest.ccw(0, 0x03, 0x02, 1, DATA_AT)
        assert guest.start(control=0x0888) == 0  # suspended, and quiet about it
        assert guest.css.msch(SID, schib) == 2

    def test_the_device_hears_of_being_disabled(self, guest):
        guest.enable()
        schib = guest.schib()
        assert guest.css.msch(SID, bytes(schib)) == 0
        assert guest.device.calls == []
        schib[5] &= 0x7F
        assert guest.css.msch(SID, bytes(schib)) == 0
        assert guest.device.calls == ["disabled"]


class TestFunctions:
    def test_nothing_runs_on_a_subchannel_that_is_not_enabled(self, guest):
        assert guest.start() == 3
        for name in ("csch", "hsch", "rsch", "xsch", "tsch"):
            assert cc(getattr(guest.css, name)(SID)) == 3
        guest.subchannel.alert()
        assert not guest.interruptions.any

    @pytest.mark.parametrize("bad", [{"control": 0x0084}, {"extension": 0x40}, {"extension": 2}, {"program": 1 << 31}])
    def test_reserved_bits_of_the_orb(self, guest, bad):
        guest.enable()
        operand(guest.css.ssch, SID, guest.orb(**bad))

    def test_a_path_is_needed(self, guest):
        guest.enable()
        assert guest.start(lpm=0x7F) == 3
        assert not guest.interruptions.any
        schib = guest.schib()
        schib[8] = 0x7F
        assert guest.css.msch(SID, bytes(schib)) == 0
        assert guest.start(lpm=0xFF) == 3

    def test_a_start_function_from_beginning_to_end(self, guest):
        guest.enable(isc=5)
        guest.ccw(0, 0x02, 0x20, 32, DATA_AT)
        assert guest.start(parm=0xDEADBEEF) == 0
        it = guest.interruptions.first(0xFF000000)
        assert it == (5, SID, 0xDEADBEEF, 5 << 27)
        guest.interruptions.take(it)
        assert guest.start() == 1
        code, irb = guest.css.tsch(SID)
        assert code == 0
        assert irb[:12] == bytes.fromhex("00804007 00002008 0c000016")
        assert irb[12:] == bytes.fromhex("00800000").ljust(52, b"\0")
        assert guest.memory.read(DATA_AT, 12) == b"0123456789\0\0"
        # A driver that drains the subchannel looks at the device status of the IRB with nothing pending.
        code, irb = guest.css.tsch(SID)
        assert code == 1
        assert irb[:12] == bytes.fromhex("00800000 00002008 0c000016")
        assert guest.schib()[28:40] == irb[:12]
        assert guest.start() == 0

    def test_testing_withdraws_the_interruption(self, guest):
        guest.enable()
        guest.ccw(0, 0x03, 0x20, 1, 0)
        assert guest.start() == 0
        assert guest.interruptions.any
        assert guest.css.tsch(SID)[0] == 0
        assert not guest.interruptions.any

    def test_sense_id(self, guest):
        guest.enable()
        guest.ccw(0, 0xE4, 0x20, 256, DATA_AT)
        irb = guest.run()
        assert (irb.device, irb.status, irb.residual) == (0x0C, 0, 249)
        assert guest.memory.read(DATA_AT, 8) == bytes.fromhex("ff383202 00000000")

    def test_unit_check_and_basic_sense(self, guest):
        guest.enable()
        guest.ccw(0, 0x51, 0, 8, DATA_AT)
        irb = guest.run()
        assert (irb.control, irb.device, irb.status) == (0x4017, 0x02, 0)
        assert irb.raw[16:] == bytes(48)
        assert irb.flags == 0x0080
        guest.ccw(0, 0x04, 0, 32, DATA_AT)
        assert guest.run().device == 0x0C
        assert guest.memory.read(DATA_AT, 32) == b"\x80".ljust(32, b"\0")
        guest.run()
        assert guest.memory.read(DATA_AT, 32) == bytes(32)

    def test_concurrent_sense(self, guest):
        guest.enable(sense=True)
        guest.ccw(0, 0x51, 0, 8, DATA_AT)
        irb = guest.run()
        assert irb.flags == 0x0482
        assert irb.raw[12:32] == bytes.fromhex("00800000 01200000").ljust(20, b"\0")
        assert irb.raw[32:] == b"\x80".ljust(32, b"\0")
        guest.ccw(0, 0x04, 0, 32, DATA_AT)
        guest.run()
        assert guest.memory.read(DATA_AT, 32) == bytes(32)

    def test_halt_and_clear_of_an_idle_subchannel(self, guest):
        guest.enable()
        assert guest.css.hsch(SID) == 0
        assert guest.css.hsch(SID) == 1
        assert guest.interruptions.any
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4], irb[8:10]) == (0, b"\x20\x01", b"\x04\x00")
        assert guest.css.csch(SID) == 0
        assert guest.css.csch(SID) == 0
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4], irb[8:10]) == (0, b"\x10\x01", b"\x00\x00")
        assert guest.css.tsch(SID)[0] == 1

    def test_clear_makes_all_paths_operational(self, guest):
        guest.enable()
        schib = guest.schib()
        schib[14] = 0x80
        assert guest.css.msch(SID, bytes(schib)) == 0
        assert guest.css.csch(SID) == 0
        assert guest.schib()[14] == 0xFF

    def test_clear_takes_the_place_of_other_status(self, guest):
        guest.enable()
        guest.ccw(0, 0x51, 0, 8, DATA_AT)
        assert guest.start() == 0
        assert guest.css.csch(SID) == 0
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4]) == (0, b"\x10\x01")
        assert not guest.interruptions.any

    def test_unsolicited_status(self, guest):
        guest.enable(isc=2, parm=0x77)
        guest.ccw(0, 0x51, 0x20, 1, DATA_AT)
        guest.run(parm=0x78)
        guest.subchannel.alert()
        guest.subchannel.alert()
        assert guest.interruptions.first(0xFF000000) == (2, SID, 0x78, 2 << 27)
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4], irb[8:10]) == (0, b"\x00\x11", b"\x00\x00")
        assert guest.css.tsch(SID)[0] == 1

    def test_unsolicited_status_keeps_the_good_status_of_the_last_program(self, guest):
        guest.enable()
        guest.ccw(0, 0x03, 0x20, 1, 0)
        guest.run()
        guest.subchannel.alert()
        assert guest.css.tsch(SID)[1][8] == 0x0C

    def test_unsolicited_status_does_not_hide_that_of_a_program(self, guest):
        guest.enable()
        guest.ccw(0, 0x51, 0, 1, DATA_AT)
        assert guest.start() == 0
        guest.subchannel.alert()
        assert guest.css.tsch(SID)[1][2:4] == b"\x40\x17"

    def test_suspend_and_resume(self, guest):
        guest.enable()
        guest.ccw(0, 0x0B, 0x60, 1, 0)
        guest.ccw(1, 0x02, 0x22, 16, DATA_AT)
        assert guest.start(control=0x0880) == 0
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4], irb[4:12]) == (0, b"\x40\x29", (CCW_AT + 16).to_bytes(4, "big") + bytes(4))
        assert guest.css.tsch(SID)[0] == 1
        assert guest.start() == 2
        assert guest.css.rsch(SID) == 0  # the flag is still on: suspended again
        assert guest.css.rsch(SID) == 1
        assert guest.css.tsch(SID)[0] == 0
        guest.ccw(1, 0x02, 0x20, 16, DATA_AT)
        assert guest.css.rsch(SID) == 0
        code, irb = guest.css.tsch(SID)
        assert (code, irb[2:4], irb[8:10]) == (0, b"\x40\x07", b"\x0c\x00")
        assert guest.memory.read(DATA_AT, 10) == b"0123456789"
        assert guest.css.rsch(SID) == 2
        assert guest.device.calls == [0x0B, 0x02]

    def test_a_suspended_program_can_be_cancelled_halted_or_cleared(self, guest):
        guest.enable()
        guest.ccw(0, 0x02, 0x22, 16, DATA_AT)
        assert guest.css.xsch(SID) == 2
        assert guest.start(control=0x0888) == 0
        assert not guest.interruptions.any
        assert guest.css.xsch(SID) == 0
        assert guest.css.rsch(SID) == 2
        for name in ("hsch", "csch"):
            assert guest.start(control=0x0888) == 0
            guest.subchannel.alert()
            assert not guest.interruptions.any
            assert getattr(guest.css, name)(SID) == 0
            assert guest.css.xsch(SID) == 1
            assert guest.css.tsch(SID)[0] == 0
            assert guest.css.rsch(SID) == 2
        assert guest.device.calls == []

    def test_reset(self, guest):
        guest.enable()
        guest.ccw(0, 0x51, 0, 1, DATA_AT)
        assert guest.start() == 0
        assert guest.css.rchp(0) == 0
        guest.css.defer("key", lambda: None)
        guest.css.reset()
        assert guest.device.calls == [0x51, "reset"]
        assert not guest.interruptions.any
        assert not guest.css.report_pending
        assert not guest.css.work_left
        assert guest.css.tsch(SID)[0] == 3
        assert guest.schib()[4:6] == b"\x00\x01"


class TestTheRest:
    def test_tpi_takes_what_is_enabled(self, guest):
        guest.enable(isc=4)
        guest.css.csch(SID)
        assert guest.css.tpi(0x80000000) is None
        it = guest.css.tpi(0x08000000)
        assert (it.subsystem_id, it.word) == (SID, 4 << 27)
        assert guest.css.tpi(0xFF000000) is None
        assert guest.css.tsch(SID)[0] == 0

    def test_channel_reports(self, guest):
        assert guest.css.stcrw() == (1, 0)
        assert guest.css.rchp(1) == 3
        assert guest.css.rchp(0) == 0
        assert guest.css.report_pending
        assert guest.css.stcrw() == (0, 0x44020000)
        assert guest.css.stcrw() == (1, 0)
        for _ in range(1000):
            assert guest.css.rchp(0) == 0
        words = []
        while guest.css.report_pending:
            words.append(guest.css.stcrw()[1])
        assert len(words) == 16
        assert words[-1] == 0x64020000

    @pytest.mark.parametrize("register", [0x00000100, 0x01000000, 0x00010000])
    def test_reserved_bits_of_reset_channel_path(self, guest, register):
        operand(guest.css.rchp, register)

    def test_set_channel_monitor_and_address_limit(self, guest):
        guest.css.schm(0xF0000003, 0x1000)
        operand(guest.css.schm, 0x4, 0)
        operand(guest.css.schm, 2, 0x1008)
        guest.css.schm(1, 0x1008)
        guest.css.sal(0x7FFF0000)
        operand(guest.css.sal, 0x80000000)
        operand(guest.css.sal, 1)

    def test_deferred_work_is_done_once_and_kept_once(self, guest):
        done = []
        guest.css.defer("a", lambda: done.append("a"))
        guest.css.defer("a", lambda: done.append("again"))
        guest.css.defer("b", lambda: done.append("b"))
        assert guest.css.work_left
        guest.css.continue_work()
        assert done == ["a"]
        guest.css.continue_work()
        guest.css.continue_work()
        assert done == ["a", "b"]
        assert not guest.css.work_left


WORDS = st.sampled_from([0, SID, SID + 1, 0x00030000, 0x00090000, 0xFFFFFFFF])
STEP = st.one_of(
    st.tuples(st.sampled_from(INSTRUCTIONS), WORDS),
    st.tuples(st.just("msch"), WORDS, st.binary(min_size=52, max_size=52)),
    st.tuples(st.just("ssch"), WORDS, st.binary(min_size=12, max_size=12)),
    st.tuples(st.just("tpi"), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.sampled_from(["rchp", "sal"]), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just("enable")),
    st.tuples(st.just("alert")),
)


@given(st.lists(STEP, max_size=30), st.binary(max_size=256))
@settings(max_examples=200)
def test_whatever_a_guest_does_ends_with_a_condition_code(new_guest, steps, program):
    guest = new_guest()
    guest.memory.write(CCW_AT, program)
    for name, *arguments in steps:
        try:
            if name == "enable":
                guest.subchannel.modify(bytes.fromhex("00000000 00810001 80000080 0000ff80").ljust(52, b"\0"))
            elif name == "alert":
                guest.subchannel.alert()
            else:
                result = getattr(guest.css, name)(*arguments)
                assert name in {"sal", "tpi"} or cc(result) in {0, 1, 2, 3}
        except ProgramInterruption as interruption:
            assert interruption.code is ProgramCode.OPERAND
        status = bool(guest.schib()[31] & 1)
        assert guest.subchannel.status_pending == status
        assert status or not guest.interruptions.any
