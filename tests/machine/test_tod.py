"""TOD clock, clock comparator, CPU timer, PTFF; the host's clock is a number that the tests set."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.interruption import ProgramInterruption
from sipl.machine.tod import CpuTimer, TodClock, perform_timing_function, tod_from_unix

MICROSECOND = 4096
START = 0xDD00_0000_0000_0000
ALL_ONES = (1 << 64) - 1


class Host:
    def __init__(self):
        self.nanoseconds = 5_000

    def __call__(self):
        return self.nanoseconds


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def clock(host):
    return TodClock(host, START, 1)


def test_the_clock_began_in_1900():
    assert tod_from_unix(0) == 0x7D91_048B_CA00_0000
    now = datetime(2026, 6, 1, 12, 30, 15, 250, tzinfo=UTC)
    microseconds = (now - datetime(1900, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert tod_from_unix(int(now.timestamp() * 1_000_000) * 1000) == microseconds << 12
    assert tod_from_unix(1000) - tod_from_unix(0) == MICROSECOND


@pytest.mark.parametrize(("scale", "factor"), [(1, 4), (0.25, 1), (0.5, 2), (2, 8)])
def test_it_runs_at_a_fraction_of_real_time(host, scale, factor):
    clock = TodClock(host, START, scale)
    assert clock.now() == START
    host.nanoseconds += 4_000_000
    assert clock.now() == START + factor * 1000 * MICROSECOND
    assert clock.nanoseconds(factor * 1000 * MICROSECOND) == 4_000_000


def test_a_quarter_is_what_it_runs_at(host):
    clock = TodClock(host, START)
    host.nanoseconds += 4000
    assert clock.now() == START + MICROSECOND


def test_no_nanosecond_is_lost(host):
    clock = TodClock(host, START, 0.25)
    for _ in range(1000):
        host.nanoseconds += 1
        clock.now()
    assert clock.now() == START + MICROSECOND // 4


@given(st.lists(st.sampled_from([0, 0, 1, 5, 10_000_000]), min_size=1, max_size=50), st.data())
def test_stored_values_are_unique_and_rise(steps, data):
    host = Host()
    clock = TodClock(host, START, 0.25)
    last = START - 1
    for step in steps:
        host.nanoseconds += step
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            stored = clock.store()
            assert stored > last
            last = stored
        elif kind == 1:
            assert clock.store_fast() >= last
        else:
            stored = int.from_bytes(clock.store_extended()[1:9], "big")
            assert stored > last
            last = stored
        assert clock.now() >= START


def test_stcke(clock):
    first = clock.store_extended(0x12345)
    assert first == struct.pack(">BQ4xBH", 0, START, 1, 0x2345)
    assert clock.store_extended() > first


def test_sck(host, clock):
    timer = CpuTimer(clock)
    timer.set(1000)
    clock.set(0x1234)
    assert (clock.now(), clock.store(), timer.store()) == (0x1234, 0x1234, 1000)
    host.nanoseconds += 1000
    assert clock.now() == 0x1234 + MICROSECOND
    clock.set(ALL_ONES + 1 + 7)
    assert clock.now() == 7
    clock.set(5)
    assert clock.store() == 5, "the clock was set back: older values may come again"


def test_the_clock_wraps(host, clock):
    clock.set(ALL_ONES)
    assert clock.now() == ALL_ONES
    assert clock.store() == ALL_ONES
    assert clock.store() == 0
    host.nanoseconds += 1000
    assert clock.now() == MICROSECOND - 1
    assert clock.store_extended()[0] == 0


# Clock comparator


def test_a_comparator_is_pending_when_the_clock_is_beyond_it(host, clock):
    assert clock.comparator_pending(START - 1)
    assert not clock.comparator_pending(START)
    assert clock.units_until(START) == 1
    host.nanoseconds += 1
    assert clock.comparator_pending(START)
    assert clock.units_until(START) == 0


def test_a_jump_makes_it_pending(host, clock):
    comparator = START + 10 * MICROSECOND
    timer = CpuTimer(clock)
    timer.set(11 * MICROSECOND)
    assert clock.jump_to(comparator) == 10 * MICROSECOND + 1
    assert clock.now() == comparator + 1
    assert clock.comparator_pending(comparator)
    assert timer.store() == MICROSECOND - 1, "the CPU timer runs on in the wait"
    assert clock.jump_to(comparator) == 0
    assert clock.jump_to(START) == 0
    assert clock.now() == comparator + 1
    host.nanoseconds += 1000
    assert clock.now() == comparator + 1 + MICROSECOND


def test_nothing_is_beyond_all_ones(clock):
    assert clock.units_until(ALL_ONES) is None
    assert clock.jump_to(ALL_ONES) == 0
    assert clock.now() == START
    assert not clock.comparator_pending(ALL_ONES)


def test_real_time_of_a_wait_is_rounded_up(host):
    clock = TodClock(host, START, 0.25)
    comparator = START + 12345
    host.nanoseconds += clock.nanoseconds(clock.units_until(comparator))
    assert clock.comparator_pending(comparator)
    assert clock.nanoseconds(0) == 0


def test_skip_goes_forward_only(clock):
    assert clock.skip(-5) == 0
    assert clock.skip(5) == 5
    assert clock.now() == START + 5


# CPU timer


def test_the_cpu_timer_counts_down(host, clock):
    timer = CpuTimer(clock)
    assert (timer.store(), timer.pending) == (0, False)
    timer.set(2 * MICROSECOND)
    assert timer.units_until_pending() == 2 * MICROSECOND + 1
    host.nanoseconds += 2000
    assert (timer.store(), timer.pending, timer.units_until_pending()) == (0, False, 1)
    host.nanoseconds += 1000
    assert (timer.store(), timer.pending, timer.units_until_pending()) == ((1 << 64) - MICROSECOND, True, 0)
    timer.set(ALL_ONES)
    assert (timer.store(), timer.pending) == (ALL_ONES, True)
    timer.set((1 << 63) - 1)
    assert not timer.pending


@given(st.integers(0, ALL_ONES), st.integers(0, ALL_ONES))
def test_the_cpu_timer_is_a_signed_word(value, units):
    clock = TodClock(Host(), START, 1)
    timer = CpuTimer(clock)
    timer.set(value)
    clock.skip(units)
    expected = (value - units) % (1 << 64)
    assert timer.store() == expected
    assert timer.pending == (expected >= 1 << 63)
    clock.skip(timer.units_until_pending())
    assert timer.pending


# PTFF


def test_ptff_queries(clock):
    assert perform_timing_function(clock, 0) == (0, bytes.fromhex("d0").ljust(16, b"\0"))
    assert perform_timing_function(clock, 0xFFFF_FFFF_FFFF_FF01) == (0, struct.pack(">Q24x", START))
    assert perform_timing_function(clock, 3) == (0, struct.pack(">Q", START))


def test_ptff_answers_what_it_says_that_it_answers(clock):
    mask = int.from_bytes(perform_timing_function(clock, 0).block, "big")
    for function in range(128):
        assert (perform_timing_function(clock, function).condition_code == 0) == bool(mask >> (127 - function) & 1)


def test_ptff_refuses_the_rest(clock):
    assert perform_timing_function(clock, 0x41) == (3, b"")
    with pytest.raises(ProgramInterruption, match="specification"):
        perform_timing_function(clock, 0x80)
