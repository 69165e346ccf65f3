"""Guest memory: bounds, zero at first, no copies where none are wanted."""

from __future__ import annotations

import mmap
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.memory import GuestMemory

SIZE = 1 << 16
EDGES = st.sampled_from([0, 1, 2, SIZE - 2, SIZE - 1, SIZE, SIZE + 1, 1 << 31, 1 << 32, (1 << 64) - 1])
NUMBERS = EDGES | st.integers(0, SIZE) | st.integers(0, (1 << 64) - 1)


@pytest.fixture(scope="module")
def memory():
    memory = GuestMemory(SIZE)
    yield memory
    memory.close()


def addressing(call, *arguments):
    with pytest.raises(ProgramInterruption) as caught:
        call(*arguments)
    return caught.value.code is ProgramCode.ADDRESSING


def test_it_is_zero_at_first():
    fresh = GuestMemory(SIZE)
    assert bytes(fresh.view) == bytes(SIZE)
    fresh.close()


@given(address=NUMBERS, length=NUMBERS)
def test_an_access_is_possible_exactly_inside(memory, address, length):
    if address + length <= SIZE:
        memory.check(address, length)
        assert len(memory.span(address, length)) == length
        assert len(memory.read(address, length)) == length
    else:
        assert addressing(memory.check, address, length)
        assert addressing(memory.span, address, length)
        assert addressing(memory.read, address, length)


def test_a_negative_address_is_not_the_end_of_the_memory(memory):
    assert addressing(memory.check, -1, 1)
    assert addressing(memory.read, -8, 4)


@given(address=st.integers(0, SIZE - 64), data=st.binary(max_size=64))
def test_what_is_written_is_read_and_nothing_else_changes(memory, address, data):
    before = bytearray(memory.view)
    memory.write(address, data)
    before[address : address + len(data)] = data
    assert bytes(memory.view) == bytes(before)
    assert memory.read(address, len(data)) == data


def test_a_write_across_the_end_stores_nothing(memory):
    before = bytes(memory.view)
    assert addressing(memory.write, SIZE - 3, b"four")
    assert bytes(memory.view) == before


def test_a_span_is_the_memory_itself_and_a_read_is_a_copy(memory):
    memory.write(0x100, b"before")
    copy = memory.read(0x100, 6)
    with memory.span(0x100, 6) as span:
        memory.write(0x100, b"after!")
        assert bytes(span) == b"after!"
        span[0:1] = b"A"
    assert memory.read(0x100, 6) == b"After!"
    assert copy == b"before"


def test_closing_works_while_somebody_still_looks():
    memory = GuestMemory(SIZE)
    memory.write(0, b"seen")
    span = memory.span(0, 4)
    memory.close()
    assert bytes(span) == b"seen"


def test_untouched_pages_cost_the_host_nothing():
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    size = 64 << 30  # the most that a machine can have, more than most hosts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = GuestMemory(size)
    memory.write(size - 1, b"x")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    memory.close()
    assert grown * unit < 64 << 20


def test_a_host_without_room_is_said_in_one_line(monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(UsageError, match="--memory: the host has no room for a guest of 64 MiB") as caught:
        GuestMemory(64 << 20)
    assert "\n" not in str(caught.value)
